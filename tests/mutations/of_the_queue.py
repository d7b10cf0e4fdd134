"""Sabotage of what is decided in Redis: claim, lease, adoption, commit, maintenance."""

from typing import Final

from tests.mutations.sabotage import Sabotage

_QUEUE: Final = "tests/worker/queue/"
_FITNESS: Final = "tests/redis_production/test_fitness.py::"

_CLAIM: Final = (
    Sabotage(
        "claim-without-lease",
        "worker/queue/scripts/claim.lua",
        "if state ~= 'live' then",
        "if state == 'lapsed' then",
        "a worker whose lease is lost goes on claiming: nobody would adopt in time what it claims",
        (_QUEUE + "test_claim.py::test_a_worker_without_a_live_lease_claims_nothing",),
    ),
    Sabotage(
        "claim-what-is-not-queued",
        "worker/queue/scripts/claim.lua",
        "if status == 'queued' or (is_hash",
        "if status or (is_hash",
        "a canceled job whose id is still in the list runs",
        (_QUEUE + "test_claim.py::test_what_is_not_queued_is_dropped",),
    ),
    Sabotage(
        "forget-old-attempt-numbers",
        "worker/queue/scripts/claim.lua",
        "attempt = math.max(attempt, tonumber(recorded) or 0)",
        "attempt = 0",
        "an id that is enqueued again gets the number, and so the pod's name, of an earlier attempt",
        (_QUEUE + "test_claim.py::test_attempt_numbers_are_never_used_twice_for_an_id",),
    ),
    Sabotage(
        "leave-the-superseded-attempt",
        "worker/queue/scripts/claim.lua",
        "    supersede(id, redis.call('HGET', job, 'origin'))\n",
        "",
        "a job that is enqueued again while it runs has two live attempts",
        (_QUEUE + "test_claim.py::test_enqueuing_a_running_job_again_supersedes_its_attempt",),
    ),
)

_ADOPTION: Final = (
    Sabotage(
        "adopt-from-the-living",
        "worker/queue/scripts/adopt.lua",
        "local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. decimal(now))",
        "local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '+inf')",
        "a worker takes over what a living one is working on",
        (_QUEUE + "test_adoption.py::test_a_live_worker_keeps_its_executions",),
    ),
    Sabotage(
        "let-the-condemned-come-back",
        "worker/queue/scripts/adopt.lua",
        "        redis.call('ZADD', KEYS[1], decimal(-now), dead)\n",
        "",
        "a worker that was paused beyond its lease renews it and works on beside its heir",
        (_QUEUE + "test_adoption.py::test_a_worker_is_over_from_the_moment_on_at_which_anything_was_taken_from_it",),
    ),
    Sabotage(
        "keep-the-lease-of-who-leaves",
        "worker/queue/lease.py",
        "            pipeline.zadd(wire.LEASES_KEY, {self._worker: -self.now()}, xx=True)\n",
        "",
        "after each rolling deployment, jobs lie unattended until leases lapse",
        (_QUEUE + "test_adoption.py::test_a_released_worker_is_adopted_from_at_once_and_its_death_is_registered",),
    ),
    Sabotage(
        "create-on-adoption",
        "runner_spec/ownership.py",
        "return Start.FIND if adopted else Start.CREATE",
        "return Start.CREATE",
        "the heir creates a pod that the dead worker's late request creates as well",
        ("tests/model/test_model.py::test_every_promise_holds_in_every_order_of_steps[one fault]",),
    ),
    Sabotage(
        "create-own-strays",
        "worker/queue/job_queue.py",
        "return [self._hold(description) for description in reply]",
        "return [self._hold(description, adopted=False) for description in reply]",
        "a claim that a failover brought back has its pod created again, though it has run and was deleted",
        (_QUEUE + "test_lost_replies.py::test_jobs_of_a_claim_whose_reply_was_lost_are_found_again",),
    ),
    Sabotage(
        "mint-the-same-number",
        "worker/queue/scripts/mint.lua",
        "local number = string.format('%d', old + 1)",
        "local number = string.format('%d', old)",
        "an attempt whose creation may still take effect is created a second time",
        (_QUEUE + "test_adoption.py::test_minting_gives_the_next_attempt_and_records_the_old_one",),
    ),
    Sabotage(
        "mint-without-fence",
        "worker/queue/scripts/mint.lua",
        "if held[1] ~= worker then",
        "if not held[1] then",
        "a worker that has lost the job mints an attempt beside the owner's",
        (_QUEUE + "test_adoption.py::test_minting_is_fenced",),
    ),
    Sabotage(
        "mint-twice-for-a-lost-reply",
        "worker/queue/scripts/mint.lua",
        "if attempt == old + 1 and held[3] == worker then",
        "if attempt == old and held[3] == worker then",
        "a worker that never heard the reply to its mint lets go of a job that it owns",
        (_QUEUE + "test_lost_replies.py::test_a_mint_whose_reply_was_lost_is_repeated_without_another_attempt",),
    ),
    Sabotage(
        "forget-the-stop-on-adoption",
        "worker/queue/claim.py",
        'stop_requested=stop_request(job.get("status", b""), stop),',
        'stop_requested=None if adopted else stop_request(job.get("status", b""), stop),',
        "a canceled job runs on, because its worker died",
        (_QUEUE + "test_adoption.py::test_a_canceled_running_job_is_adopted_too_and_says_that_it_must_stop",),
    ),
    Sabotage(
        "follow-any-pod-of-the-name",
        "worker/adoption.py",
        "pod = None  # it only has the name",
        "pass  # it only has the name",
        "a pod that only has the attempt's name is taken for it, and its success for the job's",
        ("tests/worker/test_adoption.py::test_a_pod_that_only_has_the_name_is_not_followed",),
    ),
    Sabotage(
        "no-answer-means-no-pod",
        "worker/launch.py",
        'extra={"action": "get_retry", "pod": name})\n',
        'extra={"action": "get_retry", "pod": name})\n                return None\n',
        "while Kubernetes is away, running pods are taken for absent and doubled",
        ("tests/worker/test_launch.py::test_only_an_answer_says_that_there_is_no_pod",),
    ),
    Sabotage(
        "renew-a-lost-lease",
        "worker/queue/scripts/renew.lua",
        "if state == 'lost' then",
        "if state == 'forgotten' then",
        "a worker that others took over from works on beside them",
        (_QUEUE + "test_adoption.py::test_a_worker_is_over_from_the_moment_on_at_which_anything_was_taken_from_it",),
    ),
    Sabotage(
        "forget-dead-workers-pods",
        "worker/adoption.py",
        "            self._hands.spawn(self._reflector.cover(new))\n",
        "            self._dead = dead\n",
        "the pod of a worker that died between record and deletion stays for ever",
        ("tests/worker/test_supervisor.py::test_the_pod_of_a_worker_that_died_between_record_and_deletion_is_deleted",),
    ),
)

