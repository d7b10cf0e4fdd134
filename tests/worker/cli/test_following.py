import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from adapters import redis_server
from adapters.redis_server import Connections
from runner_spec import wire
from tests.worker.cli.scene import line as log_line
from worker.cli import following
from worker.cli.following import follow
from worker.client import JobClient
from worker.job_status import JobStatus
from worker.log_store import LogChunk


class Notebook:
    """A narrator that writes down what it hears; `reactions` answer to a note with an effect."""

    def __init__(self, reactions: dict[str, Callable[[], Awaitable[object]]] | None = None) -> None:
        self.notes: list[str] = []
        self._reactions = reactions or {}
        self._tasks: list[asyncio.Future[object]] = []

    def _note(self, note: str) -> None:
        self.notes.append(note)
        if note in self._reactions:
            self._tasks.append(asyncio.ensure_future(self._reactions.pop(note)()))

    def status(self, status: JobStatus) -> None:
        self._note(f"{status.status} {status.attempt}")

    def log(self, line: LogChunk) -> None:
        self._note(f"log {line.text.decode()}")

    def remark(self, text: str) -> None:
        self._note(f"remark {text}")

    def tick(self) -> None:
        """Nothing to write down."""


class ScriptedLogs:
    """The log of each attempt: texts to yield, an event to wait for, an error to raise."""

    def __init__(self, attempts: dict[int, list[str | asyncio.Event | Exception]]) -> None:
        self._attempts = attempts
        self.finished: list[int] = []

    async def read(
        self, job_id: str, attempt: int, *, container: str | None = None, follow: bool = False
    ) -> AsyncGenerator[LogChunk, None]:
        assert (job_id, container, follow) == ("j", None, True)
        for item in self._attempts[attempt]:
            if isinstance(item, asyncio.Event):
                await item.wait()
            elif isinstance(item, Exception):
                raise item
            else:
                yield log_line("run", item.encode())
        self.finished.append(attempt)


def play(scenario: Callable[[Connections], Awaitable[None]]) -> None:
    async def session() -> None:
        async with redis_server.embed() as connections:
            await scenario(connections)

    asyncio.run(session())


def put(connections: Connections, status: str, attempt: int) -> Callable[[], Awaitable[object]]:
    async def write() -> None:
        connections.sync.hset(wire.state_key("j"), mapping={"attempt": attempt, "stage": "run"})
        connections.sync.hset(wire.attempts_key("j"), "1", json.dumps({"outcome": {"verdict": "failed"}}))
        connections.sync.hset("rq:job:j", mapping={"status": status, "origin": "jobs"})

    return write


def test_the_log_is_told_to_its_end_before_the_next_attempts_begins() -> None:
    async def scenario(connections: Connections) -> None:
        late = asyncio.Event()

        async def second_attempt() -> None:
            await put(connections, "started", 2)()
            late.set()

        notebook = Notebook({"log a1": second_attempt, "log b1": put(connections, "failed", 2)})
        logs = ScriptedLogs({1: ["a1", late, "a2"], 2: ["b1", "b2"]})
        await put(connections, "started", 1)()
        status = await follow(JobClient(connections.control, logs=logs), "j", notebook, interval=0.001)
        told = [note for note in notebook.notes if note.startswith("log")]
        assert told == ["log a1", "log a2", "log b1", "log b2"]
        assert (status.status, logs.finished) == ("failed", [1, 2])
        assert notebook.notes.index("log a2") < notebook.notes.index("started 2")

    play(scenario)


def test_attempts_that_came_and_went_unseen_are_read_too() -> None:
    async def scenario(connections: Connections) -> None:
        logs = ScriptedLogs({1: ["a"], 2: ["b"], 3: ["c"]})
        await put(connections, "finished", 3)()
        notebook = Notebook()
        await follow(JobClient(connections.control, logs=logs), "j", notebook)
        assert [note for note in notebook.notes if note.startswith("log")] == ["log a", "log b", "log c"]

    play(scenario)


def test_a_log_that_cannot_be_read_is_remarked_on_and_the_job_is_followed_on() -> None:
    async def scenario(connections: Connections) -> None:
        await put(connections, "started", 1)()
        remark = "remark the log of attempt 1 could not be read to its end: OSError: disk gone"
        notebook = Notebook({remark: put(connections, "finished", 1)})
        logs = ScriptedLogs({1: ["a", OSError("disk gone")]})
        status = await follow(JobClient(connections.control, logs=logs), "j", notebook, interval=0.001)
        assert status.status == "finished"
        assert remark in notebook.notes

    play(scenario)


def test_a_log_without_an_end_is_given_up_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOG_DRAIN_SECONDS", 0.01)

    async def scenario(connections: Connections) -> None:
        await put(connections, "finished", 1)()
        notebook = Notebook()
        logs = ScriptedLogs({1: ["a", asyncio.Event()]})
        await follow(JobClient(connections.control, logs=logs), "j", notebook)
        assert "log a" in notebook.notes
        assert "some of it may be missing" in notebook.notes[-1]
        assert len(asyncio.all_tasks()) == 1

    play(scenario)


def test_a_job_that_never_began_has_no_log() -> None:
    async def scenario(connections: Connections) -> None:
        connections.sync.hset("rq:job:j", mapping={"status": "canceled", "origin": "jobs"})
        notebook = Notebook()
        await follow(JobClient(connections.control, logs=ScriptedLogs({})), "j", notebook)
        assert notebook.notes == ["canceled 0"]

    play(scenario)


@pytest.mark.parametrize("ends", ["started", "finished"])
def test_a_closed_output_ends_the_following(ends: str) -> None:
    class ClosedOutput(Notebook):
        def log(self, line: LogChunk) -> None:
            super().log(line)
            raise BrokenPipeError

    async def scenario(connections: Connections) -> None:
        await put(connections, ends, 1)()
        notebook = ClosedOutput()
        with pytest.raises(BrokenPipeError):
            await follow(JobClient(connections.control, logs=ScriptedLogs({1: ["a"]})), "j", notebook, interval=0.001)
        assert not any(note.startswith("remark") for note in notebook.notes)

    play(scenario)
