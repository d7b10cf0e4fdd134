"""Sabotage of what is done with pods: create, watch, judge, delete; their logs and artifacts."""

from typing import Final

from tests.mutations.sabotage import Sabotage

_KUBERNETES: Final = (
    Sabotage(
        "take-over-any-pod-of-the-name",
        "adapters/kubernetes_api.py",
        "if existing is None or meet(existing, manifest) is Meeting.REFUSE:",
        "if existing is None:",
        "a pod that somebody else created under our name decides how the job ends",
        ("tests/adapters/test_kubernetes_api.py::test_a_foreign_pod_of_the_same_name_is_no_success",),
    ),
    Sabotage(
        "own-pod-is-a-failure",
        "adapters/kubernetes_api.py",
        "if error.status not in (_CONFLICT, _FORBIDDEN):",
        "if error.status != _FORBIDDEN:",
        "a job fails, and its pod runs, because the request for it came twice",
        ("tests/adapters/test_kubernetes_api.py::test_a_creation_that_a_proxy_repeated_ends_with_our_own_pod",),
    ),
    Sabotage(
        "delete-whatever-has-the-name",
        "adapters/kubernetes_api.py",
        '"kind": "DeleteOptions", "preconditions": {"uid": uid}}',
        '"kind": "DeleteOptions"}',
        "a deletion that arrives late ends a newer pod of the same name",
        ("tests/adapters/test_kubernetes_api.py::test_a_deletion_says_which_pod_of_the_name_it_means",),
    ),
    Sabotage(
        "no-list-after-410",
        "worker/reflector.py",
        "                version = await self._relist()\n",
        "                version = await self._relist() if not self.synced else version\n",
        "what happened while the watch was away is never heard of",
        ("tests/worker/test_reflector.py::test_after_an_expired_watch_a_list_finds_what_was_missed",),
    ),
    Sabotage(
        "vanished-pods-unreported",
        "worker/reflector.py",
        "if self._known.get(name) != known:",
        "if self._known.get(name, known) != known:",
        "a job whose pod was deleted while no watch was open never ends",
        ("tests/worker/test_reflector.py::test_after_an_expired_watch_a_list_finds_what_was_missed",),
    ),
    Sabotage(
        "orphans-on-suspicion",
        "worker/orphans.py",
        "is_over = fate is Fate.DELETE or",
        "is_over = fate is not Fate.ASK or",
        "the running pod of a dead worker is deleted before its heir has found it",
        ("tests/worker/test_orphans.py::test_a_pod_whose_attempt_somebody_may_still_look_for_is_left_alone",),
    ),
    Sabotage(
        "believe-old-news",
        "worker/supervisor.py",
        "        if _older(pod, attempt.pod):\n",
        "        if _older(pod, attempt.pod) and attempt.phase is Phase.LAUNCHING:\n",
        "a watch that replays the past puts a running job back to waiting",
        ("tests/worker/test_supervisor.py::test_an_event_of_the_past_changes_nothing",),
    ),
    Sabotage(
        "mistake-another-pods-end",
        "worker/supervisor.py",
        "if attempt is None or uid != attempt.pod_uid:",
        "if attempt is None:",
        "that an earlier pod of the same name is gone ends a job that runs",
        ("tests/worker/test_supervisor.py::test_the_end_of_another_pod_of_the_same_name_is_not_the_attempts",),
    ),
    Sabotage(
        "create-what-was-stopped",
        "worker/creation.py",
        "            self._hands.end(attempt, never_started(attempt.stop))\n            return\n        try:",
        '            self._hands.show(attempt, "canceling")\n        try:',
        "a job that was told to stop before it began begins all the same",
        ("tests/worker/test_supervisor.py::test_a_job_that_was_told_to_stop_before_it_began_gets_no_pod",),
    ),
    Sabotage(
        "believe-an-earlier-lifes-pod",
        "worker/adoption.py",
        ", work=attempt.work)",
        ")",
        "the pod of an id's earlier life, which did other work, makes its later one green",
        (
            (
                "tests/worker/test_failover.py::"
                "test_the_pod_of_an_ids_earlier_life_never_makes_its_later_one_green[its reply is lost]"
            ),
        ),
    ),
    Sabotage(
        "create-again-for-want-of-an-answer",
        "runner_spec/refusal.py",
        "    if code == 0:\n        return sent\n",
        "",
        "a creation that is sent again makes the pod a second time, after the first one's end",
        ("tests/worker/test_launch.py::test_a_creation_that_may_have_taken_effect_is_not_sent_again",),
    ),
)

