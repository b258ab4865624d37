-- uses: base delivery
-- Gives a claimed delivery back, to be tried again.
-- ARGV a: id, channel, owner, reason, delay (ms), unclear (this try may have arrived)
-- Returns 1, or 0 where another had taken the delivery over.
let_through()
local d = delivery_load()
if d.owner ~= a.owner then return cjson.encode(0) end
d.owner, d['until'], d.at, d.reason, d.unclear = '', 0, now / 1000, a.reason, d.unclear or a.unclear
delivery_save(d)
redis.call('ZADD', due, 'XX', seconds(now + a.delay), member)
return cjson.encode(1)
