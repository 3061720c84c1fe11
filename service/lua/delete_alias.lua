-- Remove an alias with its history.
-- KEYS: aliases, history of the alias, done. ARGV: alias, seconds that `done` is remembered.
-- Returns 1, or 0 if there was none.
local done = redis.call('GET', KEYS[3])
if done then return tonumber(done) end
redis.call('UNLINK', KEYS[2])
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('SET', KEYS[3], removed, 'EX', ARGV[2])
return removed
