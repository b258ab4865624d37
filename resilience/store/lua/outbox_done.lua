-- uses: base
-- Takes one member out of an outbox.
-- ARGV a: outbox, member
-- Returns 1, or 0 where it was done before.
return cjson.encode(redis.call('ZREM', key(a.outbox, 'due'), a.member))
