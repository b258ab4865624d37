-- uses: base gate
-- Asks the gate for one request.
-- ARGV a: service, token, lease, policy
-- Returns {admitted: 1 | 0, state, gen, retry_after (ms, absent where waiting does not help), reason}.
-- Invariant: half open, at most half_open_calls leases are alive at any time.
local g = gate_load(a.service)
local admitted, wait = gate_admit(g, a.policy, a.token, a.lease)
return cjson.encode({admitted = admitted and 1 or 0, state = g.state, gen = num(g.gen), retry_after = wait,
  reason = g.reason})
