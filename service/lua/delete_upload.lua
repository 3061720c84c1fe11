-- End an upload: from now on it is unknown, and no part is added to it.
-- KEYS: all, bytes, upload. ARGV: id.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('UNLINK', KEYS[3])
