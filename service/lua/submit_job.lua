-- Put a job at the end of the queue, unless one was submitted with the same idempotency key, or too many wait.
-- KEYS: waiting, all, job, rows that were written for it, idempotency key (or the job's own key again).
-- ARGV: id, kind, detector, spec, digest of the spec, seconds that the idempotency key is remembered, seconds that the job is kept,
-- most jobs that may wait. Returns the id of the job, this one or the earlier one.
if redis.call('EXISTS', KEYS[3]) == 1 then return ARGV[1] end
if KEYS[5] ~= KEYS[3] then
  local earlier = redis.call('HMGET', KEYS[5], 'id', 'digest')
  if earlier[1] then
    redis.call('UNLINK', KEYS[4])
    if earlier[2] ~= ARGV[5] then return redis.error_reply('FARFIELD OTHERSPEC ' .. earlier[1]) end
    return earlier[1]
  end
end
local waiting = redis.call('ZCARD', KEYS[1])
if waiting >= tonumber(ARGV[8]) then
  redis.call('UNLINK', KEYS[4])
  return redis.error_reply('FARFIELD FULL ' .. waiting)
end
if KEYS[5] ~= KEYS[3] then
  redis.call('HSET', KEYS[5], 'id', ARGV[1], 'digest', ARGV[5])
  redis.call('EXPIRE', KEYS[5], ARGV[6])
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('PERSIST', KEYS[4])
redis.call('HSET', KEYS[3], 'id', ARGV[1], 'kind', ARGV[2], 'detector', ARGV[3], 'spec', ARGV[4], 'state', 'queued', 'created', now, 'attempts', 0)
-- After the last one, also where it came in the same millisecond or the clock was set back since.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('ZADD', KEYS[1], math.max(now, (last or 0) + 1), ARGV[1])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[7] * 1000)
return ARGV[1]