_COMMIT: Final = (
    Sabotage(
        "commit-without-fence",
        "worker/queue/scripts/commit.lua",
        "if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then",
        "if not held[1] then",
        "a worker that was given up for dead records an end beside its heir's",
        (_QUEUE + "test_adoption.py::test_a_paused_worker_is_fenced_once_others_have_adopted",),
    ),
    Sabotage(
        "forget-the-own-commit",
        "worker/queue/scripts/commit.lua",
        "if entry and string.sub(entry, 1, #ARGV[3]) == ARGV[3] then",
        "if entry == ARGV[3] then",
        "a commit whose reply was lost is taken for another worker's, and its pod left behind",
        (_QUEUE + "test_lost_replies.py::test_a_commit_whose_reply_was_lost_is_known_to_be_recorded",),
    ),
    Sabotage(
        "event-outside-the-commit",
        "worker/queue/record.py",
        "pipeline.xadd(wire.EVENTS_KEY, event,",
        "self._connection.xadd(wire.EVENTS_KEY, event,",
        "an end is announced that is never recorded",
        (_QUEUE + "test_adoption.py::test_a_paused_worker_is_fenced_once_others_have_adopted",),
    ),
    Sabotage(
        "delete-before-commit",
        "worker/supervisor.py",
        "        recorded = await self._record(attempt, outcome)\n",
        "        await self._ending.delete_pod(attempt, grace_seconds=0)\n"
        "        recorded = await self._record(attempt, outcome)\n",
        "a worker dies between the two, the evidence is gone, and a job that had succeeded runs again",
        ("tests/worker/test_supervisor.py::test_a_pod_is_there_until_its_end_is_recorded",),
    ),
    Sabotage(
        "delete-after-a-refused-commit",
        "runner_spec/ownership.py",
        "return End.DELETE if recorded else End.LEAVE",
        "return End.DELETE",
        "a worker that lost the job deletes the pod that its heir follows",
        ("tests/model/test_model.py::test_every_promise_holds_in_every_order_of_steps[one fault]",),
    ),
    Sabotage(
        "resend-on-the-control-pool",
        "adapters/redis_connections.py",
        '"retry": AsyncRetry(NoBackoff(), 0),',
        '"retry": AsyncRetry(NoBackoff(), 3),',
        "a claim whose reply was lost is sent again, and the first batch of jobs forgotten",
        ("tests/adapters/test_redis_server.py::test_a_command_whose_reply_is_lost_is_not_sent_again",),
    ),
    Sabotage(
        "transaction-without-fence",
        "worker/queue/commit.py",
        """reads.hmget(execution, "worker_name", wire.FIELD_ATTEMPT) != [
            self._worker.encode(),
""",
        """reads.hmget(execution, "worker_name", wire.FIELD_ATTEMPT) != [
            reads.hget(execution, "worker_name"),
""",
        "where the record takes rq's own transaction, a worker given up for dead records an end beside its heir's",
        (_QUEUE + "test_adoption.py::test_a_paused_worker_is_fenced_also_where_the_record_takes_rqs_own_transaction",),
    ),
    Sabotage(
        "one-try-for-the-record",
        "worker/supervisor.py",
        "                asyncio.get_running_loop().call_later(FINISH_RETRY_S, self.end, attempt, attempt.outcome)\n",
        "                self._roster.release(attempt)\n",
        "a job whose record failed once is never recorded",
        ("tests/worker/test_supervisor.py::test_a_record_that_something_stood_in_the_way_of_is_tried_again",),
    ),
)

