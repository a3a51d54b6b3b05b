-- KEYS: session, messages. ARGV: owner, most messages, most bytes, request id ('' for none), fingerprint, messages…
-- Answers {'missing' | 'full' | 'reused'} or {'ok', {owner, labels, count, created, expires}}. All messages or none.
local session = redis.call('HMGET', KEYS[1], 'owner', 'count', 'bytes', 'ttl')
if session[1] ~= ARGV[1] then
  return {'missing'}
end
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
local request = 'request:' .. ARGV[4]
local answered = ARGV[4] ~= '' and redis.call('HGET', KEYS[1], request)
local count = tonumber(session[2])
if answered then
  local first = cjson.decode(answered)
  if first[1] ~= ARGV[5] then
    return {'reused'}
  end
  count = first[2]
else
  local bytes = tonumber(session[3])
  for position = 6, #ARGV do
    bytes = bytes + #ARGV[position]
  end
  count = count + #ARGV - 5
  if count > tonumber(ARGV[2]) or bytes > tonumber(ARGV[3]) then
    return {'full'}
  end
  local stamp = string.format('%.0f ', milliseconds)
  for position = 6, #ARGV do
    redis.call('RPUSH', KEYS[2], stamp .. ARGV[position])
  end
  redis.call('HSET', KEYS[1], 'count', count, 'bytes', bytes)
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[1], request, cjson.encode({ARGV[5], count}))
  end
end
redis.call('EXPIRE', KEYS[1], session[4])
redis.call('EXPIRE', KEYS[2], session[4])
local fields = redis.call('HMGET', KEYS[1], 'owner', 'labels', 'count', 'created')
fields[3] = tostring(count)
fields[5] = string.format('%.0f', milliseconds + session[4] * 1000)
return {'ok', fields}
