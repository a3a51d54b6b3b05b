-- KEYS: session. ARGV: owner, labels, time to live in seconds.
-- Answers {owner, labels, count, created, expires}; a session that exists (a repeated request) is left as it is.
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'labels', ARGV[2], 'ttl', ARGV[3], 'created', string.format('%.0f', milliseconds),
    'count', 0, 'bytes', 0)
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
local fields = redis.call('HMGET', KEYS[1], 'owner', 'labels', 'count', 'created')
fields[5] = string.format('%.0f', milliseconds + redis.call('PTTL', KEYS[1]))
return fields
