-- uses: base server
-- Reads the id of this store, which is made at the first request.
-- ARGV a: installation (the id, if there is none yet), retention
-- Returns the id.
let_through()
return cjson.encode(installation(server_load()))
