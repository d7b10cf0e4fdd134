-- The next attempt of an execution that this worker owns: the pod of the old one was never found.
--
-- KEYS: leases, execution, job, ledger, events
-- ARGV: worker, job id, execution id, old attempt, date as rq writes it, ledger entry of the old attempt,
--       events to keep, number of event fields and values, event…, job fields…
-- Returns a description; nil when fenced. Sent again after a lost reply, it mints nothing and describes the first.

local worker, id, execution, old, date = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local length = tonumber(ARGV[8])
local fields = {unpack(ARGV, 9 + length)}
local now = clock()

local state = lease_state(KEYS[1], worker, now)
if state ~= 'live' then
    return redis.error_reply('LEASE ' .. state)
end
local held = redis.call('HMGET', KEYS[2], 'worker_name', 'dynapod_attempt', 'dynapod_minted_by')
local attempt = tonumber(held[2] or 0)
if held[1] ~= worker then
    return false
end
if attempt == old + 1 and held[3] == worker then
    return describe(id, execution, fields)
end
if attempt ~= old or redis.call('EXISTS', KEYS[3]) == 0 then
    return false
end
local number = string.format('%d', old + 1)
-- Who waits for a pod does not become patient anew with each worker that dies.
redis.call('HSETNX', KEYS[2], 'dynapod_since', redis.call('HGET', KEYS[2], 'created_at') or decimal(now))
redis.call('HSET', KEYS[2], 'dynapod_attempt', number, 'dynapod_minted_by', worker, 'created_at', decimal(now))
redis.call('HSET', KEYS[3], 'dynapod_attempt', number)
if redis.call('HGET', KEYS[3], 'status') == 'started' then
    redis.call('HSET', KEYS[3], 'started_at', date)
end
redis.call('HSET', KEYS[4], ARGV[4], ARGV[6])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[7], '*', unpack(ARGV, 9, 8 + length))
return describe(id, execution, fields)
