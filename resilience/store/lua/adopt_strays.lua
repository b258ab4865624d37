-- uses: base
-- Moves calls that another app sent to a list nobody reads to ours: without a queue's name, or with a priority. What
-- was sent to our queue is moved whatever it is. Other messages belong to somebody else and stay where they are.
-- ARGV a: lists (the broker's, which are kombu's and not ours), own (likewise, of our queue), to, task, encoded (what
--   the task looks like in a body in base64, where no header names it), most (messages to look at in each), kept (ms)
-- Returns how many were moved.
-- Invariant: a message is moved or stays; it is never in both lists, nor in none. Each run goes on where the last one
-- stopped, oldest first, so messages that stay hide none behind them.
let_through()

-- A message of Celery's protocol 1 names its task in the body alone.
local function is_call(message)
  local plain = string.find(message, a.task, 1, true)
  local hidden = false
  for _, text in ipairs(a.encoded) do hidden = hidden or string.find(message, text, 1, true) end
  local good, body = pcall(cjson.decode, (plain or hidden) and message or 'null')
  if not good or type(body) ~= 'table' then return false end
  local task = type(body.headers) == 'table' and body.headers.task or nil
  if task == nil then return hidden end
  return task == a.task
end

local function adopt(from)
  local place = key('strays', from)
  local start = tonumber(redis.call('GET', place) or 0)
  local messages = redis.call('LRANGE', from, -start - a.most, -start - 1)
  local moved = 0
  for i = #messages, 1, -1 do
    if is_call(messages[i]) and redis.call('LREM', from, -1, messages[i]) == 1 then
      redis.call('LPUSH', a.to, messages[i])
      moved = moved + 1
    end
  end
  if #messages < a.most then
    redis.call('DEL', place)
  else
    redis.call('SET', place, int(start + #messages - moved), 'PX', int(a.kept))
  end
  return moved
end

local moved = 0
for _, from in ipairs(a.lists) do
  if redis.call('TYPE', from).ok == 'list' then moved = moved + adopt(from) end
end
for _, from in ipairs(a.own) do
  local n = 0
  if redis.call('TYPE', from).ok == 'list' then
    while n < a.most and redis.call('RPOPLPUSH', from, a.to) do n = n + 1 end
  end
  moved = moved + n
end
return cjson.encode(moved)
