-- Shared by mend.lua and revive.lua: what an execution of ours consists of, and how it is made whole.

local function is_live(leases, worker, now)
    return lease_state(leases, worker, now) == 'live'
end

-- nil when the key holds something else; without `status` when the job was deleted.
local function read_job(id)
    local kind = redis.call('TYPE', 'rq:job:' .. id).ok
    if kind ~= 'hash' and kind ~= 'none' then
        return nil
    end
    local found = redis.call('HMGET', 'rq:job:' .. id, 'status', 'origin', 'worker_name', 'dynapod_attempt')
    return {status = found[1], origin = found[2] or '', owner = found[3] or '', attempt = found[4]}
end

local function read_execution(id, execution)
    local found = redis.call('HMGET', execution_key(id, execution), 'worker_name', 'dynapod_attempt', 'dynapod_minted_by')
    return {owner = found[1], attempt = found[2], minted_by = found[3]}
end

-- Whether an execution of the job is left, of any attempt or of this one. rq's own worker may let the hash expire before
-- it ends: there, an entry among those that run is enough.
local function has_execution(id, job, attempt)
    for _, execution in ipairs(redis.call('ZRANGE', 'rq:executions:' .. id, 0, -1)) do
        local held = read_execution(id, execution)
        local listed = not job.attempt and redis.call('ZSCORE', 'rq:wip:' .. job.origin, id .. ':' .. execution)
        if listed or (held.owner and (not attempt or held.attempt == attempt)) then
            return true
        end
    end
    return false
end

-- In all registries again, under a lease: one that nobody remembers is entered as condemned, and adopt.lua takes over.
-- Returns whether anything was missing.
local function enter_again(leases, id, execution, owner, origin, ttl, now)
    local member = id .. ':' .. execution
    local whole = redis.call('ZSCORE', 'rq:executions:' .. id, execution)
        and redis.call('SISMEMBER', 'rq:worker:' .. owner .. ':executions', member) == 1
        and (not origin or redis.call('ZSCORE', 'rq:wip:' .. origin, member))
        and redis.call('TTL', execution_key(id, execution)) >= 0
    if not whole then
        register(id, execution, owner, origin and 'rq:wip:' .. origin, ttl, now)
    end
    return redis.call('ZADD', leases, 'NX', decimal(-now), owner) == 1 or not whole
end

-- As takeover.lua: the attempt is the job's newest; its pod is found by its name. Its worker, whose lease is not live,
-- is condemned: should it come back, it must not take this for a claim of its own and create the pod once more.
local function rebuild(leases, id, execution, job, ttl, now)
    redis.call('HSET', execution_key(id, execution), 'id', execution, 'job_id', id, 'created_at', decimal(now),
        'last_heartbeat', decimal(now), 'worker_name', job.owner, 'dynapod_attempt', job.attempt,
        'dynapod_minted_by', job.owner)
    redis.call('ZADD', leases, decimal(-now), job.owner)
    enter_again(leases, id, execution, job.owner, job.status == 'started' and job.origin, ttl, now)
end
