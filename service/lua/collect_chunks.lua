-- Delete those chunks that are kept for good though no version refers to them.
-- KEYS: versions, chunk ... ARGV: the sha256 of the blob of each chunk in the same order.
-- Returns the number of chunks deleted.
local referring = table.concat(redis.call('HVALS', KEYS[1]))
local deleted = 0
for i = 2, #KEYS do
  if redis.call('TTL', KEYS[i]) == -1 and not string.find(referring, ARGV[i - 1], 1, true) then
    deleted = deleted + redis.call('UNLINK', KEYS[i])
  end
end
return deleted
