-- uses: base gate ramp call server
-- Claims a call for one attempt, asks the gate, counts the attempt and sets its lease: all or nothing.
-- ARGV a: id, owner (one per run of a task), service, lease, policy, release {rate, max_rate}, backlog_check,
--   retention, installation (the store's id, if it has none yet); optionally contact (as in enqueue: creates the call
--   where it is unknown), early_ok (eager mode has no time)
-- Returns {answer: go | deferred | duplicate | early | unknown | no_memory, state, breaker_state, ...}.
-- Invariant: only queued and retrying calls are claimed, by one owner; a refused call used no attempt. A store that
-- went back in time, or lost its data, may have forgotten a dial: an older call is claimed only when the lease of such
-- a dial is over, and must be looked up. So must a call that an operator retries after look-ups without an answer.
local AGAIN = 3600000 -- ms within which a list whose acceptance was forgotten is sent again

local c = call_load(a.id)
if c then
  let_through()
elseif not a.contact then
  return cjson.encode({answer = 'unknown'})
elseif is_full() then
  return refuse_full()
else
  c = call_create(a.contact, a.service)
end
local server = server_load()

local function go(g)
  return cjson.encode({answer = 'go', attempt_id = attempt_id(c), attempts = num(c.attempts), phone = c.phone,
    name = c.name, fields = c.fields, contact_id = c.contact_id, campaign = c.campaign, gen = num(c.gen),
    breaker_state = g.state, installation = installation(server), look_first = num(c.dials) > 1,
    must_look = c.must_look ~= nil, foreign_known = c.foreign ~= nil})
end

local g = gate_load(c.service)

local function early(at)
  redis.call('ZREM', key('backlog'), c.id)
  redis.call('ZADD', key('due'), at, c.id)
  return cjson.encode({answer = 'early', state = c.state, attempts = num(c.attempts), breaker_state = g.state})
end

if c.state == 'dialing' and c.owner == a.owner then return go(g) end
if c.state ~= 'queued' and c.state ~= 'retrying' then
  return cjson.encode({answer = 'duplicate', state = c.state, attempts = num(c.attempts), breaker_state = g.state})
end
if num(c.not_before) > now and not a.early_ok then
  return early(c.not_before)
end

if not has_memory() then
  return cjson.encode({answer = 'no_memory', state = c.state, attempts = num(c.attempts), breaker_state = g.state})
end
local back, lost = num(server.went_back_at), num(server.lost_at)
if num(c.created) > back + AGAIN then back = 0 end
if num(c.created) <= lost + a.retention then back = math.max(back, lost) end
local forgotten = back > 0 and (num(c.first_dial) <= back or c.must_look)
if forgotten and back + a.lease > now then
  write(c.key, c, {not_before = back + a.lease, reason = 'Redis restarted: a dial that it forgot may be running'})
  return early(c.not_before)
end

-- During the ramp only what the dispatcher has released may go: not the backlog, nor a retry or a message of another's.
local function ramps()
  if g.state ~= 'closed' or c.released or a.early_ok or gate_wait(g, a.policy) ~= 0 then return false end
  local _, over = ramp(g, a.release)
  return not over
end

local admitted, wait, reason = not ramps(), 1000, 'the service has just recovered'
if admitted then
  admitted, wait = gate_admit(g, a.policy, a.owner, a.lease)
  reason = g.reason
  if not reason and num(g.paused) > now then reason = 'throttled' end
end
if not admitted then
  call_move(c, 'deferred', 'call_deferred', {reason = reason or g.state, released = false},
    {reason = reason or g.state, breaker_state = g.state})
  return cjson.encode({answer = 'deferred', state = 'deferred', breaker_state = g.state, retry_after = wait,
    reason = reason, attempts = num(c.attempts)})
end

call_move(c, 'dialing', 'call_dialing',
  {owner = a.owner, attempts = num(c.attempts) + 1, dials = num(c.dials) + 1, gen = num(g.gen), not_before = false,
    first_dial = c.first_dial or now, must_look = (forgotten or c.doubtful) and 1 or false, reason = false,
    category = false, released = false, probe = false, lost_owner = false},
  {attempt_id = c.id .. ':' .. int(num(c.dials) + 1), breaker_state = g.state}, now + a.lease)
return go(g)
