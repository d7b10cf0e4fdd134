"""The commands as a user calls them, against a real Redis and a local object store."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from adapters import redis_server
from adapters.object_store import ObjectStore
from adapters.redis_server import SyncClient
from runner_spec import wire
from runner_spec.log_cursor import LogCursor
from worker.cli.main import cli
from worker.log_store import LogEntry, LogGap, piece_path

GOOD = """\
name: demo
image: python:3.12
steps:
  - {name: hello, run: echo hello}
"""
BAD = """\
name: demo
imagee: python:3.12
steps:
  - {name: hello, run: ""}
timeout: 5 parsecs
"""

pytestmark = pytest.mark.redis


@pytest.fixture
def redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncClient]:
    monkeypatch.setenv("DYNAPOD_REDIS_URL", redis_url)
    connections = redis_server.connect(redis_url)
    yield connections.sync
    asyncio.run(connections.aclose())


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.yaml").write_text(GOOD)
    return str(tmp_path / "good.yaml")


@pytest.fixture
def bad(tmp_path: Path) -> str:
    (tmp_path / "bad.yaml").write_text(BAD)
    return str(tmp_path / "bad.yaml")


def dynapod(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


def put_job(redis: SyncClient, job_id: str, status: str, **facts: Any) -> None:
    fields: dict[Any, Any] = {"status": status, "origin": "jobs", **facts}
    redis.hset(f"rq:job:{job_id}", mapping=fields)
    redis.sadd("rq:queues", "rq:queue:jobs")


def test_validate_lists_every_problem_with_line_path_value_and_remedy(good: str, bad: str) -> None:
    result = dynapod("validate", good, bad)
    assert result.exit_code == 2
    assert (
        result.output
        == f"""\
{good}: valid
{bad}: 4 problems
  line 2: imagee: this key is unknown; did you mean image?
  line 4: steps[0].run: the script is empty (got ""); write at least one command, or remove the step
  line 5: timeout: this is not a duration (got "5 parsecs"); write 90s, 30m, 1h30m or a whole number of seconds, \
from 1s to 30d
  image: a required key is missing; add it
