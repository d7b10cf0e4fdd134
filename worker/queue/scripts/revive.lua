-- Jobs that are `started` although no execution of theirs is left: nobody would ever end them. Run after mend.lua has
-- seen every execution there is.
--
-- KEYS: leases
-- ARGV: 'look' or 'act', date as rq writes it, stem of new execution ids, execution ttl (s), number of queues, queue
--       names…, job ids…
-- Returns [[id, what was done or would be]…], without those that are well.

local act, date, stem, ttl, queues = ARGV[1] == 'act', ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local wanted, done = {}, {}
for q = 1, queues do
    wanted[ARGV[5 + q]] = true
end
local now = clock()

-- What is to be done about a job without an execution: its pod is looked for by whoever adopts it. Where there is no
-- dead worker to adopt it from, it is enqueued again: its next claim mints the next attempt, and supersedes the pod.
local function cure(job)
    if job.attempt and job.owner ~= '' and not is_live(KEYS[1], job.owner, now) then
        return 'rebuilt'
    elseif job.attempt or job.owner == '' or redis.call('EXISTS', 'rq:worker:' .. job.owner) == 0 then
        return 'requeued'
    end
    return nil -- a living rq worker's own
end

for at = 6 + queues, #ARGV do
    local id = ARGV[at]
    local job = read_job(id)
    if job and job.status == 'started' and wanted[job.origin] and not has_execution(id, job) then
        local what = cure(job)
        if what then
            done[#done + 1] = {id, what}
        end
        if act and what == 'rebuilt' then
            rebuild(KEYS[1], id, stem .. string.format('%04x', #done % 65536), job, ttl, now)
        elseif act and what == 'requeued' then
            redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'enqueued_at', date)
            redis.call('LPUSH', 'rq:queue:' .. job.origin, id) -- it was the oldest
        end
    end
end
return done
