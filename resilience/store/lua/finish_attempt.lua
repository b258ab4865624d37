-- uses: base gate call
-- Ends an attempt: reports to the gate, moves the call, sets the next deadline.
-- ARGV a: id, owner, policy, report (see gate_report; gen, token, source are set here), to (placed retrying failed
--   in_doubt deferred queued; needs_review: another installation has called), event, delay (ms; retrying: until the
--   next attempt, in_doubt: until the look-up), grace (ms after which a lost message is sent again), dialed (false:
--   nothing was sent, the attempt number is free again), used (false: the attempt does not count), service_fault (true: a
--   failure of the service, not of this call), backlog_check, retention; optionally reason, category, code,
--   conversation_id
-- Returns {answer: done | repeated | stale, state, breaker_state, attempts}.
-- Invariant: only the owner of the running attempt moves the call, once. A stale report changes nothing, except that the
-- owner of the last attempt may still report that it was placed: that ends its own doubt. An attempt is used up by an
-- answer about this call: what fails for the sake of a service that is known to be sick uses up nothing.
let_through()
local c = call_load(a.id)
if not c then return cjson.encode({answer = 'stale', state = 'unknown'}) end
local g = gate_load(c.service)

local function answer(what)
  return cjson.encode({answer = what, state = c.state, breaker_state = g.state, attempts = num(c.attempts)})
end

if c.finished == a.owner then return answer('repeated') end
if c.lost_owner == a.owner and a.to == 'placed' then
  if TERMINAL[c.state] then
    if c.state == 'placed' or c.conversation_id then return answer('stale') end
    -- Nothing leaves a terminal state, but an operator has to see this, and a later `retry` has to look first.
    write(c.key, c, {conversation_id = a.conversation_id, doubtful = 1})
    remember(c, 'call_rang_late', {attempt_id = attempt_id(c), conversation_id = a.conversation_id, state = c.state,
      service = c.service})
    return answer('stale')
  end
  call_move(c, 'placed', 'call_placed', {lost_owner = false, finished = a.owner, conversation_id = a.conversation_id,
    reason = false}, {attempt_id = attempt_id(c), conversation_id = a.conversation_id, breaker_state = g.state})
  return answer('done')
end
if c.state ~= 'dialing' or c.owner ~= a.owner then return answer('stale') end

local well = gate_is_well(g)
a.report.gen, a.report.token, a.report.source = num(c.gen), a.owner, c.id
gate_report(g, a.policy, a.report)

local id = attempt_id(c)
local changes = {owner = false, gen = false, finished = a.owner, reason = a.reason or false,
  category = a.category or false}
if a.service_fault and not well then
  if a.to == 'in_doubt' then
    changes.probe = 1 -- once it proves absent, its attempt is given back
  else
    -- Behind the others: the next probe may be another contact.
    a.to, a.event, a.used, changes.seq = 'deferred', 'call_deferred', false, next_seq()
  end
end
if not a.used then changes.attempts = num(c.attempts) - 1 end
-- Before a doubtful call is dialed, a look-up has worked and found nothing.
if a.dialed then changes.doubtful = false end
if not a.dialed then
  changes.dials = num(c.dials) - 1
  if changes.dials == 0 then changes.first_dial = false end
end
local due
if a.to == 'retrying' then
  changes.not_before = now + a.delay
  due = changes.not_before + a.grace
elseif a.to == 'in_doubt' then
  changes.not_before = now + a.delay
  due = changes.not_before
elseif a.to == 'placed' then
  changes.conversation_id = a.conversation_id
elseif a.to == 'needs_review' then
  changes.foreign = 1 -- an operator's `retry` dials in spite of it
end
call_move(c, a.to, a.event, changes, {attempt_id = id, reason = a.reason, category = a.category, code = a.code,
  conversation_id = a.conversation_id, breaker_state = g.state, next_at = changes.not_before}, due)
return answer('done')
