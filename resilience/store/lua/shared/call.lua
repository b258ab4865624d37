-- One call: HASH call:<id>. Every non-terminal call is in ZSET due, scored by the time when somebody must look at it
-- again. ZSET backlog holds the calls that wait for a message of Celery's, deferred:<service> those that wait for a
-- gate, both by their place in line. ZSET calls is the index, scored by expiry. HASH stats counts calls by state; its
-- fields events and seq are the last number of an event and the last place in line.
local TERMINAL = {placed = true, failed = true, needs_review = true, cancelled = true}
local HISTORY_KEPT = 100

local STATES = {queued = true, dialing = true, retrying = true, deferred = true, in_doubt = true, placed = true,
  failed = true, needs_review = true, cancelled = true}
local NEEDED = {'campaign', 'contact_id', 'phone', 'service', 'fields', 'created', 'attempts', 'dials'}
local NUMBERS = {'created', 'seq', 'attempts', 'dials', 'first_dial', 'not_before', 'gen', 'looks', 'absent', 'errors',
  'doubt_since'}

local function is_number(v) return string.match(v, '^%-?%d+$') ~= nil end

-- What is wrong with a call's hash, nil where it is sound.
local function call_fault(c, id)
  if not STATES[c.state] then return 'it has no known state' end
  if c.id ~= id then return 'its id is another one' end
  for _, f in ipairs(NEEDED) do if not c[f] then return f .. ' is missing' end end
  for _, f in ipairs(NUMBERS) do if c[f] and not is_number(c[f]) then return f .. ' is no number' end end
  if c.state == 'in_doubt' and not (c.looks and c.absent and c.errors and c.doubt_since) then
    return 'a field of its doubt is missing'
  end
end

-- The call, nil where there is none, and what is wrong with it, nil where it is sound.
local function call_read(id)
  local c = {key = key('call', id)}
  local flat = redis.pcall('HGETALL', c.key)
  if flat.err then return c, 'it is no hash' end
  if #flat == 0 then return nil end
  for i = 1, #flat, 2 do c[flat[i]] = flat[i + 1] end
  return c, call_fault(c, id)
end

local function call_load(id)
  local c, fault = call_read(id)
  if fault then error('the call ' .. id .. ' is damaged: ' .. fault) end
  return c
end

-- Adds to the call's own history and, except for the intake of a whole list, to the event stream.
local function remember(c, event, fields)
  local line = {event = event, at = int(now)}
  for f, v in pairs(fields) do if v ~= nil and v ~= '' then line[f] = text(v) end end
  redis.pcall('RPUSH', key('history', c.id), cjson.encode(line)) -- a damaged history stops no call
  redis.pcall('LTRIM', key('history', c.id), -HISTORY_KEPT, -1)
  if event == 'call_queued' then return end
  line.event, line.at, line.call_id, line.campaign = nil, nil, c.id, c.campaign
  emit(event, line)
end

-- Puts a call into the backlog; what came in first goes first. The deadline covers a message that gets lost.
local function call_wait(c)
  redis.call('ZADD', key('backlog'), c.seq or c.created, c.id)
  redis.call('ZADD', key('due'), int(now + a.backlog_check), c.id)
end

-- Puts a deferred call into its service's line.
local function call_defer(c)
  redis.call('ZADD', key('deferred', c.service), c.seq or c.created, c.id)
  redis.call('ZADD', key('due'), int(now + a.backlog_check), c.id)
end

-- A terminal call is due in each outbox that is on. The dispatcher forgets the call at `retention`, with its count; the
-- TTL is for a fleet that has gone away.
local function call_end(c)
  for _, outbox in ipairs(a.outboxes or {}) do
    redis.call('ZADD', key(outbox, 'due'), seconds(now), c.id)
    redis.call('PEXPIRE', key(outbox, 'due'), int(a.retention))
  end
  redis.call('PEXPIRE', c.key, int(a.retention * 2))
  redis.call('PEXPIRE', key('history', c.id), int(a.retention * 2))
  redis.call('ZADD', key('calls'), int(now + a.retention), c.id)
  if redis.call('EXISTS', key('due')) == 0 then redis.call('PEXPIRE', key('calls'), int(a.retention * 2)) end
end

-- The one place where a call changes its state, with all that belongs to the state. `due` is in ms, for the states that
-- have a deadline of their own: dialing, retrying and in_doubt.
local function call_move(c, to, event, changes, fields, due)
  local from = c.state
  if from ~= to then
    if from then redis.call('HINCRBY', key('stats'), from, -1) end
    redis.call('HINCRBY', key('stats'), to, 1)
  end
  if to == 'in_doubt' then
    -- looks is never set back: a late look-up of an earlier doubt must not be taken for one of this doubt.
    changes.looks, changes.absent, changes.errors = tonumber(c.looks or 0), 0, 0
    changes.doubt_since, changes.doubt_reported = now, false
  end
  changes.state, changes.updated = to, now
  write(c.key, c, changes)
  if from == 'deferred' then redis.call('ZREM', key('deferred', c.service), c.id) end
  if to == 'queued' then call_wait(c) else redis.call('ZREM', key('backlog'), c.id) end
  if to == 'deferred' then call_defer(c) end
  if TERMINAL[to] then redis.call('ZREM', key('due'), c.id) end
  if due then redis.call('ZADD', key('due'), int(due), c.id) end
  fields.from, fields.state, fields.attempts, fields.service = from, to, c.attempts, c.service
  remember(c, event, fields)
  if TERMINAL[to] then call_end(c) end
end

-- The next place in line: rises with each call, and with time, so that it comes after the calls of an older version,
-- which go by their time of creation.
local function next_seq()
  local seq = math.max(tonumber(redis.call('HGET', key('stats'), 'seq') or 0) + 1, now)
  redis.call('HSET', key('stats'), 'seq', int(seq)) -- the first write: where Redis is full, nothing is half-written
  return seq
end

local function call_create(n, service)
  local c, seq = {id = n.id, key = key('call', n.id)}, next_seq()
  redis.call('PERSIST', key('calls'))
  redis.call('ZADD', key('calls'), '+inf', n.id)
  call_move(c, 'queued', 'call_queued', {id = n.id, campaign = n.campaign, contact_id = n.contact_id, phone = n.phone,
    name = n.name, fields = n.fields, service = service, created = now, seq = seq, attempts = 0, dials = 0}, {})
  return c
end

-- A damaged call goes to an operator with what is left of it, so that it stops no other.
local function call_set_aside(c, id, fault, service)
  local campaign, contact = string.match(id, '^([^:]*):(.*)$')
  local defaults = {campaign = campaign or '', contact_id = contact or id, phone = '', service = service, fields = '{}',
    created = now, attempts = 0, dials = 0}
  if fault == 'it is no hash' then redis.call('DEL', c.key) end
  local changes = {id = id, owner = false, reason = 'damaged: ' .. fault}
  for _, f in ipairs(NEEDED) do if not c[f] then changes[f] = defaults[f] end end
  for _, f in ipairs(NUMBERS) do
    if c[f] and not is_number(c[f]) then changes[f] = defaults[f] or false end
  end
  redis.call('ZREM', key('deferred', service), id)
  if not STATES[c.state] then c.state = nil end
  c.id = id
  call_move(c, 'needs_review', 'call_damaged', changes, {reason = fault})
end

local function attempt_id(c) return c.id .. ':' .. c.dials end
