-- Put a job at the end of the queue, unless one was submitted with the same idempotency key.
-- KEYS: waiting, all, job, idempotency key (or the job's own key again).
-- ARGV: id, kind, detector, spec, digest of the spec, seconds that the idempotency key is remembered, seconds that the job is kept.
-- Returns the id of the job, this one or the earlier one.
if KEYS[4] ~= KEYS[3] then
  local earlier = redis.call('HMGET', KEYS[4], 'id', 'digest')
  if earlier[1] then
    if earlier[2] ~= ARGV[5] then return redis.error_reply('FARFIELD OTHERSPEC ' .. earlier[1]) end
    return earlier[1]
  end
  redis.call('HSET', KEYS[4], 'id', ARGV[1], 'digest', ARGV[5])
  redis.call('EXPIRE', KEYS[4], ARGV[6])
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('EXISTS', KEYS[3]) == 1 then return ARGV[1] end
redis.call('HSET', KEYS[3], 'id', ARGV[1], 'kind', ARGV[2], 'detector', ARGV[3], 'spec', ARGV[4], 'state', 'queued', 'created', now, 'attempts', 0)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[7] * 1000)
return ARGV[1]
