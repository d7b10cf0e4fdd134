-- Shared by all scripts: put in front of each. Server time only: the clocks of workers may disagree.
-- Keys are built from ids, so these scripts need one Redis (or a primary with replicas), not Redis Cluster; so does rq.

local function clock()
    local time = redis.call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- Lua would print a large float as 1.7e+09.
local function decimal(number)
    return string.format('%.6f', number)
end

-- Job ids may hold colons; execution ids never do.
local function split(member)
    return string.match(member, '^(.*):([^:]*)$')
end

local function execution_key(id, execution)
    return 'rq:execution:' .. id .. ':' .. execution
end

-- No lease is longer (wire.LONGEST_LEASE_S). One that seems to be was written before the clock was set back.
local LONGEST_LEASE = 600

-- 'live', 'lapsed' (nobody has touched its executions yet: it may be renewed) or 'lost'.
local function lease_state(leases, worker, now)
    local score = tonumber(redis.call('ZSCORE', leases, worker) or 0)
    if score <= 0 then
        return 'lost'
    elseif score < now or score > now + LONGEST_LEASE then
        return 'lapsed'
    end
    return 'live'
end

-- Enter an execution in all of rq's registries. `wip` is nil when the job is no longer `started` (rq's cancel has
-- taken it out, and `rq info` must not count it).
local function register(id, execution, worker, wip, ttl, now)
    local member = id .. ':' .. execution
    local score = math.floor(now) + ttl
    redis.call('EXPIRE', execution_key(id, execution), ttl)
    redis.call('ZADD', 'rq:executions:' .. id, score + 60, execution)
    redis.call('EXPIRE', 'rq:executions:' .. id, ttl + 60)
    if wip then
        redis.call('ZADD', wip, score, member)
    end
    redis.call('SADD', 'rq:worker:' .. worker .. ':executions', member)
    redis.call('EXPIRE', 'rq:worker:' .. worker .. ':executions', ttl + 60)
end

-- Take an execution out of all of rq's registries.
local function unregister(id, execution, worker, origin)
    local member = id .. ':' .. execution
    redis.call('DEL', execution_key(id, execution))
    redis.call('ZREM', 'rq:executions:' .. id, execution)
    if origin then
        redis.call('ZREM', 'rq:wip:' .. origin, member)
    end
    if worker then
        redis.call('SREM', 'rq:worker:' .. worker .. ':executions', member)
    end
end

-- What a worker has to know about one execution, in the order of claim.py's `ClaimReply`.
local function describe(id, execution, fields)
    local held = redis.call('HMGET', execution_key(id, execution), 'dynapod_attempt', 'dynapod_minted_by', 'created_at',
        'dynapod_since', 'dynapod_poison')
    local job = redis.call('HMGET', 'rq:job:' .. id, unpack(fields))
    if held[5] then -- its payload may be what kills: see poison.lua
        for n, field in ipairs(fields) do
            job[n] = field ~= 'data' and job[n]
        end
    end
    return {id, execution, held[1], held[2], held[3], held[4], held[5], redis.call('GET', 'dynapod:stop:' .. id), job}
end
