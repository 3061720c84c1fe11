-- Point an alias back at the version it had before its last move, passing over versions deleted since.
-- KEYS: versions, aliases, history of the alias, done. ARGV: alias, seconds that `done` is remembered.
-- Returns the version before and the version now.
local done = redis.call('GET', KEYS[4])
if done then return cjson.decode(done) end
local current = redis.call('HGET', KEYS[2], ARGV[1])
if not current then return redis.error_reply('FARFIELD NOALIAS') end
while true do
  local entry = redis.call('LPOP', KEYS[3])
  if not entry then return redis.error_reply('FARFIELD NOHISTORY') end
  local version = string.format('%d', cjson.decode(entry).version)
  if version ~= current and redis.call('HEXISTS', KEYS[1], version) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], version)
    local answer = {tonumber(current), tonumber(version)}
    redis.call('SET', KEYS[4], cjson.encode(answer), 'EX', ARGV[2])
    return answer
  end
end
