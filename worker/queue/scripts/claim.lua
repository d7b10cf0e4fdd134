-- Pop jobs and register them as executions of this worker. All or nothing: there is no intermediate list, so no gap.
--
-- KEYS: leases, this worker's rq hash, rq's suspension flag, the quarantine
-- ARGV: worker, limit, date as rq writes it, execution ttl (s), stem of the new execution ids, limit of payload bytes,
--       entries that a ledger keeps, number of queues, queue names…, job fields…
-- Returns {'claimed', [description…], [dropped id…]}, or {'suspended'}, or {'quarantined'} while this worker tries a suspect
-- alone (poison.lua); error LEASE when the lease is not live.

local worker, limit, date, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local stem, byte_limit, entries, queues = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local fields = {unpack(ARGV, 9 + queues)}
local now = clock()
local claimed, dropped, bytes = {}, {}, 0

local state = lease_state(KEYS[1], worker, now)
if state ~= 'live' then
    return redis.error_reply('LEASE ' .. state)
end
if redis.call('EXISTS', KEYS[3]) == 1 then
    return {'suspended'}
end
if redis.call('GET', KEYS[4]) == worker then
    return {'quarantined'}
end

-- A claimed job must have no other live attempt. One is left when somebody enqueued the same id again while it ran:
-- the newer attempt wins, and the older one's worker is told to end its pod.
local function supersede(id, origin)
    for _, execution in ipairs(redis.call('ZRANGE', 'rq:executions:' .. id, 0, -1)) do
        local held = redis.call('HMGET', execution_key(id, execution), 'worker_name', 'dynapod_minted_by')
        if held[2] then
            unregister(id, execution, held[1], origin)
            redis.call('PUBLISH', 'rq:pubsub:' .. held[1],
                cjson.encode({command = 'stop-execution', job_id = id, execution_id = execution}))
        end
    end
end

-- How old an entry is, as a number below 0. What is no number (NaN neither: sorting would fail on it) goes first.
local function age(field)
    local number = tonumber(field)
    return number == number and -(number or 0) or 0
end

-- Room in the ledger for one more entry: the oldest goes. Counted, because waits leave gaps between the numbers.
local function make_room(ledger)
    local excess = redis.call('HLEN', ledger) - entries + 1
    if excess > 0 then
        local numbers = redis.call('HKEYS', ledger)
        table.sort(numbers, function(one, other) return age(one) > age(other) end)
        for n = 1, excess do
            redis.call('HDEL', ledger, numbers[n])
        end
    end
end

-- Attempt numbers name pods, so a number is never used twice for an id, even when the job's hash was deleted and the
-- id enqueued again: the ledger remembers.
local function mint(id, job)
    local attempt = tonumber(redis.call('HGET', job, 'dynapod_attempt') or 0) or 0
    -- Pods are named by it: what a producer left in the field must not keep every worker from its work.
    if attempt < 1 or attempt > 1e9 or attempt ~= math.floor(attempt) then
        attempt = 0
        for _, recorded in ipairs(redis.call('HKEYS', 'dynapod:attempts:' .. id)) do
            attempt = math.max(attempt, tonumber(recorded) or 0)
        end
    end
    make_room('dynapod:attempts:' .. id)
    redis.call('PERSIST', 'dynapod:attempts:' .. id)
    return string.format('%d', attempt + 1)
end

-- The writes of rq's Execution.create and Job.prepare_for_execution (rq 3.0.0), and our own fields.
local function start(id, job, queue)
    supersede(id, redis.call('HGET', job, 'origin'))
    local attempt = mint(id, job)
    local execution = stem .. string.format('%04x', #claimed)
    redis.call('HSET', job, 'status', 'started', 'started_at', date, 'last_heartbeat', date,
        'worker_name', worker, 'origin', queue, 'dynapod_attempt', attempt)
    redis.call('PERSIST', job)
    redis.call('HSET', execution_key(id, execution), 'id', execution, 'job_id', id, 'created_at', decimal(now),
        'last_heartbeat', decimal(now), 'worker_name', worker, 'dynapod_attempt', attempt, 'dynapod_minted_by', worker,
        'dynapod_held_since', decimal(now))
    register(id, execution, worker, 'rq:wip:' .. queue, ttl, now)
    bytes = bytes + redis.call('HSTRLEN', job, 'data')
    claimed[#claimed + 1] = describe(id, execution, fields)
end

-- Redis does not roll a script back: a key of a foreign type met after LPOP would lose the job. Keys of one job that
-- are not what they must be are nobody's record, and go; a registry of the wrong type stops the claim before any pop.
local function has_type(key, kind)
    local found = redis.call('TYPE', key).ok
    return found == 'none' or found == kind
end
local function mend(id)
    local kinds = {['dynapod:attempts:' .. id] = 'hash', ['dynapod:stop:' .. id] = 'string', ['rq:executions:' .. id] = 'zset'}
    for key, kind in pairs(kinds) do
        if not has_type(key, kind) then
            redis.call('DEL', key)
        end
    end
end

for q = 1, queues do
    local queue = ARGV[8 + q]
    if not has_type('rq:wip:' .. queue, 'zset') then
        return redis.error_reply('WRONGTYPE rq:wip:' .. queue .. ' is no sorted set')
    end
    while #claimed < limit and bytes < byte_limit do
        local id = redis.call('LPOP', 'rq:queue:' .. queue)
        if not id then
            break
        end
        local job = 'rq:job:' .. id
        local is_hash = redis.call('TYPE', job).ok == 'hash'
        local status = is_hash and redis.call('HGET', job, 'status')
        -- A producer in another language may have left the status out; every other status means: not to be run.
        if status == 'queued' or (is_hash and not status and redis.call('HEXISTS', job, 'data') == 1) then
            mend(id)
            start(id, job, queue)
        else
            dropped[#dropped + 1] = id
        end
    end
end
if #claimed > 0 and redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('HSET', KEYS[2], 'state', 'busy')
end
return {'claimed', claimed, dropped}
