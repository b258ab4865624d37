-- uses: base delivery
-- Ends a claimed delivery.
-- ARGV a: id, channel, owner, outcome (sent failed), reason, kept (ms), optionally off (ms for which the channel is
--   switched off), report (a failure is reported through the other channels)
-- Returns 1, or 0 where another had taken the delivery over.
-- Invariant: a delivery ends once, and each report that a channel is broken has one that it works again.
let_through()
local d = delivery_load()
if d.owner ~= a.owner then return cjson.encode(0) end
if d.outcome ~= '' then return cjson.encode(1) end
d['until'], d.outcome, d.at, d.reason = 0, a.outcome, now / 1000, a.reason
delivery_save(d)
redis.call('ZREM', due, member)
local function report(event) emit(event, {service = a.channel, channel = a.channel, reason = a.reason}) end
if a.outcome == 'sent' then
  redis.call('DEL', switch)
  if redis.call('DEL', broken) == 1 then report('alert_channel_well') end
else
  if a.off then redis.call('SET', switch, a.reason, 'PX', a.off) end
  if a.report then
    redis.call('SET', broken, 1, 'PX', a.kept)
    report('alert_channel_broken')
  end
end
return cjson.encode(1)
