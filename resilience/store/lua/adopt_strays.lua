-- uses: base
-- Moves calls that another app sent without a queue's name from its default queue to ours. The other messages there
-- belong to somebody else and stay where they are.
-- ARGV a: from, to (the broker's lists, which are kombu's and not ours), task, most (messages to look at), kept (ms)
-- Returns how many were moved.
-- Invariant: a message is moved or stays; it is never in both lists, nor in none. Each run goes on where the last one
-- stopped, oldest first, so messages that stay hide none behind them.
let_through()
local place = key('strays')
local start = tonumber(redis.call('GET', place) or 0)
local messages = redis.call('LRANGE', a.from, -start - a.most, -start - 1)
local moved = 0
for i = #messages, 1, -1 do
  local good, body = pcall(cjson.decode, string.find(messages[i], a.task, 1, true) and messages[i] or 'null')
  local headers = good and type(body) == 'table' and body.headers
  if type(headers) == 'table' and headers.task == a.task and redis.call('LREM', a.from, -1, messages[i]) == 1 then
    redis.call('LPUSH', a.to, messages[i])
    moved = moved + 1
  end
end
if #messages < a.most then
  redis.call('DEL', place)
else
  redis.call('SET', place, int(start + #messages - moved), 'PX', int(a.kept))
end
return cjson.encode(moved)
