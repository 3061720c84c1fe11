-- Point an alias at a version, if that exists and the alias is where the caller expects it.
-- KEYS: versions, aliases, history of the alias, done.
-- ARGV: alias, version, expected version or '', time, seconds that `done` is remembered. Returns the version before, or 0.
local done = redis.call('GET', KEYS[4])
if done then return tonumber(done) end
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return redis.error_reply('FARFIELD NOVERSION') end
local current = redis.call('HGET', KEYS[2], ARGV[1])
if ARGV[3] ~= '' and ARGV[3] ~= (current or '0') then return redis.error_reply('FARFIELD ELSEWHERE ' .. (current or '0')) end
if current == ARGV[2] then return tonumber(current) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if current then
  redis.call('LPUSH', KEYS[3], cjson.encode({version = tonumber(current), until_ = ARGV[4]}))
  redis.call('LTRIM', KEYS[3], 0, 99)
end
redis.call('SET', KEYS[4], current or '0', 'EX', ARGV[5])
return tonumber(current or '0')
