-- uses: base server
-- Takes note that the store is new, or that it has lost the calls it had.
-- ARGV a: called_before (calls were placed for this store's contacts), retention
-- Returns 1, or 0 where that was noted before.
-- Invariant: the first answer counts, for the second may have seen the calls that followed the first.
let_through()
if has_memory() then return cjson.encode(0) end
redis.call('HINCRBY', key('stats'), 'dialing', 0)
if a.called_before then
  server_load().write({lost_at = now})
  emit('store_memory_lost', {service = 'redis', reason = 'Redis has lost its calls'})
end
return cjson.encode(1)
