-- Begin an upload, unless there are too many or it would take too much; those that have expired count no longer.
-- KEYS: all, bytes, upload. ARGV: id, seconds to live, most uploads, most bytes of all, its bytes, then names and values to note.
-- Returns 1.
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for _, gone in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE')) do redis.call('HDEL', KEYS[2], gone) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local count = redis.call('ZCARD', KEYS[1])
if count >= tonumber(ARGV[3]) then return redis.error_reply('FARFIELD COUNT ' .. count) end
local held = 0
for _, size in ipairs(redis.call('HVALS', KEYS[2])) do held = held + size end
if held + ARGV[5] > tonumber(ARGV[4]) then return redis.error_reply('FARFIELD BYTES ' .. string.format('%d', held)) end
local expires = now + ARGV[2] * 1000
redis.call('HSET', KEYS[3], 'id', ARGV[1], 'size', ARGV[5], 'state', 'open', 'offset', 0, 'created', now, 'expires', expires, unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[1], expires, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[5])
return 1
