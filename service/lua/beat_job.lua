-- Renew the lease of a running job and note its progress.
-- KEYS: running, job. ARGV: id, worker, milliseconds of the lease, then names and values of progress.
-- Returns 'go', 'cancel' or, where the job is another worker's by now or has ended, 'lost'.
if redis.call('HGET', KEYS[2], 'worker') ~= ARGV[2] or redis.call('HGET', KEYS[2], 'state') ~= 'running' then return 'lost' end
local clock = redis.call('TIME')
redis.call('ZADD', KEYS[1], clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[3], ARGV[1])
if #ARGV > 3 then redis.call('HSET', KEYS[2], unpack(ARGV, 4)) end
return redis.call('HGET', KEYS[2], 'cancelling') and 'cancel' or 'go'
