-- KEYS: session, messages. ARGV: owner, messages to skip, most messages to answer.
-- Answers {{owner, labels, count, created, expires}, messages} and renews the time to live; nil for another's session.
local fields = redis.call('HMGET', KEYS[1], 'owner', 'labels', 'count', 'created', 'ttl')
if fields[1] ~= ARGV[1] then
  return nil
end
redis.call('EXPIRE', KEYS[1], fields[5])
redis.call('EXPIRE', KEYS[2], fields[5])
local now = redis.call('TIME')
fields[5] = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + fields[5] * 1000)
local messages = {}
if tonumber(ARGV[3]) > 0 then
  messages = redis.call('LRANGE', KEYS[2], ARGV[2], ARGV[2] + ARGV[3] - 1)
end
return {fields, messages}
