-- Keys of jobs that are no more, deleted by somebody while they waited or ran: nobody will come back for them.
--
-- KEYS: leases
-- ARGV: seconds that a ledger is kept, keys…
-- Returns how many keys were given an end.

local forgotten = 0
local now = clock()
for at = 2, #ARGV do
    local key = ARGV[at]
    local id = string.match(key, '^dynapod:attempts:(.*)$')
    local stopped = string.match(key, '^dynapod:stop:(.*)$')
    local worker = string.match(key, '^rq:worker:([^:]*)$')
    local ended = false
    if redis.call('TTL', key) == -1 then
        if id and redis.call('EXISTS', 'rq:job:' .. id) == 0 then
            ended = redis.call('EXPIRE', key, ARGV[1]) == 1 -- the attempts' logs can be read for as long
        elseif stopped and redis.call('EXISTS', 'rq:job:' .. stopped) == 0 then
            ended = redis.call('DEL', key) == 1 -- it would stop the next job of this id
        elseif worker and lease_state(KEYS[1], worker, now) ~= 'live' then
            ended = redis.call('EXPIRE', key, 60) == 1 -- a commit has counted on after the hash had expired
        end
    end
    forgotten = forgotten + (ended and 1 or 0)
end
return forgotten
