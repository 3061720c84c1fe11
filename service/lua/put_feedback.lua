-- Mark rows by their keys, or take marks back, all of them or none; marks that are too old go.
-- KEYS: marks, when each was set, counts. ARGV: most marks, seconds that they are kept, verdict or '' to take back, and for each row: key,
-- mark. Returns how many rows were marked otherwise before.
local time = tonumber(redis.call('TIME')[1])
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', time - ARGV[2], 'BYSCORE')) do
  redis.call('HDEL', KEYS[1], key)
  redis.call('ZREM', KEYS[2], key)
end
local new = 0
for i = 4, #ARGV, 2 do new = new + 1 - redis.call('HEXISTS', KEYS[1], ARGV[i]) end
if ARGV[3] ~= '' and redis.call('ZCARD', KEYS[2]) + new > tonumber(ARGV[1]) then return redis.error_reply('FARFIELD FULL') end
local changed = 0
for i = 4, #ARGV, 2 do
  local before = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^%S*')
  if before ~= ARGV[3] then
    changed = changed + 1
    if ARGV[3] ~= '' then redis.call('HINCRBY', KEYS[3], ARGV[3], 1) end
  end
  if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[3] .. ' ' .. ARGV[i + 1])
    redis.call('ZADD', KEYS[2], time, ARGV[i])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return changed
