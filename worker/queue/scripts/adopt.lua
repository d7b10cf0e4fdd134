-- Take over executions of incarnations whose lease has lapsed. Costs one ZRANGEBYSCORE when nobody has died.
--
-- KEYS: leases, rq's set of workers
-- ARGV: worker, limit, execution ttl (s), seconds after which an idle dead lease is forgotten,
--       number of queues, queue names…, job fields…
-- Returns [description…]; error LEASE when the own lease is not live.

local worker, limit, ttl, forget = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local queues = tonumber(ARGV[5])
local wanted = {}
for q = 1, queues do
    wanted[ARGV[5 + q]] = true
end
local fields = {unpack(ARGV, 6 + queues)}
local now = clock()
local adopted = {}

local state = lease_state(KEYS[1], worker, now)
if state ~= 'live' then
    return redis.error_reply('LEASE ' .. state)
end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. decimal(now))) do
    local theirs = 'rq:worker:' .. dead .. ':executions'
    for _, member in ipairs(redis.call('SMEMBERS', theirs)) do
        if #adopted >= limit then
            break
        end
        local taken = take_over(member, dead, worker, wanted, ttl, now, fields)
        if taken then
            -- From the first execution taken, the incarnation is condemned: it must not renew and work on beside us.
            redis.call('ZADD', KEYS[1], decimal(-now), dead)
            adopted[#adopted + 1] = taken
        end
    end
    if redis.call('SCARD', theirs) == 0 then
        local score = tonumber(redis.call('ZSCORE', KEYS[1], dead))
        -- Every worker has the time to hear of it (JobQueue.lapsed): it may have left pods behind.
        if math.abs(score) < now - forget then
            redis.call('ZREM', KEYS[1], dead)
            redis.call('SREM', KEYS[2], 'rq:worker:' .. dead)
        end
    end
end
return adopted
