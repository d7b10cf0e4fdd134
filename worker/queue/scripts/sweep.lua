-- Give back what a killed stock rq worker has left in one queue. rq itself would fail these jobs, or lose them.
--
-- KEYS: intermediate list, queue, started registry
-- ARGV: date as rq writes it, seconds after which an entry is stale
-- Returns [id requeued…].

local now = clock()
local requeued = {}

local function requeue(id)
    redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'enqueued_at', ARGV[1])
    redis.call('LPUSH', KEYS[2], id) -- it was the oldest
    requeued[#requeued + 1] = id
end

-- Popped, and its worker died before it was registered.
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local seen_key = KEYS[1] .. ':first_seen:' .. id -- rq's own note (IntermediateQueue.set_first_seen)
    local status = redis.call('HGET', 'rq:job:' .. id, 'status')
    if redis.call('ZCARD', 'rq:executions:' .. id) == 0 then
        -- Not for rq's 24 hours: the note of a job that was started right after would condemn the next one of its id.
        redis.call('SET', seen_key, decimal(now), 'NX', 'EX', 3 * tonumber(ARGV[2]))
        if not status then
            redis.call('LREM', KEYS[1], 1, id)
            redis.call('DEL', seen_key)
        elseif now - tonumber(redis.call('GET', seen_key)) >= tonumber(ARGV[2]) then
            redis.call('LREM', KEYS[1], 1, id)
            redis.call('DEL', seen_key)
            if status == 'queued' or status == 'started' then
                requeue(id)
            end
        end
    end
end

-- Registered, and its heartbeat has stopped. Our own executions never get here: their score is days ahead.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. decimal(now))) do
    local id, execution = split(member)
    if not id then
        redis.call('ZREM', KEYS[3], member)
    else
        local held = redis.call('HMGET', execution_key(id, execution), 'worker_name', 'dynapod_minted_by')
        local job = redis.call('HMGET', 'rq:job:' .. id, 'status', 'origin', 'dynapod_attempt')
        local ours = held[2] or (not held[1] and job[3])
        if not (ours and job[1] == 'started') then -- ours is adopted instead (scan.lua)
            unregister(id, execution, held[1], job[2])
            redis.call('ZREM', KEYS[3], member)
            local listed = redis.call('LREM', KEYS[1], 1, id) == 1
            -- Still `queued`: its worker died between rq's two steps. On several queues rq pops without keeping a copy.
            if job[1] == 'started' or (job[1] == 'queued' and (listed or not redis.call('LPOS', KEYS[2], id))) then
                requeue(id)
            end
        end
    end
end
return requeued
