-- The backstop of adoption: executions in one queue's started registry whose worker has no lease at all (the lease set
-- was lost, or a member of the worker's own set). Walks the registry in slices, from the rank in ARGV.
--
-- KEYS: leases, the queue's started registry
-- ARGV: worker, queue, execution ttl (s), first rank, slice, job fields…
-- Returns {[description…], number of members seen}.

local worker, queue, ttl, first, slice = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local fields = {unpack(ARGV, 6)}
local wanted = {[queue] = true}
local now = clock()
local adopted = {}

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
        if from and from ~= worker and not redis.call('ZSCORE', KEYS[1], from) then
            adopted[#adopted + 1] = take_over(member, from, worker, wanted, ttl, now, fields)
        end
    end
end
return {adopted, #members}
