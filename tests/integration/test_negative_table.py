"""Every way in which a job does not simply succeed: the outcome, whose fault it is, and the message."""

import asyncio
import pickle
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner_spec import storage
from tests.integration.worlds import World, call, git_repository, job, world
from worker.job_status import JobStatus

Check = Callable[[World, JobStatus], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One line of the table: what is submitted and how it must end."""

    name: str
    submit: Callable[[World], Awaitable[str]]
    verdict: str
    fault: str
    reason: str
    message: str
    check: Check | None = None
    secrets: dict[str, dict[str, str]] | None = None
    policy: dict[str, object] | None = None


def submits(*scripts: str, **more: Any) -> Callable[[World], Awaitable[str]]:
    async def submit(here: World) -> str:
        return await here.client.submit(job(*scripts, **more))

    return submit


async def always_uploaded(here: World, status: JobStatus) -> None:
    assert await here.artifact_names(status.id) == ["note/note.txt"]


async def missing_ref(here: World) -> str:
    repository = git_repository(here.folder / "repo", {"a": "1"})
    return await here.client.submit(job("true", source={"git": repository.as_uri(), "ref": "v9"}))


async def broken_cache(here: World) -> str:
    description = job("test ! -e kept", cache=[{"key": "k", "paths": ["kept"]}])
    first = await here.run(job("mkdir kept", cache=description["cache"]))
    assert first.status == "finished"
    entries = [meta.path async for meta in here.parts.store.list("") if "/k=" in meta.path or "/k" in meta.path]
    entries = [path for path in entries if path.startswith(storage.CACHES)]
    assert len(entries) == 1
    await here.parts.store.put(entries[0], b"this is no archive at all, whatever its name says")
    return await here.client.submit(description)


async def cache_was_a_warning(here: World, status: JobStatus) -> None:
    [report] = [cache for cache in status.result["caches"] if cache["result"] in ("failed", "hit", "fallback")]
    assert report["result"] == "failed"
    assert any(b"cache" in line for line in await here.log(status.id, "checkout"))


async def gateway_down(here: World) -> str:
    description = job('touch out; while [ ! -e "$GO" ]; do sleep 0.05; done', env={"GO": str(here.folder / "go")})
    description["artifacts"] = [{"name": "out", "paths": ["out"]}]
    submitted = await here.client.submit(description)
    async for status in here.client.changes(submitted, interval=0.02):
        if status.stage == "run":
            break
    await here.parts.gateway.stop()
    (here.folder / "go").touch()
    return submitted


async def six_mistakes(here: World) -> str:
    description = {
        "name": "Not A Name!\n",
        "image": 5,
        "stepz": [],
        "steps": [{"run": ""}],
        "timeout": "soon",
        "env": {"1X": "a"},
        "artifacts": [{"name": "a", "paths": ["../up"]}],
    }
    return await here.client.submit(description)


async def all_problems_listed(here: World, status: JobStatus) -> None:
    del here
    paths = {line.split(":")[0] for line in status.result["evidence"]["problems"]}
    assert {"image", "stepz", "steps[0].run", "timeout", "artifacts[0].paths[0]"} <= paths
    assert status.result["evidence"]["count"] >= 6


async def all_lines_stored(here: World, status: JobStatus) -> None:
    lines = [line for line in await here.log(status.id, "run") if line.startswith(b"line ")]
    assert lines == [b"line %d" % number for number in range(200_000)]


async def raw_bytes_stored(here: World, status: JobStatus) -> None:
    assert b"\xff\xfe\x80 bytes" in await here.log(status.id, "run")


async def secrets_hidden(here: World, status: JobStatus) -> None:
    text = b"\n".join(await here.log(status.id))
    assert b"hunter2hunter2" not in text
    assert text.count(b"[masked]") == 2


async def after_step_ran(here: World, status: JobStatus) -> None:
    assert b"cleaned up" in await here.log(status.id, "run")
    assert [(step["name"], step["exit_code"], step["after"]) for step in status.result["steps"]] == [
        ("step 1", 3, False),
        ("clean", 0, True),
    ]


async def hostile_id(here: World) -> str:
    name = '../../etc/пароль :*?[a]\n{"x"}:' + "x" * 300
    await here.enqueue_raw(name, call(job("echo fine")))
    return name


async def pickled(here: World) -> str:
    await here.enqueue_raw("pickled", pickle.dumps(("os.system", None, ("touch " + str(here.folder / "owned"),), {})))
    return "pickled"


async def foreign_function(here: World) -> str:
    await here.enqueue_raw(
        "foreign", b'["os.system", null, ["touch ' + str(here.folder / "owned").encode() + b'"], {}]'
    )
    return "foreign"


async def never_executed(here: World, status: JobStatus) -> None:
    assert not (here.folder / "owned").exists()
    assert status.pod == ""


NOTE = [{"name": "note", "paths": ["note.txt"], "when": "always"}]
IGNORES_TERM = "echo kept > note.txt; trap '' TERM; while :; do sleep 0.2 || :; done"
SPLIT = "printf 'whole %s\\n' \"$T\"; printf 'split hunter2'; sleep 0.3; printf 'hunter2\\n'"
RAW = "printf '\\377\\376\\200 bytes\\n'"
MANY = "python3 -c 'for n in range(200000): print(\"line\", n)'"

TABLE = [
    Row("exit 3", submits("exit 3"), "failed", "job", "exit", r"exit code 3"),
    Row("killed by a signal", submits("kill -KILL $$"), "failed", "job", "signal", r"SIGKILL"),
    Row(
        "timeout although SIGTERM is ignored",
        submits(IGNORES_TERM, timeout="2s", artifacts=NOTE),
        "failed", "job", "timeout", r"2 ?s", always_uploaded,
    ),
    Row(
        "after step after a failure",
        submits("exit 3", after=[{"name": "clean", "run": "echo cleaned up"}]),
        "failed", "job", "exit", r"exit code 3", after_step_ran,
    ),
    Row("missing ref", missing_ref, "failed", "job", "ref-not-found", r"v9"),
    Row(
        "missing artifact",
        submits("true", artifacts=[{"name": "wheel", "paths": ["dist/*.whl"]}]),
        "failed", "job", "missing-artifact", r"wheel",
    ),
    Row(
        "unreachable git server",
        submits("true", source={"git": "git://127.0.0.1:9/x.git"}),
        "failed", "platform", "network", r"127\.0\.0\.1",
    ),
    Row("broken cache archive", broken_cache, "succeeded", "none", "ok", r"", cache_was_a_warning),
    Row("gateway down at upload", gateway_down, "failed", "platform", "gateway", r"", policy={"upload_budget": 4}),
    Row("description with mistakes", six_mistakes, "rejected", "job", "description", r"problems", all_problems_listed),
    Row(
        "script of 1 MiB",
        submits("#" * 1024 * 1024),
        "rejected", "job", "description", r"262,?144",
    ),
    Row("output that is no text", submits(RAW), "succeeded", "none", "ok", r"", raw_bytes_stored),
    Row("200,000 log lines", submits(MANY), "succeeded", "none", "ok", r"", all_lines_stored),
    Row(
        "secret printed whole and split over two writes",
        submits(SPLIT, secrets={"T": {"secret": "s", "key": "t"}}),
        "succeeded", "none", "ok", r"", secrets_hidden, {"s": {"t": "hunter2hunter2"}},
    ),
    Row("hostile job id", hostile_id, "succeeded", "none", "ok", r""),
    Row("pickle on the queue", pickled, "rejected", "job", "payload", r"serializer='json'", never_executed),
    Row("foreign function", foreign_function, "rejected", "job", "function", r"os\.system", never_executed),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_end_is_told_truthfully(row: Row, tmp_path: Path) -> None:
    async def test() -> None:
        async with world(tmp_path, secrets=row.secrets, **(row.policy or {})) as here:
            status = await here.end(await row.submit(here))
            result = status.result
            assert (result["verdict"], result["fault"], result["reason"]) == (row.verdict, row.fault, row.reason), (
                result
            )
            assert re.search(row.message, result["message"])
            assert (status.status == "finished") == (row.verdict == "succeeded")
            if row.check is not None:
                await row.check(here, status)

    asyncio.run(test())
