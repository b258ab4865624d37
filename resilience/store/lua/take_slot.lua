-- uses: base
-- Takes a slot: one runner each `length`.
-- ARGV a: name, length (ms)
-- Returns 1, or 0 where the slot was taken within the last `length`.
-- Invariant: a slot that would last longer than its length is free: the server's clock was set back.
local slot = key('slot', a.name)
local left = redis.call('PTTL', slot)
if left > 0 and left <= a.length then return cjson.encode(0) end
let_through()
redis.call('SET', slot, 'taken', 'PX', int(a.length))
return cjson.encode(1)
