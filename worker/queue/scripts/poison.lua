-- Who killed a worker? worker/queue/poison.py tells the whole story. Shared by adopt.lua, behind the prelude.
--
-- Fields of an execution's hash:
--   dynapod_held_since  when its worker took it; absent from the inquest on its worker's death to the next take-over
--   dynapod_deaths      deaths in a row of workers that held it young
--   dynapod_group       how many may have been guilty of the last of them
--   dynapod_alone       how many of those deaths left nobody else to blame
--   dynapod_poison      the same, once it is as high as the policy allows: handle it no more

local SUSPECT = 2 -- deaths; one may happen to anybody

-- `dead` died when its lease `ended`: what it had held for `stable` seconds is cleared, what is younger may be guilty.
local function inquest(dead, members, ended, stable, losses)
    local young, suspects = {}, 0
    for _, member in ipairs(members) do
        local id, execution = split(member)
        local key = id and execution_key(id, execution)
        local held = key and redis.call('HMGET', key, 'worker_name', 'dynapod_held_since', 'created_at', 'dynapod_deaths')
        if held and held[1] == dead then
            local deaths = tonumber(held[4] or 0)
            if ended - (tonumber(held[2] or held[3]) or 0) < stable then
                young[#young + 1] = {key, deaths}
                suspects = suspects + (deaths >= SUSPECT and 1 or 0)
            elseif deaths > 0 then
                redis.call('HDEL', key, 'dynapod_deaths', 'dynapod_group', 'dynapod_alone')
            end
        end
    end
    for _, one in ipairs(young) do
        local key, deaths = one[1], one[2]
        redis.call('HDEL', key, 'dynapod_held_since')
        redis.call('HSET', key, 'dynapod_deaths', deaths + 1, 'dynapod_group', deaths >= SUSPECT and suspects or #young)
        if #young == 1 then
            local alone = redis.call('HINCRBY', key, 'dynapod_alone', 1)
            if alone >= losses then
                redis.call('HSET', key, 'dynapod_poison', alone)
            end
        end
    end
end

-- How many suspects of its group a worker may hold at a time; nil when the execution is no suspect. `ceased` is when
-- the worker that holds it did: one that released it in peace had perhaps held it for long enough.
local function trial_size(id, execution, ceased, stable)
    local held = redis.call('HMGET', execution_key(id, execution), 'dynapod_held_since', 'dynapod_deaths',
        'dynapod_group', 'dynapod_poison')
    local survived = held[1] and ceased - tonumber(held[1]) >= stable
    if survived or held[4] or tonumber(held[2] or 0) < SUSPECT then
        return nil
    end
    return math.max(1, math.floor(tonumber(held[3] or 1) / 2))
end

-- What this worker holds that is young, and what of it is on trial: {young, suspects, the smallest trial's size}.
local function own_trial(worker, now, stable)
    local own = {young = 0, suspects = 0, size = math.huge}
    for _, member in ipairs(redis.call('SMEMBERS', 'rq:worker:' .. worker .. ':executions')) do
        local id, execution = split(member)
        local since = id and redis.call('HGET', execution_key(id, execution), 'dynapod_held_since')
        if since and now - tonumber(since) < stable then
            own.young = own.young + 1
            local size = trial_size(id, execution, now, stable)
            if size then
                own.suspects = own.suspects + 1
                own.size = math.min(own.size, size)
            end
        end
    end
    return own
end