_MAINTENANCE: Final = (
    Sabotage(
        "fail-what-stock-workers-left",
        "worker/queue/scripts/sweep.lua",
        "redis.call('HSET', 'rq:job:' .. id, 'status', 'queued', 'enqueued_at', ARGV[1])",
        "redis.call('HSET', 'rq:job:' .. id, 'status', 'failed', 'enqueued_at', ARGV[1])",
        "a job that a killed worker of rq itself had taken fails, and never runs",
        (_QUEUE + "test_maintenance.py::test_a_job_that_a_killed_stock_worker_had_popped_is_requeued_not_failed",),
    ),
    Sabotage(
        "stop-flag-outlives-the-job",
        "worker/queue/record.py",
        "pipeline.delete(wire.stop_key(claim.job_id), wire.state_key(claim.job_id))",
        "pipeline.delete(wire.state_key(claim.job_id))",
        "a request to stop ends the next job of this id",
        (_QUEUE + "test_settle.py::test_a_durable_stop_flag_is_cleared_by_the_end_of_the_job_only",),
    ),
    Sabotage(
        "delete-what-strangers-run",
        "worker/orphan_scan.py",
        "ours = unknown & await self._remembered()",
        "ours = unknown",
        "after a flush of Redis, or beside another installation, running pods are taken for orphans",
        ("tests/worker/test_orphan_scan.py::test_after_a_flush_the_pods_that_run_are_left_alone",),
    ),
    Sabotage(
        "forget-who-still-runs",
        "worker/retention.py",
        "            old -= await self._live(old)\n",
        "            old |= await self._live(old)\n",
        "logs and artifacts of jobs that wait or run are deleted for their age",
        ("tests/worker/test_retention.py::test_jobs_that_have_ended_go_when_their_newest_object_is_too_old",),
    ),
    Sabotage(
        "work-with-a-redis-that-evicts",
        "adapters/redis_fitness.py",
        'if policy == "noeviction" or (limit == 0 and policy is not None):',
        "if policy is not None:",
        "a full Redis drops jobs in silence",
        (_FITNESS + "test_a_server_that_loses_jobs_is_refused_with_what_was_found_and_the_remedy",),
    ),
    Sabotage(
        "innocents-count-too",
        "worker/queue/scripts/poison.lua",
        "if #young == 1 then",
        "if #young >= 1 then",
        "a job that kills its workers takes those beside it with it",
        (_QUEUE + "test_poison.py::test_every_poison_ends_and_no_innocent_does",),
    ),
    Sabotage(
        "requeue-too-early",
        "worker/queue/scripts/sweep.lua",
        "elseif now - tonumber(redis.call('GET', seen_key)) >= tonumber(ARGV[2]) then",
        "elseif now - tonumber(redis.call('GET', seen_key)) >= 0 then",
        "a job that a living worker of rq itself has just taken runs twice",
        (_QUEUE + "test_maintenance.py::test_a_job_that_a_killed_stock_worker_had_popped_is_requeued_not_failed",),
    ),
)

OF_THE_QUEUE: Final = (*_CLAIM, *_ADOPTION, *_COMMIT, *_MAINTENANCE)
