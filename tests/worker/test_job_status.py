import base64
import json
import pickle
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.job_status import DECOMPRESSED_LIMIT_BYTES, RawStatus, read_status

STARTED = {b"status": b"started", b"origin": b"jobs"}


def payload(**description: Any) -> bytes:
    return json.dumps(["worker.tasks.run", None, [description], {}]).encode()


class Bomb:
    opened = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Bomb, "opened", True))


def test_the_name_is_read_from_plain_and_compressed_payloads() -> None:
    assert read_status("j", RawStatus({**STARTED, b"data": payload(name="a")})).name == "a"
    assert read_status("j", RawStatus({**STARTED, b"data": zlib.compress(payload(name="b"))})).name == "b"


def test_nothing_is_unpickled() -> None:
    bomb = pickle.dumps(("worker.tasks.run", None, (Bomb(),), {}))
    raw = RawStatus(
        {**STARTED, b"data": zlib.compress(bomb)},
        latest_result={b"return_value": base64.b64encode(pickle.dumps(Bomb()))},
    )
    status = read_status("j", raw)
    assert (status.name, status.result, Bomb.opened) == ("", {}, False)
    pickle.loads(bomb)
    assert Bomb.opened  # the bomb works: the test above could have failed


def test_a_decompression_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(b" " * (DECOMPRESSED_LIMIT_BYTES + 1) + payload(name="a"))
    assert read_status("j", RawStatus({**STARTED, b"data": bomb})).name == ""


def test_times_of_other_languages_are_read_as_utc() -> None:
    raw = RawStatus({**STARTED, b"created_at": b"2026-01-01T00:00:00.000000Z", b"enqueued_at": b"2026-01-01T00:00:00"})
    status = read_status("j", raw)
    assert status.created_at == status.enqueued_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_state_says_what_the_attempt_does_now() -> None:
    state = {
        b"attempt": b"2",
        b"stage": b"run",
        b"why": b"step \xc3\xbc",
        b"pod": b"dp-x-2",
        b"containers": b'["checkout", "run"]',
        b"since": b"1800000000.5",
    }
    status = read_status("j", RawStatus(STARTED, state))
    assert (status.attempt, status.stage, status.why, status.pod) == (2, "run", "step ü", "dp-x-2")
    assert (status.containers, status.since) == (("checkout", "run"), 1800000000.5)


def test_the_attempt_is_known_before_the_first_state_is_written() -> None:
    assert read_status("j", RawStatus({**STARTED, b"dynapod_attempt": b"3"})).attempt == 3


def test_a_failed_job_has_the_result_of_its_last_attempt() -> None:
    ledger = {
        b"2": json.dumps({"outcome": {"verdict": "failed"}, "result": {"verdict": "failed", "attempt": 2}}).encode(),
        b"1": json.dumps({"outcome": {"verdict": "failed", "reason": "node-lost"}, "started_at": 1.0}).encode(),
    }
    status = read_status("j", RawStatus({b"status": b"failed"}, ledger=ledger))
    assert [record.number for record in status.attempts] == [1, 2]
    assert status.attempts[0].result == {"verdict": "failed", "reason": "node-lost"}
    assert status.result == {"verdict": "failed", "attempt": 2}


@pytest.mark.parametrize("wait", [b"null", b"7", b'{"count": "6", "since": "soon"}', b'{"count": 1.5}', b"[6]"])
def test_a_damaged_wait_does_not_hide_its_attempt(wait: bytes) -> None:
    ledger = {b"7": b'{"outcome": {"reason": "quota"}, "pod": "p", "wait": ' + wait + b"}"}
    (record,) = read_status("j", RawStatus(STARTED, ledger=ledger)).attempts
    assert (record.number, record.pod, record.waits, record.waiting_since) == (7, "p", 0, None)


def test_a_job_between_two_attempts_has_no_result_yet() -> None:
    ledger = {b"1": json.dumps({"outcome": {"verdict": "failed"}}).encode()}
    assert read_status("j", RawStatus({b"status": b"scheduled"}, ledger=ledger)).result == {}


def test_rqs_own_failure_text_is_shown() -> None:
    text = base64.b64encode(zlib.compress(b"Traceback\nValueError: x\n"))
    raw = RawStatus({b"status": b"failed"}, latest_result={b"exc_string": text})
    assert read_status("j", raw).error == "Traceback\nValueError: x"


def test_damage_in_one_field_does_not_hide_the_others() -> None:
    raw = RawStatus(
        {**STARTED, b"created_at": b"yesterday", b"data": b"\xff", b"dependency_ids": b"{"},
        {b"attempt": b"x", b"containers": b"7", b"since": b"soon", b"stage": b"\xffrun"},
        {b"one": b"{", b"1": b"[]"},
        {b"return_value": b"%%%", b"exc_string": b"%%%"},
    )
    status = read_status("j", raw)
    assert (status.queue, status.stage, status.attempt, status.created_at) == ("jobs", "\ufffdrun", 0, None)


def test_a_status_is_json_pure() -> None:
    raw = RawStatus(
        {**STARTED, b"created_at": b"2026-01-01T00:00:00Z"}, ledger={b"1": b'{"outcome": {"verdict": "x"}}'}
    )
    data = json.loads(json.dumps(read_status("j", raw).as_dict()))
    assert data["created_at"] == "2026-01-01T00:00:00+00:00"
    assert data["attempts"][0]["result"] == {"verdict": "x"}
    assert (data["attempts"][0]["waits"], data["attempts"][0]["waiting_since"]) == (0, None)


def test_the_room_of_the_workers_that_serve_the_jobs_queue_is_summed_up() -> None:
    full, quota = (b"jobs,fast", b"10", b"10", b""), (b"jobs", b"5", b"4", b"exceeded quota: x")
    loads = [full, quota, (b"other", b"9", b"0", b"")]
    status = read_status("j", RawStatus({b"status": b"queued", b"origin": b"jobs"}, loads=loads))
    assert (status.workers, status.capacity, status.in_flight, status.no_room) == (2, 15, 14, "exceeded quota: x")


def test_workers_that_do_not_tell_their_room_leave_it_unknown() -> None:
    loads = [(b"jobs", b"10", b"10", b""), (b"jobs", None, None, None)]
    status = read_status("j", RawStatus({b"status": b"queued", b"origin": b"jobs"}, loads=loads))
    assert (status.workers, status.capacity, status.in_flight, status.no_room) == (2, None, None, "")


def test_a_rate_limit_is_told_with_its_number() -> None:
    limited = {b"status": b"rate_limited", b"rate_limit_key": b"deploys", b"rate_limit_concurrency": b"2"}
    assert read_status("j", RawStatus(limited)).rate_limit == "'deploys', 2 at a time"
    assert read_status("j", RawStatus({b"status": b"rate_limited"})).rate_limit == ""
