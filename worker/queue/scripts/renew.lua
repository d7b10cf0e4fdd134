-- The heartbeat, O(1) however many jobs the worker has.
--
-- KEYS: leases, this worker's rq hash, this worker's executions
-- ARGV: worker, lease (s), date as rq writes it, ttl of the rq hash (s), state, {field, value of the rq hash…}
-- Returns {'live' or 'lapsed' (before this renewal) or 'lost', whether the rq hash exists, server time}.

local now = clock()
local state = lease_state(KEYS[1], ARGV[1], now)
if state == 'lost' then
    return {state, 0, decimal(now)}
end
redis.call('ZADD', KEYS[1], decimal(now + tonumber(ARGV[2])), ARGV[1])
local exists = redis.call('EXISTS', KEYS[2])
if exists == 1 then
    redis.call('HSET', KEYS[2], 'last_heartbeat', ARGV[3], 'state', ARGV[5], unpack(ARGV, 6))
    redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return {state, exists, decimal(now)}
