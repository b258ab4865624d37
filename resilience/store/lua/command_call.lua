-- uses: base gate call
-- An operator's command on one call: retry or cancel.
-- ARGV a: id, action (retry cancel), backlog_check, retention
-- Returns {answer: done | refused | unknown, state}.
-- Invariant: a placed call is never called again; a call that is being dialed or in doubt is left to its own outcome.
let_through()
local c = call_load(a.id)
if not c then return cjson.encode({answer = 'unknown', state = 'unknown'}) end

local function done() return cjson.encode({answer = 'done', state = c.state}) end

-- The same command again: its first answer got lost.
if a.action == 'cancel' and c.state == 'cancelled' then return done() end
if a.action == 'cancel' and (c.state == 'queued' or c.state == 'retrying' or c.state == 'deferred') then
  call_move(c, 'cancelled', 'call_cancelled', {reason = 'cancelled by hand'}, {})
  return done()
end
if a.action == 'retry' and (c.state == 'failed' or c.state == 'needs_review' or c.state == 'cancelled') then
  redis.call('PERSIST', c.key)
  redis.call('PERSIST', key('history', c.id))
  redis.call('PERSIST', key('calls'))
  redis.call('ZADD', key('calls'), '+inf', c.id)
  call_move(c, 'queued', 'call_requeued', {attempts = 0, doubtful = c.state == 'needs_review' and 1 or false,
    not_before = false, reason = false, category = false}, {})
  return done()
end
if a.action == 'retry' and c.state == 'retrying' then
  write(c.key, c, {not_before = false})
  call_wait(c)
  return done()
end
return cjson.encode({answer = 'refused', state = c.state})
