-- The server behind the store: what it may have forgotten, whose it is, and whether it is full.
-- HASH server: run_id, went_back_at (ms; it restarted or took over, seen by a new run id), lost_at (ms; it had lost its
-- calls), installation.

-- Whoever sees a new run id first writes down when.
local function server_load()
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
  local server = hash(key('server'))
  server.write = function(changes)
    write(key('server'), server, changes)
    redis.call('PEXPIRE', key('server'), int(a.retention * 2))
  end
  if run and server.run_id ~= run then server.write({run_id = run, went_back_at = server.run_id and now or 0}) end
  return server
end

-- The id of this store, made once: a dial carries it, so that another store's conversations are not taken for ours.
local function installation(server)
  if not server.installation then server.write({installation = a.installation}) end
  return server.installation
end

-- A store that has begun an attempt remembers its dials. One that has not is new, or it has lost its data.
local function has_memory() return redis.call('HEXISTS', key('stats'), 'dialing') == 1 end

-- Whether new contacts are refused: the calls that are under way keep the memory that they need to end, and the last
-- tenth stays free.
local NEED = 2000 -- bytes that a call with two attempts adds: its history, its events, its outboxes
local function is_full()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' then return false end
  local limit, used = tonumber(string.match(info, 'maxmemory:(%d+)')), tonumber(string.match(info, 'used_memory:(%d+)'))
  return limit > 0 and used + NEED * redis.call('ZCARD', key('due')) > limit * 0.9
end

-- Refuses a new contact. An event an hour reports it.
local function refuse_full()
  let_through()
  if redis.call('SET', key('slot', 'store_full'), 1, 'NX', 'PX', 3600000) then
    emit('store_full', {service = 'redis', reason = 'new contacts are refused'})
  end
  return redis.error_reply('STOREFULL new contacts are refused')
end
