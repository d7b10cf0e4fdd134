-- Canceled jobs end like failed ones, after their `failure_ttl`: rq itself keeps them, and their names, for ever.
--
-- KEYS: canceled registry
-- ARGV: default failure ttl (s), job ids…
-- Returns how many were given an end, or had come to it.

local ended = 0
for at = 2, #ARGV do
    local id = ARGV[at]
    local job = 'rq:job:' .. id
    local status, ttl = unpack(redis.call('HMGET', job, 'status', 'failure_ttl'))
    if status ~= 'canceled' then -- deleted, or enqueued again
        ended = ended + redis.call('ZREM', KEYS[1], id)
    elseif redis.call('TTL', job) == -1 and redis.call('EXISTS', 'rq:executions:' .. id) == 0 then
        local seconds = tonumber(ttl or ARGV[1]) or tonumber(ARGV[1])
        if seconds >= 0 then -- below it, the producer wants to keep it
            for _, key in ipairs({job, job .. ':dependents', job .. ':dependencies'}) do
                redis.call('EXPIRE', key, string.format('%d', math.max(seconds, 1)))
            end
            -- As long as its logs at least (worker/queue/record.py).
            redis.call('EXPIRE', 'dynapod:attempts:' .. id, string.format('%d', math.max(seconds, 7 * 86400)))
            ended = ended + 1
        end
    end
end
return ended
