-- uses: base gate
-- Takes the result of one health check.
-- ARGV a: service, policy, good (1 | 0), rise, fall, optionally reason
-- Returns {health: up | down | unknown, changed: 1 | 0, state}.
-- Invariant: `fall` bad checks in a row mean down and open the gate; `rise` good ones in a row mean up and make an
-- open gate half open at once. A gate held because of the service's own answer is released by `rise` good checks
-- that follow a bad one; a gate held by hand is not. Where no call waits to be the probe, 2 x `rise` good checks
-- in a row take its place: they make an open gate half open once its time is over, and close a half-open one.
local g = gate_load(a.service)
local good = a.good == 1 and num(g.h_good) + 1 or 0
local bad = a.good == 1 and 0 or num(g.h_bad) + 1
local changes = {h_good = good, h_bad = bad, health_at = now, health_reason = a.reason or false,
  health = g.health or (good == 1 and 'up' or false)}
if bad > 0 and g.state == 'held' then changes.bad_since_hold = 1 end
local turn
if good >= a.rise and g.health == 'down' then turn = 'up' end
if bad >= a.fall and g.health ~= 'down' then turn = 'down' end
if turn then changes.health, changes.health_since = turn, now end
gate_write(g, a.policy, changes)

if turn then
  emit('health_' .. turn, {service = g.service, reason = a.reason, breaker_state = g.state})
end
if turn == 'down' and (g.state == 'closed' or g.state == 'half_open') then
  gate_open(g, a.policy, 'health check: ' .. (a.reason or 'no answer'), 'health')
elseif turn == 'up' and g.state == 'open' then
  gate_move(g, a.policy, 'half_open', 'breaker_half_open', {['until'] = false})
elseif good >= a.rise and g.state == 'held' and g.by == 'breaker' and g.bad_since_hold then
  gate_move(g, a.policy, 'half_open', 'service_released', {['until'] = false, by = 'health'})
elseif good >= 2 * a.rise and redis.call('EXISTS', key('deferred', a.service)) == 0 then
  if g.state == 'open' and gate_wait(g, a.policy) == 0 then
    gate_move(g, a.policy, 'half_open', 'breaker_half_open', {['until'] = false})
  elseif g.state == 'half_open' and redis.call('ZCOUNT', g.leases, '(' .. int(now), '+inf') == 0 then
    gate_move(g, a.policy, 'closed', 'breaker_closed', {})
  end
end
return cjson.encode({health = g.health or 'unknown', changed = turn and 1 or 0, state = g.state})
