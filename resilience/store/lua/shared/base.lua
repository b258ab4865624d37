-- Shared by every script: the argument object, the clock, key names, events.
-- KEYS[1] is the common prefix, a hash tag: every key built from it lives in one slot.
-- ARGV[1] is one JSON object `a`. `a.now` (ms) replaces the server's TIME in tests.
local a = cjson.decode(ARGV[1])
local now = a.now
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local EVENTS_KEPT = 100000

local function key(...) return table.concat({KEYS[1], ...}, ':') end

-- Redis and fakeredis print Lua floats differently: every number is written through one of these.
local function int(x) return string.format('%.0f', x) end
local function seconds(ms) return string.format('%.3f', ms / 1000) end

local function text(v)
  if type(v) == 'number' then return int(v) end
  return tostring(v)
end

-- A full Redis refuses a script's first write if that write needs memory, and lets all later ones through. This one
-- needs none: scripts that finish or forget what is there start with it, scripts that take in new work do not.
local function let_through() redis.call('DEL', key('none')) end

local function hash(k)
  local flat, h = redis.call('HGETALL', k), {}
  for i = 1, #flat, 2 do h[flat[i]] = flat[i + 1] end
  return h
end

-- Sets the fields of `changes` in the hash and in its copy `h`; false deletes a field.
local function write(k, h, changes)
  for f, v in pairs(changes) do
    if v == false then
      if h[f] then redis.call('HDEL', k, f) end
      h[f] = nil
    else
      h[f] = text(v)
      redis.call('HSET', k, f, h[f])
    end
  end
end

-- Appends one event to the stream, in the same script as the change: none lost, none doubled. `n` numbers the events,
-- so a reader that fell behind the cap can count what it missed.
local function emit(event, fields)
  local flat = {'event', event, 'at', int(now), 'n', redis.call('HINCRBY', key('stats'), 'events', 1)}
  for f, v in pairs(fields) do
    if v ~= nil and v ~= '' then
      flat[#flat + 1] = f
      flat[#flat + 1] = text(v)
    end
  end
  redis.call('XADD', key('events'), 'MAXLEN', '~', EVENTS_KEPT, '*', unpack(flat))
end
