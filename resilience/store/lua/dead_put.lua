-- uses: base
-- Keeps a message that cannot be a call, with its reason. HASH dead:<id>, ZSET dead by the time when it came, HASH
-- dead:sizes in bytes, with their total. HASH stats has in dead_dropped how many were dropped for lack of room.
-- ARGV a: id, letter {queue task task_id origin contact_id campaign reason message}, summary, event, service, most,
--   most_bytes, retention
-- Returns 1, or 0 where the letter is known already.
-- Invariant: a letter is reported once, however often its message comes back. What exceeds the bounds is dropped oldest
-- first, counted and reported.
let_through()
local index, sizes = key('dead'), key('dead', 'sizes')

local function drop(id)
  redis.call('HINCRBY', sizes, 'total', -tonumber(redis.call('HGET', sizes, id) or 0))
  redis.call('HDEL', sizes, id)
  redis.call('DEL', key('dead', id))
  redis.call('ZREM', index, id)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', int(now - a.retention))) do drop(id) end
local k = key('dead', a.id)
if redis.call('EXISTS', k) == 1 then
  redis.call('HINCRBY', k, 'times', 1)
  return cjson.encode(0)
end

local l = a.letter
l.id, l.at, l.times, l.bytes = a.id, now, 1, string.len(l.message)
write(k, {}, l)
redis.call('ZADD', index, int(now), a.id)
redis.call('HSET', sizes, a.id, l.bytes)
redis.call('HINCRBY', sizes, 'total', l.bytes)
for _, name in ipairs({k, index, sizes}) do redis.call('PEXPIRE', name, int(a.retention)) end
emit(a.event, {service = a.service, reason = a.summary, dead_id = a.id, task_id = l.task_id, task = l.task,
  origin = l.origin, contact_id = l.contact_id, campaign = l.campaign})

local dropped = 0
while redis.call('ZCARD', index) > a.most or tonumber(redis.call('HGET', sizes, 'total')) > a.most_bytes do
  local oldest = redis.call('ZRANGE', index, 0, 0)[1]
  if oldest == a.id then break end
  drop(oldest)
  dropped = dropped + 1
end
if dropped > 0 then
  redis.call('HINCRBY', key('stats'), 'dead_dropped', dropped)
  emit('dead_letter_dropped', {service = 'lineman', missed = dropped,
    reason = 'there was no room for more letters; the oldest were dropped'})
end
return cjson.encode(1)
