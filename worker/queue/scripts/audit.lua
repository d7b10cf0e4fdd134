-- What Redis believes this worker is doing, to be compared with what it knows itself.
--
-- KEYS: this worker's executions
-- ARGV: worker
-- Returns {[member…], [[member, the job's status, stop flag]…]}: the second list only for jobs that should end.

local members, notes = {}, {}
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local id, execution = split(member)
    local owner = id and redis.call('HGET', execution_key(id, execution), 'worker_name')
    if owner == ARGV[1] then
        members[#members + 1] = member
        local status = redis.call('HGET', 'rq:job:' .. id, 'status') or 'deleted'
        local stop = redis.call('GET', 'dynapod:stop:' .. id)
        if stop or status ~= 'started' then
            notes[#notes + 1] = {member, status, stop}
        end
    else
        redis.call('SREM', KEYS[1], member)
    end
end
return {members, notes}
