-- Describe executions that are registered under this worker but that it does not hold: the reply of a claim, an
-- adoption or a mint was lost.
--
-- KEYS: none
-- ARGV: worker, number of members, members…, job fields…
-- Returns [description…] of those that are (still) its own.

local found = {}
local count = tonumber(ARGV[2])
local fields = {unpack(ARGV, 3 + count)}
for m = 1, count do
    local id, execution = split(ARGV[2 + m])
    if redis.call('HGET', execution_key(id, execution), 'worker_name') == ARGV[1] then
        found[#found + 1] = describe(id, execution, fields)
    end
end
return found
