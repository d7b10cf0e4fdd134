-- Shared by adopt.lua and scan.lua: move one execution of a dead incarnation `from` to `worker`. Same execution, same
-- attempt. Returns its description, or nil when there is nothing (left) to take.
local function take_over(member, from, worker, wanted, ttl, now, fields)
    local id, execution = split(member)
    if not id then
        return nil
    end
    local theirs = 'rq:worker:' .. from .. ':executions'
    local key, job = execution_key(id, execution), 'rq:job:' .. id
    local origin, status, runner, attempt = unpack(redis.call('HMGET', job, 'origin', 'status', 'worker_name', 'dynapod_attempt'))
    if not status then -- the job was deleted: what is left of it belongs to nobody
        unregister(id, execution, from, origin)
        return nil
    end
    if not wanted[origin or ''] then -- for workers of another queue, perhaps of another cluster
        return nil
    end
    local owner = redis.call('HGET', key, 'worker_name')
    if not owner and status == 'started' and runner == from and attempt
        and redis.call('ZSCORE', 'rq:wip:' .. origin, member) then
        -- Every worker was away for longer than the execution's ttl: rebuild what has expired.
        redis.call('HSET', key, 'id', execution, 'job_id', id, 'created_at', decimal(now),
            'dynapod_attempt', attempt, 'dynapod_minted_by', from)
        owner = from
    end
    if owner ~= from then
        redis.call('SREM', theirs, member)
        return nil
    end
    redis.call('HSET', key, 'worker_name', worker, 'last_heartbeat', decimal(now))
    redis.call('SREM', theirs, member)
    if status == 'started' then
        redis.call('HSET', job, 'worker_name', worker)
        register(id, execution, worker, 'rq:wip:' .. origin, ttl, now)
    else
        register(id, execution, worker, nil, ttl, now)
    end
    return describe(id, execution, fields)
end
