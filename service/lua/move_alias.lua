-- Point an alias at a version, if that exists and the alias is where the caller expects it.
-- KEYS: versions, aliases, history of the alias. ARGV: alias, version, expected version or '', time.
-- Returns the version before, or 0.
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return redis.error_reply('FARFIELD NOVERSION') end
local current = redis.call('HGET', KEYS[2], ARGV[1])
if current == ARGV[2] then return tonumber(current) end
if ARGV[3] ~= '' and ARGV[3] ~= (current or '0') then return redis.error_reply('FARFIELD ELSEWHERE ' .. (current or '0')) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if current then
  redis.call('LPUSH', KEYS[3], cjson.encode({version = tonumber(current), until_ = ARGV[4]}))
  redis.call('LTRIM', KEYS[3], 0, 99)
end
return tonumber(current or '0')
