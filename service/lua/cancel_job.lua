-- Cancel a job: one that waits at once, a running one as soon as its worker hears of it.
-- KEYS: waiting, job, rows, counts. ARGV: id, seconds that an ended job is kept. Returns 1, or 0 if there is no such job.
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return 0 end
if state == 'running' then
  redis.call('HSET', KEYS[2], 'cancelling', 1)
elseif state == 'queued' then
  local clock = redis.call('TIME')
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], 'state', 'cancelled', 'ended', clock[1] * 1000 + math.floor(clock[2] / 1000))
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  redis.call('UNLINK', KEYS[3])
  redis.call('HINCRBY', KEYS[4], 'cancelled', 1)
end
return 1
