-- uses: base gate ramp call server
-- One tick of the dispatcher: takes what is due, releases what the gates allow, feeds Celery, forgets the expired.
-- ARGV a: batch (how many due calls at most), room (how many messages Celery's queue still takes), republish,
--   look_up_timeout, look_up_interval, backlog_check, retention, dialer (the service of all calls), services {name:
--   {policy, rate, max_rate}}
-- Returns {place: [ids], look_up: [ids], more: 1 when a full batch was due}.
-- Invariant: what is handed out here comes back by its deadline unless somebody moves it on.
local look_up = {}

-- Each gate is read once a tick; what this tick writes to it is in it.
local gates = {}
local function gate(service)
  gates[service] = gates[service] or gate_load(service)
  return gates[service]
end

-- While a service is known to be sick, look-ups are probes: one an interval for all of its calls.
local function may_look(c)
  local g = gate(c.service)
  if gate_is_well(g) then return true end
  if num(g.looked_at) + a.look_up_interval > now then return false end
  gate_write(g, a.services[c.service].policy, {looked_at = now})
  return true
end

local function look(c)
  if may_look(c) then
    redis.call('ZADD', key('due'), int(now + a.look_up_timeout), c.id)
    look_up[#look_up + 1] = c.id
  else
    redis.call('ZADD', key('due'), int(now + a.look_up_interval), c.id)
  end
end

local function load(id)
  local c, fault = call_read(id)
  if fault then call_set_aside(c, id, fault, a.dialer) end
  return c
end

local function take_due(id)
  local c = load(id)
  if not c or TERMINAL[c.state] then
    redis.call('ZREM', key('due'), id)
  elseif c.state == 'queued' or c.state == 'retrying' then
    call_wait(c)
  elseif c.state == 'dialing' then
    local reason = 'the worker did not report in time'
    local g = gate(c.service)
    local probe = not gate_is_well(g) and 1 or nil
    gate_report(g, a.services[c.service].policy,
      {gen = num(c.gen), token = c.owner, source = c.id, outcome = 'failure', reason = reason})
    -- A late report of its owner may still end the doubt.
    call_move(c, 'in_doubt', 'call_in_doubt', {owner = false, lost_owner = c.owner, reason = reason, probe = probe},
      {attempt_id = attempt_id(c), reason = reason, breaker_state = g.state}, now)
    look(c)
  elseif c.state == 'in_doubt' then
    look(c)
  elseif c.state == 'deferred' then
    call_defer(c)
  end
end

-- How many calls may go now: by the recovery ramp, or to a half-open gate as many as it has permits.
local function allowance(g, s)
  if gate_wait(g, s.policy) ~= 0 then return 0 end
  if g.state ~= 'closed' then
    return s.policy.half_open_calls - redis.call('ZCOUNT', g.leases, '(' .. int(now), '+inf')
  end
  local rate = ramp(g, s)
  -- A rate below one a second has to save up for a whole call.
  return math.floor(rate * math.min(math.max(1000, 1000 / rate), now - num(g.released_at)) / 1000 + 1e-9)
end

local function release(service, s)
  local deferred, g = key('deferred', service), gate(service)
  if g.state == 'closed' and num(g.ramp_at) < ramp_start(g) and ramp_start(g) <= now then
    gate_write(g, s.policy, {ramp_at = now})
  end
  if redis.call('EXISTS', deferred) == 0 then return end
  local n = allowance(g, s)
  -- A released call may still be on its way to the gate; a second one would only be deferred again.
  if n < 1 or (g.state ~= 'closed' and now - num(g.released_at) < 1000) then return end
  gate_write(g, s.policy, {released_at = now})
  for _, id in ipairs(redis.call('ZRANGE', deferred, 0, n - 1)) do
    local c = load(id)
    redis.call('ZREM', deferred, id)
    if c and c.state == 'deferred' then
      call_move(c, 'queued', 'call_released', {reason = false, released = 1}, {breaker_state = g.state})
    end
  end
end

local function feed()
  local place = {}
  if a.room < 1 then return place end
  for _, id in ipairs(redis.call('ZRANGE', key('backlog'), 0, a.room - 1)) do
    redis.call('ZREM', key('backlog'), id)
    redis.call('ZADD', key('due'), 'XX', int(now + a.republish), id)
    place[#place + 1] = id
  end
  return place
end

local function forget_expired()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('calls'), '-inf', int(now), 'LIMIT', 0, a.batch)) do
    local state = redis.pcall('HGET', key('call', id), 'state')
    if STATES[state] then redis.call('HINCRBY', key('stats'), state, -1) end
    redis.call('DEL', key('call', id), key('history', id))
    redis.call('ZREM', key('calls'), id)
  end
end

let_through()
forget_expired() -- first: it frees memory
local server = server_load() -- a restart is seen at once, and not by the first call after it
local due = redis.call('ZRANGEBYSCORE', key('due'), '-inf', int(now), 'LIMIT', 0, a.batch)
for _, id in ipairs(due) do take_due(id) end
for service, s in pairs(a.services) do release(service, s) end
local place = feed()
redis.call('SET', key('dispatched'), int(now), 'PX', int(a.backlog_check))
server.write({})
return cjson.encode({place = #place > 0 and place or nil, look_up = #look_up > 0 and look_up or nil,
  more = #due == a.batch and 1 or 0})
