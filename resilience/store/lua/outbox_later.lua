-- uses: base
-- Puts off one member of an outbox.
-- ARGV a: outbox, member, delay (ms)
-- Returns 1 where it is in the outbox, else 0.
-- Invariant: a member that is done does not come back.
let_through()
local due = key(a.outbox, 'due')
redis.call('ZADD', due, 'XX', seconds(now + a.delay), a.member)
return cjson.encode(redis.call('ZSCORE', due, a.member) and 1 or 0)
