"""Services beside a job, as real pods: by name and at localhost, awaited in three ways, told when they fail."""

import asyncio
import re
from typing import Any

import pytest

from tests.cluster import images
from tests.cluster.site import Ended, Site, job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# nginx writes where a user without rights may, and does not try to become another: root in a user namespace may not.
NGINX = """
mkdir -p /tmp/web && echo page > /tmp/web/index.html
cat > /tmp/nginx.conf <<'END'
user root root; daemon off; master_process off; error_log /dev/stderr info; pid /tmp/nginx.pid;
events {}
http {
  access_log /dev/stdout; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 8080; root /tmp/web; location = /health { access_log off; return 200 "ok"; } }
}
END
exec nginx -c /tmp/nginx.conf
"""
# Without a client in the job's image: Redis' own protocol, over a socket.
SPEAK_REDIS = """
import socket, sys
with socket.create_connection((sys.argv[1], 6379), timeout=5) as redis:
    redis.sendall(" ".join(sys.argv[2:]).encode() + b"\\r\\n")
    print(redis.recv(100).decode().strip())
"""
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())"


# Up after a second; it ends when it is told to, as a service should: the first process of a container must say so.
UNHURRIED = "trap 'exit 0' TERM; sleep 1; touch /tmp/up; sleep 600 & wait"


def service(name: str, script: str, **ready: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "image": images.SERVICES, "command": ["sh", "-c", script]}
    return found | ({"ready": ready} if ready else {})


def redis(**ready: Any) -> dict[str, Any]:
    return service("db", "exec redis-server --save '' --dir /tmp --port 6379", **ready)


def test_steps_use_a_real_redis_and_a_real_web_server_by_name_and_at_localhost(site: Site) -> None:
    steps = [
        f"cat > redis.py <<'END'\n{SPEAK_REDIS}\nEND\ncat > fetch.py <<'END'\n{FETCH}\nEND",
        "python3 redis.py db SET greeting hello && python3 redis.py localhost GET greeting",
        "python3 fetch.py http://web:8080/ && python3 fetch.py http://localhost:8080/",
        "echo new page > /tmp/unseen; python3 fetch.py http://web:8080/unseen || echo its files are its own",
    ]
    services = [
        redis(tcp=6379, timeout="60s"),
        service("web", NGINX, http="http://web:8080/health", timeout="60s"),
        service("watch", UNHURRIED, command=["test", "-e", "/tmp/up"], timeout="60s"),
    ]

    async def test() -> Ended:
        with site.worker("services") as worker:
            return await worker.run(job(*steps, services=services))

    result = asyncio.run(test())
    assert (result.verdict, result.reason) == ("succeeded", "ok"), result.status.result
    assert b"+OK" in result.output
    assert b"hello" in result.output
    assert result.output.count(b"page") == 2
    assert b"its files are its own" in result.output
    assert any(b"Ready to accept connections" in line for line in result.logs["db"])
    assert any(b'"GET / HTTP/1.1" 200' in line for line in result.logs["web"])
    assert not any(b"Ready to accept" in line for name in ("run", "web", "checkout") for line in result.logs[name])
    assert b"service db is ready" in b"\n".join(result.logs["checkout"])
    assert b"service web is ready" in b"\n".join(result.logs["checkout"])
    assert result.status.result["services"] == []


# One pipe, so that the lines keep their order.
CRASH = "exec 2>&1; echo starting; echo 'FATAL: no password for lavender' >&2; exit 7"
SLOW_CRASH = f"sleep 1; {CRASH}"
IDLE = "echo starting; echo still thinking; trap 'exit 0' TERM; sleep 600 & wait"
FAILURES: dict[str, tuple[dict[str, Any], str, bool]] = {
    # name → service, words of the message, whether it crashed (or was never ready)
    "crash tcp": (
        service("db", SLOW_CRASH, tcp=5432, timeout="8s"),
        r"'db' is not ready on port 5432 within 8 s",
        True,
    ),
    "crash http": (
        service("db", SLOW_CRASH, http="http://db:8080/health", timeout="8s"),
        r"'db' is not ready on http://db:8080/health within 8 s",
        True,
    ),
    "crash command": (
        service("db", CRASH, command=["test", "-e", "/tmp/ready"], timeout="50s"),
        r"service db keeps crashing \(exit code 7\)",
        True,
    ),
    "never ready tcp": (
        service("db", IDLE, tcp=5432, timeout="3s"),
        r"'db' is not ready on port 5432 within 3 s: .*[Rr]efused",
        False,
    ),
    "never ready http": (
        service("db", NGINX, http="http://db:8080/nothing-here", timeout="3s"),
        r"'db' is not ready on http://db:8080/nothing-here within 3 s: HTTP status 404",
        False,
    ),
    "never ready command": (
        service("db", IDLE, command=["false"], timeout="3s"),
        r"service db was not ready within 3 s: its readiness command did not succeed",
        False,
    ),
}


