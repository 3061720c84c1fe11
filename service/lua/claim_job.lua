-- Take a job that waits, or one whose worker let its lease run out.
-- KEYS: waiting, running, job, rows, counts.
-- ARGV: id, worker, milliseconds of the lease, most attempts, seconds that an ended job is kept, token of this claim.
-- Returns 1 if the job is the worker's now, also by an earlier try of this claim, else 0.
if redis.call('HGET', KEYS[3], 'claim') == ARGV[6] then return 1 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and (not lease or tonumber(lease) > now) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
local attempts = redis.call('HINCRBY', KEYS[3], 'attempts', 1)
local ended
if redis.call('HGET', KEYS[3], 'cancelling') then
  ended = {'cancelled', 'cancelled while its worker was away'}
elseif attempts > tonumber(ARGV[4]) then
  ended = {'failed', 'its worker died ' .. ARGV[4] .. ' times in the middle of it'}
end
if ended then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HSET', KEYS[3], 'state', ended[1], 'error', ended[2], 'ended', now)
  redis.call('EXPIRE', KEYS[3], ARGV[5])
  redis.call('UNLINK', KEYS[4])
  redis.call('HINCRBY', KEYS[5], ended[1], 1)
  return 0
end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], 'state', 'running', 'worker', ARGV[2], 'started', now, 'claim', ARGV[6])
return 1
