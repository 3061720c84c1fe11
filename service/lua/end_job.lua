-- End a running job, or put it back into the queue, if it is still the worker's.
-- KEYS: waiting, running, job. ARGV: id, worker, state, seconds that an ended job is kept, then names and values to note.
-- Returns 1, or 0 where the job is not the worker's any more.
if redis.call('HGET', KEYS[3], 'worker') ~= ARGV[2] or redis.call('HGET', KEYS[3], 'state') ~= 'running' then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'state', ARGV[3], unpack(ARGV, 5))
if ARGV[3] == 'queued' then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
else
  redis.call('HSET', KEYS[3], 'ended', now)
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return 1
