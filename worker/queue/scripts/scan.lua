-- The backstop of adoption: executions in one queue's started registry whose worker has no lease at all (the lease set
-- was lost, or a member of the worker's own set). They are entered again as what a worker has left, for adopt.lua.
-- Walks the registry in slices, from the rank in ARGV.
--
-- KEYS: leases, the queue's started registry
-- ARGV: worker, execution ttl (s), first rank, slice
-- Returns {number of executions found, number of members seen}; error LEASE when the own lease is not live.

local worker, ttl, first, slice = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = clock()
local found, leaseless = 0, {}

local state = lease_state(KEYS[1], worker, now)
if state ~= 'live' then
    return redis.error_reply('LEASE ' .. state)
end
local members = redis.call('ZRANGE', KEYS[2], first, first + slice - 1)
for _, member in ipairs(members) do
    local id, execution = split(member)
    if id then
        local held = redis.call('HMGET', execution_key(id, execution), 'worker_name', 'dynapod_minted_by')
        local from = held[2] and held[1]
        if not held[1] then
            local job = redis.call('HMGET', 'rq:job:' .. id, 'worker_name', 'dynapod_attempt')
            from = job[2] and job[1]
        end
        -- Without our fields it is an rq worker's own execution: sweep.lua's business.
        if from and from ~= worker and (leaseless[from] or not redis.call('ZSCORE', KEYS[1], from)) then
            local theirs = 'rq:worker:' .. from .. ':executions'
            redis.call('SADD', theirs, member)
            redis.call('EXPIRE', theirs, ttl)
            leaseless[from] = true
            found = found + 1
        end
    end
end
for from, _ in pairs(leaseless) do
    redis.call('ZADD', KEYS[1], decimal(-now), from)
end
return {found, #members}
