"""Ending jobs that wait, start and run as real pods; and workers that leave while their jobs run on."""

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from rq.command import send_stop_job_command

from adapters import redis_server
from runner_spec import anatomy
from tests.cluster.site import Site, WorkerProcess, ended, job, said, shown
from worker.cli.downloads import recorded_artifacts
from worker.client import Cancellation

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

GRACE_S = 3
ENDLESS = "echo begun; sleep 600"
# What the kubelet and the watch add to the times that dynapod itself keeps; the node is shared and slow.
SLACK_S = 15.0
LINES = 120


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[WorkerProcess]:
    with site.worker("cancel", grace=f"{GRACE_S}s") as running:
        yield running


async def pod_uid(site: Site, name: str) -> str:
    async with site.api() as api:
        pod = await api.get_pod(name)
    assert pod is not None, f"no pod {name}"
    return str(pod["metadata"]["uid"])


async def cancel(site: Site, job_id: str) -> None:
    done = await asyncio.to_thread(site.command, "cancel", job_id)
    assert (done.returncode, done.stdout) == (
        0,
        f"{job_id}: told to stop; follow it with `dynapod logs -f` or `dynapod status`\n",
    ), done.stderr


async def stop_by_rq(site: Site, job_id: str) -> None:
    connections = redis_server.connect(site.redis_url)
    try:
        await asyncio.to_thread(send_stop_job_command, connections.sync, job_id, serializer="json")
    finally:
        await connections.aclose()


@pytest.mark.parametrize(("stop", "who"), [(cancel, "@"), (stop_by_rq, "rq's command stop-job")])
def test_a_running_job_is_told_to_end_and_cleans_up_and_its_artifacts_arrive(
    worker: WorkerProcess, stop: Callable[[Site, str], Awaitable[None]], who: str
) -> None:
    async def test() -> None:
        async with worker.site.client() as client:
            description = job(
                ENDLESS,
                after=[{"name": "tidy", "run": "echo tidied | tee trace.txt"}],
                artifacts=[
                    {"name": "trace", "paths": ["trace.txt"], "when": "always"},
                    {"name": "product", "paths": ["product.txt"], "when": "success"},
                ],
            )
            it = await client.submit(description, queue=worker.queue)
            await said(client, it, b"begun")
            await stop(worker.site, it)
            end = await ended(client, it)
            assert (end.verdict, end.reason, end.status.status) == ("canceled", "canceled", "stopped"), end
            assert who in end.status.result["message"]
            assert end.output.splitlines() == [b"begun", b"tidied"]
            steps = [(step["name"], step["exit_code"], step["after"]) for step in end.status.result["steps"]]
            assert steps == [("step 1", 143, False), ("tidy", 0, True)]
            artifacts = await recorded_artifacts(worker.site.store(), it, 1)
            assert [(each.name, each.result) for each in artifacts] == [("trace", "uploaded"), ("product", "skipped")]

    asyncio.run(test())


def test_a_step_that_ignores_sigterm_is_ended_by_force_after_the_grace(worker: WorkerProcess) -> None:
    async def test() -> None:
        async with worker.site.client() as client:
            deaf = job("trap '' TERM; echo begun; while :; do sleep 1; done")
            it = await client.submit(deaf, queue=worker.queue)
            await said(client, it, b"begun")
            asked = time.monotonic()
            await client.cancel(it, by="the test")
            end = await ended(client, it)
            assert GRACE_S <= time.monotonic() - asked < GRACE_S + SLACK_S
            assert (end.verdict, end.status.result["message"]) == ("canceled", "stopped by the test")
            assert [step["exit_code"] for step in end.status.result["steps"]] == [137]

    asyncio.run(test())


def test_a_pod_that_finds_no_node_goes_at_once(worker: WorkerProcess) -> None:
    async def test() -> None:
        async with worker.site.client() as client:
            it = await client.submit(job("true", resources={"cpu": "8"}), queue=worker.queue)
            status = await shown(client, it, lambda status: "Insufficient cpu" in status.why)
            asked = time.monotonic()
            await client.cancel(it, by="the test")
            end = await ended(client, it)
            assert time.monotonic() - asked < SLACK_S / 3
            assert (end.verdict, end.logs) == ("canceled", {})
            async with worker.site.api() as api:
                assert await api.get_pod(status.pod) is None

    asyncio.run(test())


def test_a_job_in_the_queue_never_starts(site: Site) -> None:
    async def test() -> None:
        async with site.client() as client:
            first, second = [await client.submit(job("echo ran"), queue="later") for _ in range(2)]
            assert await client.cancel(first, by="the test") is Cancellation.CANCELED
            with site.worker("later"):
                # The queue is served in order: had the first one been taken, then before the second.
                assert (await ended(client, second)).verdict == "succeeded"
                status = await client.status(first)
                assert (status.status, status.attempts, status.attempt) == ("canceled", (), 0)
                async with site.api() as api:
                    assert (await api.list_pods(f"{anatomy.LABEL_JOB}={first}"))[0] == []

    asyncio.run(test())


def test_a_checkout_from_a_git_server_that_never_answers_is_ended(worker: WorkerProcess) -> None:
    async def test() -> None:
        site = worker.site
        async with site.client() as client:
            with socket.create_server((site.host, 0)) as server:
                server.setblocking(False)
                source = {"git": f"git://{site.host}:{server.getsockname()[1]}/app"}
                it = await client.submit(job("echo ran", source=source), queue=worker.queue)
                async with asyncio.timeout(60):
                    connection, _ = await asyncio.get_running_loop().sock_accept(server)
                with connection:
                    asked = time.monotonic()
                    await client.cancel(it, by="the test")
                    end = await ended(client, it)
            assert time.monotonic() - asked < SLACK_S
            assert (end.verdict, end.status.result["message"]) == ("canceled", "stopped by the test")
            assert end.output == b""

    asyncio.run(test())


def leave(worker: WorkerProcess) -> float:
    """SIGTERM to a worker; the seconds until it had exited, with 0."""
    begun = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0, worker.log.read_text()[-2000:]
    return time.monotonic() - begun


def test_a_worker_that_leaves_hands_its_pod_over_and_no_line_is_lost_or_doubled(site: Site) -> None:
    async def test() -> None:
        async with site.client() as client:
            with site.worker("drain") as first:
                counting = job(f"for i in $(seq {LINES}); do echo line $i; sleep 0.1; done")
                it = await client.submit(counting, queue="drain")
                await said(client, it, b"line 1")
                before = await client.status(it)
                uid = await pod_uid(site, before.pod)
                with site.worker("drain"):
                    assert await asyncio.to_thread(leave, first) < 2
                    after = await shown(client, it, lambda status: status.worker != before.worker)
                    assert (after.status, after.pod, await pod_uid(site, after.pod)) == ("started", before.pod, uid)
                    end = await ended(client, it)
        assert (end.verdict, end.reason) == ("succeeded", "ok"), end
        assert end.output.splitlines() == [f"line {number}".encode() for number in range(1, LINES + 1)]
        (attempt,) = end.status.attempts
        assert (attempt.number, attempt.pod, attempt.worker) == (1, before.pod, after.worker)
        assert end.status.result["evidence"]["uid"] == uid

    asyncio.run(test())
