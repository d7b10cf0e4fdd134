"""Looking into jobs' containers: running ones, and failed ones that are kept for that."""

import asyncio
import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.processes import dynapod
from tests.cluster.site import PATIENCE_S, Site, WorkerProcess, ended, job, said
from worker.client import JobClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

FAILING = "echo the cause > build.log; exit 3"
KEEP_S = 5


@pytest.fixture(scope="module")
def worker(site: Site) -> Iterator[WorkerProcess]:
    with site.worker("debug", allow_debug=True, max_keep="1h") as running:
        yield running


def debug(
    site: Site, job_id: str, *arguments: str, stdin: "int | None" = None, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """`dynapod debug` as a user types it, with nothing to read on its standard input unless given."""
    settings = {"REDIS_URL": site.redis_url, "NAMESPACE": site.namespace, "KUBECONFIG": site.kubeconfig}
    return subprocess.run(
        dynapod("debug", job_id, *arguments),
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **{f"DYNAPOD_{name}": value for name, value in settings.items()}},
        **({"input": text} if text is not None else {"stdin": subprocess.DEVNULL if stdin is None else stdin}),
    )


async def begun(client: JobClient, worker: WorkerProcess) -> str:
    """A job that goes on until it is canceled."""
    description = job("echo here > file; echo begun; sleep 600", services=[service()])
    it = await client.submit(description, queue=worker.queue)
    await said(client, it, b"begun")
    return it


def service() -> dict[str, object]:
    """One that ends when told to: the kubelet gives one that does not the whole of the pod's grace period."""
    script = "trap 'exit 0' TERM; sleep 600 & wait"
    return {"name": "db", "image": "localhost/bb:latest", "command": ["sh", "-c", script]}


def test_a_command_runs_in_a_running_jobs_container_and_its_exit_status_is_told(worker: WorkerProcess) -> None:
    async def test() -> None:
        site = worker.site
        async with site.client() as client:
            it = await begun(client, worker)
            done = debug(site, it, "--", "cat", "file")
            assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
            assert debug(site, it, "--", "sh", "-c", "exit 7").returncode == 7
            assert debug(site, it, "--", "tr", "a-z", "A-Z", text="piped").stdout == "PIPED"
            # Without a command, a shell that reads what comes; in a service, the one of its image.
            assert debug(site, it, text="cat file; pwd").stdout == "here\n/workspace\n"
            assert debug(site, it, "-c", "db", text="readlink /proc/1/exe").stdout == "/bin/busybox\n"
            refused = debug(site, it, "-c", "checkout")
            assert (refused.returncode, "has ended with exit code 0: choose of db" in refused.stderr) == (2, True)
            misplaced = debug(site, it, "--namespace", "default")
            assert (misplaced.returncode, "not in namespace 'default'" in misplaced.stderr) == (2, True)
            await client.cancel(it)
            await ended(client, it)
            late = debug(site, it)
            assert (late.returncode, "has ended (canceled)" in late.stderr) == (2, True), late.stderr

    asyncio.run(test())


def test_a_terminal_here_is_a_terminal_there(worker: WorkerProcess) -> None:
    async def test() -> None:
        async with worker.site.client() as client:
            it = await begun(client, worker)
            mine, theirs = pty.openpty()
            try:
                os.write(mine, b"tty; exit 9\n")
                done = debug(worker.site, it, stdin=theirs)
            finally:
                os.close(mine)
                os.close(theirs)
            assert (done.returncode, "/dev/pts/" in done.stdout) == (9, True), done
            await client.cancel(it)
            await ended(client, it)

    asyncio.run(test())


def test_a_failed_job_is_kept_to_be_looked_at_until_somebody_has_seen_enough(worker: WorkerProcess) -> None:
    async def test() -> None:
        site = worker.site
        async with site.client() as client:
            logs = [{"name": "log", "paths": ["build.log"], "when": "always"}]
            kept = job(FAILING, keep="on-failure 1h", retry={"attempts": 2}, artifacts=logs)
            it = await client.submit(kept, queue=worker.queue)
            await said(client, it, b"kept for 1h")
            assert (await client.status(it)).status == "started"
            done = debug(site, it, "--", "cat", "build.log")
            assert (done.returncode, done.stdout) == (0, "the cause\n"), done.stderr
            assert site.command("cancel", it).returncode == 0
            end = await ended(client, it)
            assert (end.verdict, end.reason, end.status.status) == ("failed", "exit", "failed"), end
            assert (end.status.result["exit_code"], len(end.status.attempts)) == (3, 1)
            assert [artifact["result"] for artifact in end.status.result["artifacts"]] == ["uploaded"]

    asyncio.run(test())


def test_keeping_ends_by_itself(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job(FAILING, keep=f"on-failure {KEEP_S}s"))
        assert (end.verdict, end.reason, end.status.result["exit_code"]) == ("failed", "exit", 3), end
        assert end.status.result["timings"]["run"] >= KEEP_S

    asyncio.run(test())


def test_a_success_is_not_kept(worker: WorkerProcess) -> None:
    async def test() -> None:
        end = await worker.run(job("true", keep="on-failure 1h"))
        assert (end.verdict, end.reason) == ("succeeded", "ok")

    asyncio.run(test())


def test_a_policy_that_allows_neither_refuses_both(site: Site) -> None:
    async def test() -> None:
        with site.worker("closed") as worker:
            async with site.client() as client:
                it = await begun(client, worker)
                refused = debug(site, it, "--", "cat", "file")
                assert (refused.returncode, refused.stdout) == (2, "")
                assert "the operator can set `allow_debug: true`" in refused.stderr
                await client.cancel(it)
                await ended(client, it)
            end = await worker.run(job(FAILING, keep="on-failure 1h"))
            assert (end.verdict, "policy.max_keep" in end.status.result["message"]) == ("rejected", True)

    asyncio.run(test())
