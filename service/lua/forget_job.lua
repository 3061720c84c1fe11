-- Delete a job that is over, with its log.
-- KEYS: all, job, log. ARGV: id. Returns 1, or 0 where it is not over or is gone already.
if not redis.call('HGET', KEYS[2], 'ended') then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2], KEYS[3])
return 1
