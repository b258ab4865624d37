-- uses: base gate call
-- Ends an attempt: reports to the gate, moves the call, sets the next deadline.
-- ARGV a: id, owner, policy, report (see gate_report; gen and token are filled in here), to (placed retrying failed
--   in_doubt deferred queued), event, delay (ms; retrying: until the next attempt, in_doubt: until the look-up),
--   grace (ms after which a lost message is sent again), dialed (false: nothing was sent, the attempt number is free
--   again), used (false: the attempt does not count), backlog_check, retention;
--   optionally reason, category, code, conversation_id
-- Returns {answer: done | repeated | stale, state, breaker_state, attempts}.
-- Invariant: only the owner of the running attempt moves the call, once. A stale report changes nothing.
let_through()
local c = call_load(a.id)
if not c then return cjson.encode({answer = 'stale', state = 'unknown'}) end
local g = gate_load(c.service)

local function answer(what)
  return cjson.encode({answer = what, state = c.state, breaker_state = g.state, attempts = num(c.attempts)})
end

if c.finished == a.owner then return answer('repeated') end
if c.state ~= 'dialing' or c.owner ~= a.owner then return answer('stale') end

a.report.gen, a.report.token = num(c.gen), a.owner
gate_report(g, a.policy, a.report)

local id = attempt_id(c)
local changes = {owner = false, gen = false, finished = a.owner, reason = a.reason or false,
  category = a.category or false}
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
end
call_move(c, a.to, a.event, changes, {attempt_id = id, reason = a.reason, category = a.category, code = a.code,
  conversation_id = a.conversation_id, breaker_state = g.state, next_at = changes.not_before}, due)
return answer('done')
