-- uses: base gate call
-- Takes the result of one look-up of a call in doubt.
-- ARGV a: id, look (the number of look-ups so far, as read before looking), result (found absent error foreign),
--   conversation_id, conversations (how many were found), polls, interval, give_up (counted in intervals, so that
--   an outage of our own uses up none of it), doubt_after, max_attempts, delay, policy, retention; optionally reason (of
--   an error), report (see gate_report: a look-up that was refused for good)
-- Returns {answer: done | stale, state}.
-- Invariant: a look-up counts once, and not before its time (of a message that was doubled, the second finds nothing
-- new). An error proves nothing, and uses up nothing while the service is known to be sick. Only `polls` look-ups that
-- worked and found nothing make the call absent.
let_through()
local c = call_load(a.id)
if not c then return cjson.encode({answer = 'stale', state = 'unknown'}) end
if c.state ~= 'in_doubt' or tonumber(c.looks) ~= a.look then
  return cjson.encode({answer = 'stale', state = c.state})
end
if a.result ~= 'found' and now < tonumber(c.not_before or 0) then
  return cjson.encode({answer = 'stale', state = c.state})
end
local g = gate_load(c.service)
local well = gate_is_well(g)
if a.report and g.state == 'closed' then
  a.report.gen, a.report.token = num(g.gen), ''
  gate_report(g, a.policy, a.report)
  well = gate_is_well(g)
end
local looks = a.look + 1
local absent = tonumber(c.absent) + (a.result == 'absent' and 1 or 0)
local errors = tonumber(c.errors or 0) + (a.result == 'error' and well and 1 or 0)
local fields = {attempt_id = attempt_id(c), reason = a.reason, category = c.category}

if a.result == 'found' then
  fields.conversation_id, fields.conversations = a.conversation_id, a.conversations
  call_move(c, 'placed', 'call_placed', {conversation_id = a.conversation_id, looks = looks, reason = false,
    conversations = a.conversations}, fields)
  if a.conversations > 1 then
    remember(c, 'call_rang_twice', {conversation_id = a.found, conversations = a.conversations, service = c.service})
  end
elseif a.result == 'foreign' then
  call_move(c, 'needs_review', 'call_needs_review', {reason = a.reason, looks = looks, foreign = 1}, fields)
elseif absent >= a.polls then
  local reason = 'looked up ' .. int(absent) .. ' times, never rang'
  fields.reason = reason
  local attempts = tonumber(c.attempts) - (c.probe and 1 or 0)
  if c.category == 'permanent' or attempts >= a.max_attempts then
    call_move(c, 'failed', 'call_failed', {reason = (c.reason or '') .. '; ' .. reason, looks = looks}, fields)
  else
    call_move(c, 'retrying', 'call_retrying', {not_before = now + a.delay, reason = reason, looks = looks,
      attempts = attempts, probe = false}, fields,
      now + a.delay)
  end
elseif (absent + errors) * a.interval >= a.give_up then
  fields.reason = 'the look-ups did not get an answer'
  call_move(c, 'needs_review', 'call_needs_review', {reason = fields.reason, looks = looks}, fields)
else
  write(c.key, c, {looks = looks, absent = absent, errors = errors, not_before = now + a.interval})
  redis.call('ZADD', key('due'), c.not_before, c.id)
  remember(c, 'call_looked_up', {attempt_id = attempt_id(c), result = a.result, reason = a.reason, service = c.service})
  if now - tonumber(c.doubt_since) >= a.doubt_after and not c.doubt_reported then
    write(c.key, c, {doubt_reported = 1})
    remember(c, 'call_doubt_long', {attempt_id = attempt_id(c), reason = a.reason or c.reason, service = c.service,
      doubt_since = c.doubt_since})
  end
end
return cjson.encode({answer = 'done', state = c.state})