"""
    )


def test_validate_has_a_form_for_programs(good: str, bad: str) -> None:
    documents = json.loads(dynapod("validate", "--json", good, bad).output)
    assert [(document["valid"], len(document["problems"])) for document in documents] == [(True, 0), (False, 4)]
    assert documents[1]["problems"][1]["line"] == 4


def test_validate_reads_standard_input() -> None:
    assert dynapod("validate", "-", stdin=GOOD).output == "-: valid\n"


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: a\nsteps: [\n")
    result = dynapod("validate", str(tmp_path / "x.yaml"))
    assert (result.exit_code, "line 3" in result.output) == (2, True)


def test_render_prints_the_same_pod_as_yaml_and_json(good: str) -> None:
    pod = yaml.safe_load(dynapod("render", good).output)
    assert pod == json.loads(dynapod("render", "--format", "json", good).output)
    assert pod["kind"] == "Pod"
    assert [container["name"] for container in pod["spec"]["containers"]] == ["run"]
    other = yaml.safe_load(dynapod("render", "--job-id", "x", "--attempt", "2", good).output)
    assert other["metadata"]["labels"]["dynapod.dev/attempt"] == "2"


def test_explain_says_who_set_what_and_stays_yaml(good: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("default_timeout: 7m\n")
    result = dynapod("explain", "--policy", str(tmp_path / "policy.yaml"), good)
    (line,) = [line for line in result.output.splitlines() if line.startswith("# timeout")]
    assert line.split() == ["#", "timeout", "7m", "policy", "default", "policy.default_timeout"]
    assert yaml.safe_load(result.output)["kind"] == "Pod"


def test_a_policy_that_cannot_be_used_is_told_with_its_lines(good: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("default_timeout: 7m\nmax_tiemout: 1h\n")
    result = dynapod("render", "--policy", str(tmp_path / "policy.yaml"), good)
    assert (result.exit_code, "line 2: max_tiemout" in result.output) == (2, True)


def test_what_the_policy_refuses_is_told_with_the_descriptions_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "timeout: 7d\n")
    result = dynapod("render", str(tmp_path / "a.yaml"))
    assert (result.exit_code, "line 5: timeout" in result.output) == (2, True)


def test_submit_prints_the_id_of_a_job_that_is_on_the_queue(redis: SyncClient, good: str) -> None:
    job = dynapod("submit", good).output.strip()
    assert redis.lrange("rq:queue:jobs", 0, -1) == [job.encode()]
    document = json.loads(dynapod("submit", "--json", "--queue", "builds", "--job-id", "b1", good).output)
    assert document == {"job": "b1", "queue": "builds"}
    assert redis.lrange("rq:queue:builds", 0, -1) == [b"b1"]


def test_submit_puts_nothing_invalid_on_the_queue(redis: SyncClient, bad: str) -> None:
    result = dynapod("submit", bad)
    assert (result.exit_code, "4 problems" in result.output, redis.keys("*")) == (2, True, [])


def test_submit_refuses_a_second_unique_job(redis: SyncClient, good: str) -> None:
    assert dynapod("submit", "--job-id", "nightly", "--unique", good).exit_code == 0
    result = dynapod("submit", "--job-id", "nightly", "--unique", good)
    assert (result.exit_code, "'nightly' exists already" in result.output) == (2, True)
    assert redis.llen("rq:queue:jobs") == 1


@pytest.mark.parametrize("arguments", [["--unique"], ["--follow"], ["--job-id", "a b"]])
def test_submit_names_the_option_that_is_wrong(redis: SyncClient, good: str, arguments: list[str]) -> None:
    result = dynapod("submit", *arguments, good)
    assert (result.exit_code, arguments[0] in result.output, redis.keys("*")) == (2, True, [])


def test_submit_takes_paths_of_this_machine_when_asked(redis: SyncClient, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "source: {git: .}\n")
    assert dynapod("submit", str(tmp_path / "a.yaml")).exit_code == 2
    job = dynapod("submit", "--local", str(tmp_path / "a.yaml")).output.strip()
    data = redis.hget(f"rq:job:{job}", "data")
    assert isinstance(data, bytes)
    description = wire.decode_payload(data)
    assert isinstance(description, dict)
    assert description["source"] == {"git": tmp_path.as_uri()}


@pytest.mark.usefixtures("redis")
def test_status_says_why_a_job_waits(good: str) -> None:
    job = dynapod("submit", "--job-id", "j", good).output.strip()
    assert "status    waiting for a worker: none serves queue 'jobs' (queued)" in dynapod("status", job).output
    document = json.loads(dynapod("status", "--json", job).output)
    assert (document["status"], document["doing"]) == ("queued", "waiting for a worker: none serves queue 'jobs'")


def test_status_shows_every_attempt_and_the_end(redis: SyncClient) -> None:
    put_job(redis, "j", "failed")
    lost = {"verdict": "failed", "fault": "platform", "reason": "node-lost", "message": "The node is gone."}
    exited = {"verdict": "failed", "fault": "job", "reason": "exit", "message": "Step x failed.", "exit_code": 3}
    ledger = {"1": {"outcome": lost, "started_at": 100, "ended_at": 161, "pod": "dp-j-1"}, "2": {"outcome": exited}}
    redis.hset(wire.attempts_key("j"), mapping={number: json.dumps(entry) for number, entry in ledger.items()})
    output = dynapod("status", "j").output
    assert "1  failed   node-lost  1 min 01 s  dp-j-1  The node is gone." in output
    assert output.endswith("j: failed (exit code 3, the job's fault)\n  Step x failed.\n")


def test_list_shows_the_newest_jobs(redis: SyncClient, good: str) -> None:
    put_job(redis, "old", "failed", created_at="2026-01-01T00:00:00Z")
    redis.zadd("rq:failed:jobs", {"old": 1})
    job = dynapod("submit", good).output.strip()
    lines = dynapod("list").output.splitlines()
    assert [line.split()[0] for line in lines] == ["job", job, "old"]
    assert json.loads(dynapod("list", "--status", "failed", "--json").output)["jobs"][0]["id"] == "old"
    assert dynapod("list", "--queue", "other").output == "no jobs\n"
    assert dynapod("list", "--status", "nonsense").exit_code == 2


def test_cancel_goes_on_after_an_unknown_job(redis: SyncClient, good: str) -> None:
    dynapod("submit", "--job-id", "j", good)
    put_job(redis, "r", "started", worker_name="w")
    put_job(redis, "e", "finished")
    result = dynapod("cancel", "nope", "j", "r", "e")
    assert result.exit_code == 2
    assert "no job 'nope'" in result.output
    assert "j: canceled before it started" in result.output
    assert "r: told to stop" in result.output
    assert "e: had ended before" in result.output
    assert redis.hget("rq:job:j", "status") == b"canceled"
    assert b"@" in (redis.get(wire.stop_key("r")) or b"")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setenv("DYNAPOD_STORE", str(tmp_path / "store"))
    return ObjectStore.from_url(str(tmp_path / "store"))


def put_log(redis: SyncClient, store: ObjectStore, container: str, data: bytes, *gaps: LogGap) -> None:
    asyncio.run(store.put(piece_path("j", 1, container, 0, len(data)), data))
    entry = LogEntry(len(data), (len(data),), complete=True, cursor=LogCursor(), gaps=gaps)
    redis.hset(wire.log_index_key("j", 1), container, entry.to_json())
    put_job(redis, "j", "failed")
    redis.hset(wire.attempts_key("j"), "1", json.dumps({"outcome": {"verdict": "failed"}}))
    redis.hset(wire.state_key("j"), mapping={"attempt": 1})


def test_logs_are_merged_by_time_with_their_containers(redis: SyncClient, store: ObjectStore) -> None:
    put_log(redis, store, "checkout", b"2026-01-01T00:00:01Z cloned\n2026-01-01T00:00:04Z late\n")
    put_log(redis, store, "run", b"2026-01-01T00:00:02Z hello\n2026-01-01T00:00:03Z world")
    assert dynapod("logs", "j").stdout == "checkout | cloned\nrun | hello\nrun | world\ncheckout | late\n"
    assert dynapod("logs", "-f", "j", "--attempt", "1", "--container", "run").stdout.startswith("hello\nworld")
    assert dynapod("logs", "--container", "run", "--timestamps", "j").stdout.startswith("2026-01-01T00:00:02Z hello\n")


def test_logs_to_a_pipe_are_the_jobs_own_bytes(redis: SyncClient, store: ObjectStore) -> None:
    put_log(redis, store, "run", b"2026-01-01T00:00:01Z \x1b[31m\xff\x00\n")
    assert dynapod("logs", "--container", "run", "j").stdout_bytes == b"\x1b[31m\xff\x00\n"


def test_a_gap_is_declared_on_standard_error(redis: SyncClient, store: ObjectStore) -> None:
    put_log(redis, store, "run", b"2026-01-01T00:00:01Z a\n", LogGap(23, "12 bytes were lost"))
    result = dynapod("logs", "--container", "run", "j")
    assert (result.stdout, "12 bytes were lost" in result.stderr) == ("a\n", True)


def test_an_attempt_without_a_log_is_told_on_standard_error(redis: SyncClient, store: ObjectStore) -> None:
    assert store.url
    put_job(redis, "j", "failed")
    redis.hset(wire.attempts_key("j"), "1", json.dumps({"outcome": {"verdict": "rejected"}}))
    redis.hset(wire.state_key("j"), mapping={"attempt": 1})
    result = dynapod("logs", "j")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "attempt 1 of j has no log here: its pod never started" in result.stderr


def test_logs_of_a_job_without_attempts_are_an_error(redis: SyncClient, store: ObjectStore, good: str) -> None:
    assert store.url
    assert redis.ping()
    job = dynapod("submit", good).output.strip()
    result = dynapod("logs", job)
    assert (result.exit_code, "no attempt has begun" in result.output) == (2, True)


def test_unknown_jobs_are_errors(redis: SyncClient, store: ObjectStore) -> None:
    assert store.url
    assert redis.ping()
    for command in ("status", "logs"):
        result = dynapod(command, "nope")
        assert (result.exit_code, "no job 'nope'" in result.output) == (2, True)


def test_validate_checks_the_other_files_when_one_cannot_be_read(good: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    result = dynapod("validate", missing, good)
    assert result.exit_code == 2
    assert result.output == f"{missing}: No such file or directory\n{good}: valid\n"
    report = json.loads(dynapod("validate", "--json", missing).stdout)
    assert report == [
        {"file": missing, "valid": False, "problems": [], "error": f"{missing}: No such file or directory"}
    ]


def test_a_submission_that_reached_nobody_says_so(good: str, tmp_path: Path) -> None:
    result = dynapod("submit", good, "--redis", f"unix://{tmp_path}/nobody")
    assert result.exit_code == 3
    assert "Name another with --redis URL" in result.output
    assert "may have been enqueued" not in result.output