_VERDICT: Final = (
    Sabotage(
        "phase-is-proof",
        "runner_spec/classify.py",
        'if seen.phase != "Succeeded" or seen.run is None or not seen.run.succeeded:',
        'if seen.phase != "Succeeded":',
        "a job is green although nobody knows how its steps ended",
        ("tests/runner_spec/test_classify.py::test_less_than_full_proof_is_never_success",),
    ),
    Sabotage(
        "missing-pod-is-success",
        "runner_spec/classify.py",
        'failed(Pod(), Fault.PLATFORM, "pod-missing", message)',
        "succeeded(Pod())",
        "a job is green because its pod is gone",
        ("tests/runner_spec/test_classify.py::test_a_vanished_pod_is_never_success",),
    ),
    Sabotage(
        "eviction-is-the-jobs-fault",
        "runner_spec/classify.py",
        "    if interruption is not None:\n",
        '    if interruption is not None and seen.phase != "Failed":\n',
        "a job is charged for its node's end",
        ("tests/runner_spec/test_classify.py::test_a_failure_is_told_with_its_fault_and_evidence",),
    ),
    Sabotage(
        "manifest-not-asked-for",
        "worker/supervisor.py",
        "outcome = attempt.outcome = await confirmed(attempt, outcome, self._keeper.store)",
        "attempt.outcome = outcome",
        "a job is green though its artifacts are nowhere",
        ("tests/worker/test_supervisor.py::test_a_success_whose_artifacts_are_not_stored_is_none",),
    ),
    Sabotage(
        "manifest-not-found-is-fine",
        "worker/upload_proof.py",
        "        except NotFound:\n            return False\n",
        "        except NotFound:\n            return True\n",
        "a job is green though its artifacts are nowhere",
        ("tests/worker/test_upload_proof.py::test_a_success_without_its_manifest_is_the_platforms_failure",),
    ),
    Sabotage(
        "silence-is-proof",
        "worker/upload_proof.py",
        "message = f\"the object store does not say whether the artifacts are there: {error or 'no answer in time'}\"",
        "return outcome",
        "a job is green because the object store does not answer",
        ("tests/worker/test_upload_proof.py::test_a_store_that_does_not_say_proves_nothing",),
    ),
    Sabotage(
        "quota-fails-the-job",
        "runner_spec/refusal.py",
        "        return Answer.FULL\n",
        "        return Answer.REJECTED\n",
        "a full namespace fails jobs that only had to wait",
        ("tests/runner_spec/test_refusal.py::test_a_refusal_says_who_has_to_act",),
    ),
    Sabotage(
        "one-retry-too-many",
        "runner_spec/retry.py",
        "platform_retries < policy.platform_retries:",
        "platform_retries <= policy.platform_retries:",
        "a job runs more often than the operator allows",
        ("tests/runner_spec/test_retry.py::test_the_platforms_fault_is_the_operators_to_pay",),
    ),
    Sabotage(
        "platform-fault-costs-a-retry",
        "worker/ending.py",
        "consumes_retry=not platform",
        "consumes_retry=True",
        "the platform's faults use up the retries of the job's own",
        ("tests/worker/test_ending.py::test_the_platform_pays_for_its_own_fault_until_its_budget_is_used_up",),
    ),
)

