-- Add outliers to a feed, each once, and drop what is too old or too much.
-- KEYS: stream, ids. ARGV: most entries, seconds that they are kept, and for each outlier: id, how many parts follow, fields and values.
local now = redis.call('TIME')
local time = now[1] * 1000 + math.floor(now[2] / 1000)
local oldest = string.format('%.0f', time - ARGV[2] * 1000)
local i = 3
while i <= #ARGV do
  local last = i + 1 + tonumber(ARGV[i + 1])
  if redis.call('ZADD', KEYS[2], 'NX', time, ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', unpack(ARGV, i + 2, last))
  end
  i = last + 1
end
redis.call('XTRIM', KEYS[1], 'MINID', oldest)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', oldest)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
