-- One delivery of an alert on a channel: member <id>|<channel> of the outbox `alerts`. HASH alert:<id> holds the alert
-- and, by channel, the delivery's record: attempts owner until unclear outcome at reason; times in unix seconds.
local due, member, alert = key('alerts', 'due'), a.id .. '|' .. a.channel, key('alert', a.id)
local switch, broken = key('alerts', 'off', a.channel), key('alerts', 'broken', a.channel)

local function delivery_load()
  local record = redis.call('HGET', alert, a.channel)
  return record and cjson.decode(record)
    or {attempts = 0, owner = '', ['until'] = 0, unclear = false, outcome = '', at = 0, reason = ''}
end

local function delivery_save(d) redis.call('HSET', alert, a.channel, cjson.encode(d)) end
