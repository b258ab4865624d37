-- uses: base delivery
-- Claims one delivery of an alert.
-- ARGV a: id, channel, owner, lease (ms), in_order (ms until the order of alerts is checked again)
-- Returns {claimed: 1 | 0, alert (JSON), attempt, unclear}.
-- Invariant: one owner at a time, and no alert before those that it follows. A claim that ran out is taken over, and
-- the delivery is unclear from then on.
let_through()
local d = delivery_load()
local other = d.owner ~= '' and d.owner ~= a.owner
local refused = cjson.encode({claimed = 0})
if not redis.call('ZSCORE', due, member) or (other and d['until'] * 1000 > now) then return refused end

local text = redis.call('HGET', alert, 'alert')
if not text then
  redis.call('ZREM', due, member)
  return refused
end
for _, earlier in ipairs(cjson.decode(text).follows) do
  if redis.call('ZSCORE', due, earlier .. '|' .. a.channel) then
    redis.call('ZADD', due, seconds(now + a.in_order), member)
    return refused
  end
end
if d.owner ~= a.owner then d.attempts = d.attempts + 1 end
d.owner, d['until'], d.unclear = a.owner, (now + a.lease) / 1000, d.unclear or other
delivery_save(d)
redis.call('ZADD', due, seconds(now + a.lease), member)
return cjson.encode({claimed = 1, alert = text, attempt = d.attempts, unclear = d.unclear})
