-- uses: base gate
-- Reads the gates of several services. Writes nothing.
-- ARGV a: services {name: policy}
-- Returns {name: {state, gen, retry_after (ms), reason, by, since, health, health_reason, paused, deferred}}.
-- Invariant: `retry_after` is the wait that gate_admit would answer now.
local views = {}
for service, policy in pairs(a.services) do
  local g = gate_load(service)
  views[service] = {state = g.state, gen = num(g.gen), retry_after = gate_wait(g, policy), reason = g.reason, by = g.by,
    since = num(g.since), health = g.health or 'unknown', health_reason = g.health_reason,
    paused = num(g.paused) > now and num(g.paused) - now or 0, deferred = redis.call('ZCARD', key('deferred', service))}
end
return cjson.encode(views)
