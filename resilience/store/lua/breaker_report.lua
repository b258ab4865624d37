-- uses: base gate
-- Reports the outcome of one admitted request.
-- ARGV a: service, policy, report (see gate_report)
-- Returns {counted: 1 | 0, state}; 0 is a report of an older generation, or one that was counted before.
-- Invariant: a report changes only the generation that admitted it, and once, though a closed gate keeps no permits.
local g = gate_load(a.service)
local reported = key('cb', a.service, 'reported', a.report.token, int(a.report.gen))
local counted = redis.call('EXISTS', reported) == 0 and gate_report(g, a.policy, a.report)
if counted then redis.call('SET', reported, 1, 'PX', int(a.policy.window)) end
return cjson.encode({counted = counted and 1 or 0, state = g.state})
