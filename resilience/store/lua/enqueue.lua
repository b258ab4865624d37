-- uses: base call server
-- Writes new calls to the store; one that is already known is left as it is.
-- ARGV a: calls [{id campaign contact_id phone name fields(JSON)}], service, backlog_check, retention; optionally delay
--   (ms until the calls are due)
-- Returns a JSON list of 1 (new) and 0 (known), in the order given.
-- Invariant: a call is created once, and whatever is created has a deadline. A full Redis takes no new call, so of a
-- batch all or none.
local answers, checked = {}, false
for i, n in ipairs(a.calls) do
  if redis.call('EXISTS', key('call', n.id)) == 1 then
    answers[i] = 0
  else
    if not checked and is_full() then return refuse_full() end
    checked = true
    local c = call_create(n, a.service)
    if a.delay then
      write(c.key, c, {not_before = now + a.delay, reason = 'its message asked for a later time'})
      redis.call('ZREM', key('backlog'), c.id)
      redis.call('ZADD', key('due'), int(c.not_before), c.id)
    end
    answers[i] = 1
  end
end
return cjson.encode(answers)
