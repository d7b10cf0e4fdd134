-- Make executions whole again, or nothing: one of ours whose registrations are not all there (Redis lost a part, somebody
-- deleted one) is entered again, so that it is adopted like any other; what is left of one that is over is removed.
-- Changes nothing about an execution that is as claim.lua left it.
--
-- KEYS: leases
-- ARGV: execution ttl (s), number of queues, queue names…, then pairs: member, the worker in whose set it was found or ''
-- Returns [[member, what was done]…], without those that were whole.

local ttl, queues = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, done = {}, {}
for q = 1, queues do
    wanted[ARGV[2 + q]] = true
end
local now = clock()

-- As `unregister`; returns nil when nothing of it was left.
local function drop(id, execution, owner, holder, listing)
    local member = id .. ':' .. execution
    local removed = redis.call('DEL', execution_key(id, execution)) + redis.call('ZREM', 'rq:executions:' .. id, execution)
    for queue in pairs(listing) do
        removed = removed + redis.call('ZREM', 'rq:wip:' .. queue, member)
    end
    for _, worker in ipairs({holder, owner or ''}) do
        removed = removed + redis.call('SREM', 'rq:worker:' .. worker .. ':executions', member)
    end
    return removed > 0 and 'removed' or nil
end

local function mend_deleted(id, execution, owner, holder)
    if (owner and is_live(KEYS[1], owner, now)) or (holder ~= '' and is_live(KEYS[1], holder, now)) then
        return nil -- its worker ends the pod and says so (audit.lua)
    end
    return drop(id, execution, owner, holder, wanted) -- its queue is not known any more
end

local function mend_held(id, execution, job, held, holder)
    if job.status == 'started' and held.attempt ~= job.attempt then
        return drop(id, execution, held.owner, holder, {[job.origin] = true}) -- superseded: its commit must not count
    end
    if holder ~= '' and holder ~= held.owner then
        redis.call('SREM', 'rq:worker:' .. holder .. ':executions', id .. ':' .. execution)
    end
    local changed = enter_again(KEYS[1], id, execution, held.owner, job.status == 'started' and job.origin, ttl, now)
    return changed and 'registered' or nil
end

local function mend_lost(id, execution, job, holder)
    local owed = job.status == 'started'
        or (job.status == 'canceled' and redis.call('HEXISTS', 'dynapod:attempts:' .. id, job.attempt) == 0)
    if not owed or has_execution(id, job, job.attempt) or job.owner == '' or is_live(KEYS[1], job.owner, now) then
        return drop(id, execution, nil, holder, {[job.origin] = true}) -- a living worker hears of it by its audit, and lets go
    end
    if holder ~= '' and holder ~= job.owner then
        redis.call('SREM', 'rq:worker:' .. holder .. ':executions', id .. ':' .. execution)
    end
    rebuild(KEYS[1], id, execution, job, ttl, now)
    return 'rebuilt'
end

for at = 3 + queues, #ARGV, 2 do
    local id, execution = split(ARGV[at])
    local job = id and read_job(id)
    local held = job and read_execution(id, execution)
    local what
    if not job or (held.owner and not held.minted_by) then
        what = nil -- not ours: rq's own, which sweep.lua knows
    elseif not job.status then
        what = mend_deleted(id, execution, held.owner, ARGV[at + 1])
    elseif not wanted[job.origin] or (not held.owner and not job.attempt) then
        what = nil -- of another installation; or rq's own
    elseif held.owner then
        what = mend_held(id, execution, job, held, ARGV[at + 1])
    else
        what = mend_lost(id, execution, job, ARGV[at + 1])
    end
    if what then
        done[#done + 1] = {ARGV[at], what}
    end
end
return done
