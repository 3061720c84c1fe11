-- Write a chunk of a part of an upload. Until the part is added it lives for a limited time only; one that was added keeps its time.
-- KEYS: part. ARGV: index, bytes, seconds to live.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
