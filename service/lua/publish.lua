-- Publish a version: all of its chunks are kept for good and it gets the next number, or nothing happens.
-- KEYS: versions, last number, done, chunk ... ARGV: manifest, seconds that `done` is remembered.
local done = redis.call('GET', KEYS[3])
if done then return tonumber(done) end
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return redis.error_reply('FARFIELD MISSING ' .. KEYS[i]) end
end
for i = 4, #KEYS do redis.call('PERSIST', KEYS[i]) end
local number = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], number, ARGV[1])
redis.call('SET', KEYS[3], number, 'EX', ARGV[2])
return number
