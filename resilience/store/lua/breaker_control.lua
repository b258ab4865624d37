-- uses: base gate
-- Moves a gate by hand, for the whole fleet.
-- ARGV a: service, policy, action (open close hold release), by, optionally reason, wait (ms; hold: until it ends
--   by itself, open: instead of the recovery timeout)
-- Returns {changed: 1 | 0, state}; 0: release of a gate that is not held, close of one that is closed.
-- Invariant: each move is one generation and one event.
local g = gate_load(a.service)
local changed = 1
if a.action == 'hold' then
  gate_hold(g, a.policy, a.reason or 'held by hand', a.by, a.wait)
elseif a.action == 'open' then
  gate_move(g, a.policy, 'open', 'breaker_opened', {['until'] = now + (a.wait or a.policy.recovery),
    opens = num(g.opens) + 1, reason = a.reason or 'opened by hand', by = a.by})
elseif a.action == 'release' and g.state == 'held' then
  gate_move(g, a.policy, 'half_open', 'service_released', {['until'] = false, by = a.by})
elseif a.action == 'close' and (g.state ~= 'closed' or num(g.paused) > now) then
  gate_write(g, a.policy, {paused = false})
  gate_move(g, a.policy, 'closed', 'breaker_closed', {})
else
  changed = 0
end
return cjson.encode({changed = changed, state = g.state})
