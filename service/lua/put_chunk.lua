-- Write a chunk of a blob. Until a version that refers to it is published it lives for a limited time only.
-- KEYS: chunk. ARGV: bytes, seconds to live.
if redis.call('TTL', KEYS[1]) == -1 then
  -- A published version refers to it: the same bytes again mend a damaged copy, and it stays for good.
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return 1
