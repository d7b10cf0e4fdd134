-- Move due jobs of one queue from rq's scheduled registry to the queue, as RQScheduler.enqueue_scheduled_jobs does,
-- but atomically, so any number of our workers may do it at once.
--
-- KEYS: scheduled registry, queue, rq's scheduler lock of the queue, rq's set of queues
-- ARGV: queue name, date as rq writes it, limit, lock ttl (s), default timeout (s)
-- Returns {number moved, [id of a rate-limited job…], whether more are due}.
-- rq's own scheduler is not atomic: while one holds the lock, the queue is its business. We all share one owner's name.

local now = clock()
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= 'dynapod' then
    return {0, {}, 0}
end
local limit = tonumber(ARGV[3])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', decimal(now), 'LIMIT', 0, limit)
if #due == 0 then
    if holder then
        redis.call('DEL', KEYS[3])
    end
    return {0, {}, 0}
end
redis.call('SET', KEYS[3], 'dynapod', 'EX', ARGV[4])
local moved, limited = 0, {}
for _, id in ipairs(due) do
    local job = 'rq:job:' .. id
    local status, front, ttl, rate = unpack(redis.call('HMGET', job, 'status', 'enqueue_at_front', 'ttl', 'rate_limit_key'))
    if rate and rate ~= '' and status == 'scheduled' then
        limited[#limited + 1] = id
    else
        redis.call('ZREM', KEYS[1], id)
        if status == 'scheduled' then
            redis.call('HSET', job, 'status', 'queued', 'enqueued_at', ARGV[2], 'origin', ARGV[1])
            redis.call('HSETNX', job, 'timeout', ARGV[5])
            if tonumber(ttl or 0) and tonumber(ttl or 0) > 0 then
                redis.call('EXPIRE', job, ttl)
                redis.call('EXPIRE', job .. ':dependents', ttl)
                redis.call('EXPIRE', job .. ':dependencies', ttl)
            end
            redis.call(front == '1' and 'LPUSH' or 'RPUSH', KEYS[2], id)
            redis.call('SADD', KEYS[4], KEYS[2])
            moved = moved + 1
        end
    end
end
return {moved, limited, #due == limit and 1 or 0}
