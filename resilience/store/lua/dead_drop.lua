-- uses: base
-- Removes a dead letter.
-- ARGV a: id
-- Returns 1, or 0 where there is none.
let_through()
local k = key('dead', a.id)
if redis.call('ZREM', key('dead'), a.id) == 0 then return cjson.encode(0) end
redis.call('HINCRBY', key('stats'), 'dead_bytes', -tonumber(redis.call('HGET', k, 'bytes') or 0))
redis.call('DEL', k)
return cjson.encode(1)
