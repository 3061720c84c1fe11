-- End a running job, or put it back into the queue, if it is still the worker's.
-- KEYS: waiting, running, job, rows, counts.
-- ARGV: id, worker, state, seconds that an ended job is kept, attempts to take back, bounds of seconds, token of this end,
-- then names and values to note.
-- Returns 1, also where an earlier try of this end came through, or 0 where the job is not the worker's any more.
local worker, state, token = unpack(redis.call('HMGET', KEYS[3], 'worker', 'state', 'end'))
if token == ARGV[7] then return 1 end
if worker ~= ARGV[2] or state ~= 'running' then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'state', ARGV[3], 'end', ARGV[7], unpack(ARGV, 8))
if ARGV[3] == 'queued' then
  redis.call('HINCRBY', KEYS[3], 'attempts', 0 - ARGV[5])
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
  redis.call('ZADD', KEYS[1], ARGV[5] == '0' and math.max(now, (last or 0) + 1) or redis.call('HGET', KEYS[3], 'created'), ARGV[1])
  return 1
end
redis.call('HSET', KEYS[3], 'ended', now)
redis.call('EXPIRE', KEYS[3], ARGV[4])
redis.call('UNLINK', KEYS[4])
redis.call('HINCRBY', KEYS[5], ARGV[3], 1)
if ARGV[3] == 'done' then
  local took = now - redis.call('HGET', KEYS[3], 'started')
  redis.call('HINCRBY', KEYS[5], 'milliseconds', took)
  for bound in string.gmatch(ARGV[6], '[%d.]+') do
    if took <= bound * 1000 then redis.call('HINCRBY', KEYS[5], 'within ' .. bound, 1) end
  end
end
return 1
