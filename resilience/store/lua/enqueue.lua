-- uses: base call server
-- Writes new calls to the store; one that is already known is left as it is.
-- ARGV a: calls [{id campaign contact_id phone name fields(JSON)}], service, backlog_check, retention
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
    call_create(n, a.service)
    answers[i] = 1
  end
end
return cjson.encode(answers)