_LOG: Final = (
    Sabotage(
        "forget-sinceTime",
        "adapters/kubernetes_api.py",
        '            query["sinceTime"] = since_time\n',
        '            query.setdefault("sinceTime", "")\n',
        "each resumed stream sends the whole log again",
        ("tests/adapters/test_kubernetes_api.py::test_a_log_is_asked_for_from_where_it_was_left",),
    ),
    Sabotage(
        "resume-from-the-beginning",
        "worker/log_follower.py",
        "since_time=cursor.since_time, follow=not last",
        "since_time=None, follow=not last",
        "each resumed stream sends the whole log again",
        ("tests/worker/test_log_pipeline.py::test_a_stream_is_resumed_from_the_last_line_stored",),
    ),
    Sabotage(
        "keep-duplicates",
        "runner_spec/log_cursor.py",
        "= self.cursor if self.cursor.time else None",
        "= None",
        "lines of the second in which a stream broke are stored twice",
        ("tests/runner_spec/test_log_cursor.py::test_a_stream_broken_anywhere_and_resumed_gives_every_byte_once",),
    ),
    Sabotage(
        "silent-gap",
        "runner_spec/log_cursor.py",
        "                self.gap = self._seen < place.repeats or place.partial >= 0\n",
        "                self.gap = place.partial >= 0\n",
        "a log that was rotated meanwhile goes on as if nothing was missing",
        ("tests/runner_spec/test_log_cursor.py::test_a_place_that_was_rotated_away_is_a_gap",),
    ),
    Sabotage(
        "first-end-is-the-last",
        "worker/log_follower.py",
        "            if ended:\n                return True\n            # The kubelet ends",
        "            return True\n            # The kubelet ends",
        "a stream that a proxy closed counts as the end of the log",
        (
            "tests/worker/test_log_pipeline.py::test_a_log_is_complete_only_after_a_stream_opened_after_the_containers_end",
        ),
    ),
    Sabotage(
        "cut-is-an-end",
        "adapters/kubernetes_api.py",
        'raise ApiError(0, "Unreachable", f"GET {path}: {error or type(error).__name__}") from error',
        "del error",
        "a connection that broke counts as the end of the log",
        ("tests/adapters/test_kubernetes_api.py::test_a_log_stream_that_is_cut_is_an_error_not_an_end",),
    ),
    Sabotage(
        "given-up-is-complete",
        "worker/log_follower.py",
        "                    await self._intake.gap(why)\n                    await self._writer.close()",
        "                    await self._writer.close()",
        "what could not be read of a log is missing without a word",
        (
            "tests/worker/test_log_standstill.py::test_a_stream_that_never_ends_is_given_up_declared_and_holds_up_nobody_else",
        ),
    ),
    Sabotage(
        "close-on-leaving",
        "worker/log_follower.py",
        "            await self._run()\n        finally:\n            self._writer.let_go()",
        "            await self._run()\n        finally:\n            await self._writer.close()",
        "the log of a worker that leaves is closed as complete, and its heir reads no further",
        ("tests/worker/test_log_pipeline.py::test_a_log_whose_worker_leaves_is_left_open_for_the_next_one",),
    ),
    Sabotage(
        "two-log-writers",
        "worker/log_writer.py",
        "if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end\n",
        "",
        "a worker and its heir both write the log",
        ("tests/worker/test_log_pipeline.py::test_of_two_writers_only_one_goes_on",),
    ),
    Sabotage(
        "show-secrets-nobody-knows",
        "worker/log_follower.py",
        'hide in it are not known")\n            return False',
        'hide in it are not known")\n            return True',
        "a log is shown whose secrets cannot be hidden",
        ("tests/worker/test_log_pipeline.py::test_a_log_whose_secrets_are_not_known_is_withheld",),
    ),
    Sabotage(
        "forget-what-redis-lost",
        "worker/log_writer.py",
        '_with_gap(entry, f"{self.entry.size - at} bytes of the log were lost by Redis")',
        "entry",
        "a part of the log that Redis lost is missing without a word",
        ("tests/worker/test_log_pipeline.py::test_what_redis_lost_is_declared_at_its_place",),
    ),
)

_ARTIFACTS: Final = (
    Sabotage(
        "break-the-seal",
        "gateway/seal.py",
        "if self._digest.digest() != self._held:",
        "if len(self._held) != SEAL_BYTES:",
        "a file that was cut on its way, or altered, is stored as the artifact",
        ("tests/gateway/test_artifacts.py::test_a_wrong_seal_stores_nothing_and_asks_for_a_retry",),
    ),
    Sabotage(
        "artifacts-never-close",
        "gateway/handlers/artifacts.py",
        "    elif stored != data:  # the same",
        "    elif not stored:  # the same",
        "what was proven to be stored is replaced afterwards",
        ("tests/gateway/test_artifacts.py::test_the_manifest_closes_the_attempt",),
    ),
)

OF_THE_POD: Final = (*_KUBERNETES, *_VERDICT, *_LOG, *_ARTIFACTS)
