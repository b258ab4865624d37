-- uses: base
-- Removes a dead letter.
-- ARGV a: id
-- Returns 1, or 0 where there is none.
let_through()
local sizes = key('dead', 'sizes')
if redis.call('ZREM', key('dead'), a.id) == 0 then return cjson.encode(0) end
redis.call('HINCRBY', sizes, 'total', -tonumber(redis.call('HGET', sizes, a.id) or 0))
redis.call('HDEL', sizes, a.id)
redis.call('DEL', key('dead', a.id))
return cjson.encode(1)
