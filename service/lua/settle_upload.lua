-- Note what became of an upload of which every part is there. Of one that is refused the bytes go at once.
-- KEYS: all, bytes, upload, parts, part ... ARGV: id, state, seconds to live, then names and values to note.
-- Returns 1, or 0 where it is settled already or gone.
if redis.call('HGET', KEYS[3], 'state') ~= 'open' then return 0 end
local clock = redis.call('TIME')
local expires = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[3] * 1000
redis.call('HSET', KEYS[3], 'state', ARGV[2], 'expires', expires, unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[3], ARGV[3])
redis.call('ZADD', KEYS[1], expires, ARGV[1])
if ARGV[2] == 'refused' then redis.call('HSET', KEYS[2], ARGV[1], 0) end
for i = 4, #KEYS do
  if ARGV[2] == 'refused' then redis.call('UNLINK', KEYS[i]) else redis.call('EXPIRE', KEYS[i], ARGV[3]) end
end
return 1
