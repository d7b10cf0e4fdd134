-- Shared by adopt.lua: move executions of a dead incarnation `from` to `worker`. Same execution, same attempt.

-- The job's origin and status, when the execution is there to be taken; else nil, and what is left of it is removed.
local function inherit(member, from, wanted, now)
    local id, execution = split(member)
    if not id then
        return nil
    end
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
        redis.call('HSET', key, 'id', execution, 'job_id', id, 'created_at', decimal(now), 'worker_name', from,
            'dynapod_attempt', attempt, 'dynapod_minted_by', from)
        owner = from
    end
    if owner ~= from then
        redis.call('SREM', 'rq:worker:' .. from .. ':executions', member)
        return nil
    end
    return origin, status
end

-- Take what `inherit` has found; returns its description.
local function take_over(found, worker, ttl, now, fields)
    local id, execution = split(found.member)
    redis.call('HSET', execution_key(id, execution), 'worker_name', worker, 'last_heartbeat', decimal(now),
        'dynapod_held_since', decimal(now))
    redis.call('SREM', 'rq:worker:' .. found.from .. ':executions', found.member)
    if found.status == 'started' then
        redis.call('HSET', 'rq:job:' .. id, 'worker_name', worker)
        register(id, execution, worker, 'rq:wip:' .. found.origin, ttl, now)
    else
        register(id, execution, worker, nil, ttl, now)
    end
    return describe(id, execution, fields)
end
