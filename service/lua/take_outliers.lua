-- Take outliers of a feed for one target of webhooks: first those whose last try failed, or was cut off, long enough ago, then new ones.
-- KEYS: stream, how many were taken in this minute. ARGV: group, most to take, most in a minute, milliseconds from the first try to the
-- second, most of them between two tries, factor of chance, first entry for a new group, most that may wait for another try.
-- Returns {{entry, tries before, fields and values}, ...}.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[7]) -- which refuses where there is one
local used = tonumber(redis.call('GET', KEYS[2]) or 0)
local room = math.min(tonumber(ARGV[2]), ARGV[3] - used)
if room <= 0 then return {} end
local taken = {}
local waiting = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[4], '-', '+', 2 * ARGV[8])
for _, entry in ipairs(waiting) do
  local pause = math.min(ARGV[4] * 2 ^ (entry[4] - 1), tonumber(ARGV[5])) * ARGV[6]
  if #taken < room and entry[3] >= pause then
    local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], 'farfield', ARGV[4], entry[1])[1]
    if claimed then
      taken[#taken + 1] = {entry[1], entry[4], claimed[2]}
    else
      redis.call('XACK', KEYS[1], ARGV[1], entry[1]) -- too old by now: the stream has it no longer
    end
  end
end
local failing = redis.call('XPENDING', KEYS[1], ARGV[1])[1]
if #taken < room and failing < tonumber(ARGV[8]) then
  local new = redis.call('XREADGROUP', 'GROUP', ARGV[1], 'farfield', 'COUNT', room - #taken, 'STREAMS', KEYS[1], '>')
  local entries = new and new[1][2] or {}
  for _, entry in ipairs(entries) do taken[#taken + 1] = {entry[1], 0, entry[2]} end
  -- The last one was read: told so, the server forgets that it counted those that the stream lost unread as still to come.
  if #entries > 0 and #taken < room then redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], '$') end
end
if #taken > 0 then
  if used == 0 then redis.call('SET', KEYS[2], #taken, 'EX', 60) else redis.call('SET', KEYS[2], used + #taken, 'KEEPTTL') end
end
return taken
