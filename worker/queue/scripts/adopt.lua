-- Take over executions of incarnations whose lease has lapsed. Costs one ZRANGEBYSCORE when nobody has died.
--
-- KEYS: leases, rq's set of workers, the quarantine
-- ARGV: worker, limit, execution ttl (s), seconds after which an idle dead lease is forgotten,
--       seconds after which a job is no longer young, deaths that a job may cause alone (0: nobody is suspected),
--       number of queues, queue names…, job fields…
-- Returns {[description…], number of suspects that wait for their trial}; error LEASE when the own lease is not live.

local worker, limit, ttl, forget = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local stable, losses, queues = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local wanted = {}
for q = 1, queues do
    wanted[ARGV[7 + q]] = true
end
local fields = {unpack(ARGV, 8 + queues)}
local now = clock()
local free, suspects, adopted = {}, {}, {}

local state = lease_state(KEYS[1], worker, now)
if state ~= 'live' then
    return redis.error_reply('LEASE ' .. state)
end

-- The quarantine's holder takes nothing before all that it has is old, the one suspect included.
local quarantined = redis.call('GET', KEYS[3])
if quarantined == worker then
    if own_trial(worker, now, stable).young > 0 then
        return {adopted, 0}
    end
    redis.call('DEL', KEYS[3])
    quarantined = nil
end

-- Once somebody takes over from it, an incarnation is condemned: it must not renew and work on beside us. Its score
-- turns negative with that, so an inquest is held once.
local function condemn(dead, members, score)
    if score > 0 then
        if losses > 0 then
            inquest(dead, members, math.min(score, now), stable, losses)
        end
        redis.call('ZADD', KEYS[1], decimal(-now), dead)
    end
end

local function look_at(dead)
    local score = tonumber(redis.call('ZSCORE', KEYS[1], dead))
    local members = redis.call('SMEMBERS', 'rq:worker:' .. dead .. ':executions')
    for _, member in ipairs(members) do
        if #free >= limit then
            break
        end
        local origin, status = inherit(member, dead, wanted, now)
        if origin then
            condemn(dead, members, score)
            local found = {member = member, from = dead, origin = origin, status = status}
            local id, execution = split(member)
            found.size = losses > 0 and trial_size(id, execution, math.min(math.abs(score), now), stable)
            local list = found.size and suspects or free
            list[#list + 1] = found
            score = -now
        end
    end
end

local function take(found)
    adopted[#adopted + 1] = take_over(found, worker, ttl, now, fields)
end

-- Whether this worker is the one that tries a suspect alone: from now on, it takes nothing else.
local function quarantine()
    local other = quarantined and tonumber(redis.call('ZSCORE', KEYS[1], quarantined) or 0) > now
    if #suspects == 0 or suspects[1].size > 1 or other then
        return false
    end
    -- As long as it takes what we hold to become old, and then the suspect.
    redis.call('SET', KEYS[3], worker, 'EX', math.ceil(2 * stable) + 1)
    if own_trial(worker, now, stable).young == 0 then
        take(table.remove(suspects, 1))
    end
    return true
end

local function take_suspects()
    local own = #suspects > 0 and own_trial(worker, now, stable)
    local left = {}
    for _, found in ipairs(suspects) do
        local size = own and math.min(own.size, found.size)
        if found.size > 1 and #adopted < limit and own.suspects < size then
            own.suspects, own.size = own.suspects + 1, size
            take(found)
        else
            left[#left + 1] = found
        end
    end
    suspects = left
end

local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. decimal(now))
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. decimal(now + LONGEST_LEASE), '+inf')) do
    lapsed[#lapsed + 1] = dead
end
for _, dead in ipairs(lapsed) do
    look_at(dead)
end
table.sort(suspects, function(one, other) return one.size < other.size end)
if not quarantine() then
    for _, found in ipairs(free) do
        take(found)
    end
    take_suspects()
end
for _, dead in ipairs(lapsed) do
    if redis.call('SCARD', 'rq:worker:' .. dead .. ':executions') == 0 then
        local score = tonumber(redis.call('ZSCORE', KEYS[1], dead))
        -- Every worker has the time to hear of it (JobQueue.lapsed): it may have left pods behind.
        if math.abs(score) < now - forget or math.abs(score) > now + LONGEST_LEASE then
            redis.call('ZREM', KEYS[1], dead)
            redis.call('SREM', KEYS[2], 'rq:worker:' .. dead)
        end
    end
end
return {adopted, #suspects}
