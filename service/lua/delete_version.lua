-- Delete a version that no alias points at, with those of its chunks to which no other version refers.
-- KEYS: versions, aliases, the version's stream of drift, chunk ... ARGV: version, the sha256 of the blob of each chunk in the same order.
-- Returns the number of chunks deleted.
for _, aliased in ipairs(redis.call('HVALS', KEYS[2])) do
  if aliased == ARGV[1] then return redis.error_reply('FARFIELD INUSE') end
end
redis.call('HDEL', KEYS[1], ARGV[1])
local others = table.concat(redis.call('HVALS', KEYS[1]))
local deleted = 0
redis.call('UNLINK', KEYS[3])
for i = 4, #KEYS do
  if not string.find(others, ARGV[i - 2], 1, true) then deleted = deleted + redis.call('UNLINK', KEYS[i]) end
end
return deleted