@pytest.fixture(scope="module")
def failures(site: Site) -> dict[str, Ended]:
    """All of them at once: most of their time is waiting."""

    async def run_all() -> dict[str, Ended]:
        with site.worker("failing-services") as worker:
            jobs = [worker.run(job("true", services=[found])) for found, _, _ in FAILURES.values()]
            return dict(zip(FAILURES, await asyncio.gather(*jobs), strict=True))

    return asyncio.run(run_all())


@pytest.mark.parametrize("name", FAILURES)
def test_a_service_that_does_not_come_up_is_the_jobs_fault_and_says_why(
    name: str, failures: dict[str, Ended], site: Site
) -> None:
    _, words, crashed = FAILURES[name]
    result = failures[name].status.result
    assert (result["verdict"], result["fault"], result["reason"]) == ("failed", "job", "service"), result
    assert re.search(words, result["message"]), result["message"]
    [told] = result["services"]
    assert (told["name"], told["crashed"]) == ("db", crashed)
    if crashed:
        assert told["restarts"] >= 1
        assert told["lines"][-1] == "FATAL: no password for lavender"
        assert "last line of db: FATAL: no password for lavender" in result["message"]
    elif "http" not in name:
        assert told["lines"][-2:] == ["starting", "still thinking"]
    lines = failures[name].logs["db"]
    assert not any(line.startswith(b"unable to retrieve") for line in lines)
    assert len(failures[name].status.attempts) == 1
    shown = site.command("status", failures[name].status.id).stdout
    assert "the last lines of its log:" in shown
    assert f"  | {told['lines'][-1]}" in shown


def test_every_start_of_a_crashing_service_is_in_its_log(failures: dict[str, Ended]) -> None:
    for name in ("crash command", "crash http", "crash tcp"):
        lines = failures[name].logs["db"]
        fatal = lines.count(b"FATAL: no password for lavender")
        restarts = failures[name].status.result["services"][0]["restarts"]
        gaps = [line for line in lines if line.startswith(b"[dynapod]")]
        assert fatal >= restarts + 1 or gaps, (name, lines)


def test_a_service_that_crashes_while_the_steps_run_is_named_in_their_failure(site: Site) -> None:
    crash = service("db", f"trap 'exit 0' TERM; sleep 3; {CRASH}")
    hungry = service("web", "sleep 3; python3 -c 'x = bytearray(10**9)'")

    async def test() -> Ended:
        with site.worker("crashing-services") as worker:
            return await worker.run(job("sleep 10; exit 1", services=[crash, hungry]))

    ended = asyncio.run(test())
    result = ended.status.result
    assert (result["fault"], result["reason"], result["exit_code"]) == ("job", "exit", 1)
    assert "services crashed meanwhile: db (exit code 7" in result["message"]
    assert "web (exit code 137, out of memory" in result["message"]
    told = {entry["name"]: entry for entry in result["services"]}
    assert told["db"]["lines"][-1] == "FATAL: no password for lavender"
    assert (told["web"]["reason"], told["web"]["exit_code"]) == ("oom", 137)


def test_a_service_that_ignores_being_told_to_end_delays_the_end_and_does_not_change_it(site: Site) -> None:
    """A kubelet that ends a pod by itself gives it the whole grace period, and no shorter one that comes later."""
    deaf = service("db", "trap '' TERM; while :; do sleep 1; done")

    async def test() -> Ended:
        with site.worker("deaf-service", grace="15s", node_loss_grace="1s") as worker:
            return await worker.run(job("true", services=[deaf]))

    ended = asyncio.run(test())
    assert (ended.verdict, len(ended.status.attempts)) == ("succeeded", 1), ended.status.result
