-- uses: base
-- Moves calls that another app sent without a queue's name from its default queue to ours. The other messages there
-- are somebody else's and stay where they are.
-- ARGV a: from, to (the broker's lists, which are kombu's and not ours), task, most
-- Returns how many were moved.
-- Invariant: a message is moved or stays; it is never in both lists, nor in none.
local moved = 0
for _, message in ipairs(redis.call('LRANGE', a.from, -a.most, -1)) do
  local good, body = pcall(cjson.decode, message)
  local headers = good and type(body) == 'table' and body.headers
  if type(headers) == 'table' and headers.task == a.task and redis.call('LREM', a.from, -1, message) == 1 then
    redis.call('LPUSH', a.to, message)
    moved = moved + 1
  end
end
return cjson.encode(moved)
