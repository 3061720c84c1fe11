-- Put a new state in the place of the one that it was computed from, once, unless another process was faster or the version is gone.
-- KEYS: versions, stream, the writer's last token. ARGV: number, token of the state before, token of this write, state, seconds
-- that the writer's token is remembered. Returns {'written'}, or {'before' or 'other', token, state}: written by an earlier try, or not.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return redis.error_reply('FARFIELD NOVERSION') end
local found = redis.call('HMGET', KEYS[2], 'token', 'state')
local token, state = found[1] or '', found[2] or ''
if redis.call('GET', KEYS[3]) == ARGV[3] then return {'before', token, state} end
if token ~= ARGV[2] then return {'other', token, state} end
redis.call('HSET', KEYS[2], 'token', ARGV[3], 'state', ARGV[4])
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[5])
return {'written'}
