-- Record the end of one attempt: replay rq's own write commands, the ledger entry and the event, or none of them.
--
-- KEYS: execution, job, the job's dependents, ledger, index of the attempt's logs
-- ARGV: worker, attempt, start of the ledger entry (execution and worker), number of containers whose logs must be
--       complete, containers…, number of commands, then for each command: number of words, words…
-- Returns 'recorded', 'fenced', 'logs' when a log is not complete (forgotten in a failover), or 'slow' when rq's own transaction must do it: the job has dependents, or is no
-- longer `started` (rq's cancel, a second enqueue of the same id).

local held = redis.call('HMGET', KEYS[1], 'worker_name', 'dynapod_attempt')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
    -- Our own commit, sent again because its reply was lost, has left this entry; nobody else could have.
    local entry = redis.call('HGET', KEYS[4], ARGV[2])
    if entry and string.sub(entry, 1, #ARGV[3]) == ARGV[3] then
        return 'recorded'
    end
    return 'fenced'
end
local logs = tonumber(ARGV[4])
for n = 1, logs do
    local entry = redis.call('HGET', KEYS[5], ARGV[4 + n])
    if not entry or not string.find(entry, '"complete":true', 1, true) then
        return 'logs'
    end
end
if redis.call('HGET', KEYS[2], 'status') ~= 'started' or redis.call('EXISTS', KEYS[3]) == 1 then
    return 'slow'
end
local at = 6 + logs
for _ = 1, tonumber(ARGV[5 + logs]) do
    local words = tonumber(ARGV[at])
    redis.call(unpack(ARGV, at + 1, at + words))
    at = at + words + 1
end
return 'recorded'
