-- uses: base
-- Appends an event that comes with no change of the store.
-- ARGV a: event, fields
-- Returns 1.
let_through()
emit(a.event, a.fields)
return cjson.encode(1)
