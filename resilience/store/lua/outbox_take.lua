-- uses: base
-- Takes the members of an outbox that are due, oldest first.
-- ARGV a: outbox, again (ms), most
-- Returns a JSON list of members.
-- Invariant: what is taken comes due again after `again`, unless it is done by then.
let_through()
local due = key(a.outbox, 'due')
local members = redis.call('ZRANGEBYSCORE', due, '-inf', seconds(now), 'LIMIT', 0, a.most)
for _, member in ipairs(members) do redis.call('ZADD', due, 'XX', seconds(now + a.again), member) end
return #members > 0 and cjson.encode(members) or '[]'
