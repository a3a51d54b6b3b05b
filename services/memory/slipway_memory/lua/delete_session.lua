-- KEYS: session, messages. ARGV: owner. Answers 1 when the session was the owner's and is gone now, else 0.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
