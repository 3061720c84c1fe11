-- Add a part where an upload ends, whole or not at all; the same part again at its place changes nothing.
-- KEYS: upload, parts, part. ARGV: offset, length and sha256 of the part, its length, its chunks, most parts.
-- Returns the offset at which the upload goes on.
local offset, size, expires = unpack(redis.call('HMGET', KEYS[1], 'offset', 'size', 'expires'))
if offset and redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then return tonumber(offset) end
local refusal
if not offset then
  refusal = 'GONE'
elseif ARGV[1] ~= offset then
  refusal = 'ELSEWHERE ' .. offset
elseif offset + ARGV[3] > tonumber(size) then
  refusal = 'BEYOND ' .. size
elseif redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then
  refusal = 'PARTS'
elseif redis.call('HLEN', KEYS[3]) ~= tonumber(ARGV[4]) then
  refusal = 'MISSING'
end
if refusal then
  redis.call('UNLINK', KEYS[3])
  return redis.error_reply('FARFIELD ' .. refusal)
end
local clock = redis.call('TIME')
local left = math.max(1, math.ceil(expires / 1000 - clock[1]))
local reached = string.format('%d', offset + ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[1], 'offset', reached)
redis.call('EXPIRE', KEYS[2], left)
redis.call('EXPIRE', KEYS[3], left)
return tonumber(reached)
