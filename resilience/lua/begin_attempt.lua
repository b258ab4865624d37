-- uses: base gate call
-- Claims a call for one attempt, asks the gate, counts the attempt and sets its lease: all or nothing.
-- ARGV a: id, owner (one per run of a task), service, lease, policy, backlog_check, retention;
--   optionally contact (as in enqueue: creates the call where it is unknown), early_ok (eager mode has no time)
-- Returns {answer: go | deferred | duplicate | early | unknown, state, breaker_state, ...}.
-- Invariant: only queued and retrying calls are claimed, by one owner; a refused call used no attempt.
local c = call_load(a.id)
if not c and a.contact then c = call_create(a.contact, a.service) end
if not c then return cjson.encode({answer = 'unknown'}) end

local function go(g)
  return cjson.encode({answer = 'go', attempt_id = attempt_id(c), attempts = num(c.attempts), phone = c.phone,
    name = c.name, fields = c.fields, contact_id = c.contact_id, campaign = c.campaign, gen = num(c.gen),
    breaker_state = g.state, first_dial = num(c.first_dial), look_first = num(c.dials) > 1})
end

local g = gate_load(c.service)
if c.state == 'dialing' and c.owner == a.owner then return go(g) end
if c.state ~= 'queued' and c.state ~= 'retrying' then
  return cjson.encode({answer = 'duplicate', state = c.state, attempts = num(c.attempts), breaker_state = g.state})
end
if num(c.not_before) > now and not a.early_ok then
  redis.call('ZADD', key('due'), c.not_before, c.id)
  return cjson.encode({answer = 'early', state = c.state, attempts = num(c.attempts), breaker_state = g.state})
end

local admitted, wait = gate_admit(g, a.policy, a.owner, a.lease)
if not admitted then
  local reason = g.reason
  if not reason and num(g.paused) > now then reason = 'throttled' end
  call_move(c, 'deferred', now + a.backlog_check, 'call_deferred', {reason = reason or g.state},
    {reason = reason or g.state, breaker_state = g.state})
  redis.call('ZADD', key('deferred', c.service), c.created, c.id)
  return cjson.encode({answer = 'deferred', state = 'deferred', breaker_state = g.state, retry_after = wait,
    reason = reason, attempts = num(c.attempts)})
end

local lease_end = now + a.lease
call_move(c, 'dialing', lease_end, 'call_dialing',
  {owner = a.owner, attempts = num(c.attempts) + 1, dials = num(c.dials) + 1, gen = num(g.gen), not_before = false,
    first_dial = c.first_dial or now, reason = false, category = false},
  {attempt_id = c.id .. ':' .. int(num(c.dials) + 1), breaker_state = g.state})
return go(g)
