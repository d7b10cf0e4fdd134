import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner import checkout, shell
from runner.services import address
from runner_spec.anatomy import Exit
from runner_spec.plan import CachePlan, FolderSource, GitSource, ReadyPlan
from tests.runner.gateway_server import GatewayServer
from tests.runner.git_server import new_repository
from tests.runner.pod import Pod

# --- the order of things ----------------------------------------------------------------------------------------------


def test_a_whole_checkout_reports_commit_caches_and_time(pod: Pod, gateway: GatewayServer, tmp_path: Path) -> None:
    commit = new_repository(tmp_path / "repository", {"lock": "1", "app.py": ""})
    pod.plan(git=GitSource(str(tmp_path / "repository")), caches=(CachePlan("c-{{ hash('lock') }}", (".cache",)),))
    result = pod.checkout()
    assert (result.code, result.checkout.reason, result.checkout.commit) == (0, "ok", commit)
    assert [cache.result for cache in result.checkout.caches] == ["miss"]
    assert 0 < result.checkout.seconds < 60
    assert (pod.root / "bin" / "shim").exists()
    assert all(line.startswith("[dynapod] ") for line in result.output.splitlines())
    assert gateway.requests == ["GET /runner/v1/caches"]


def test_nothing_to_do_needs_no_gateway(tmp_path: Path) -> None:
    pod = Pod(tmp_path / "pod")
    pod.plan()
    assert pod.checkout().code == 0


def test_a_cache_without_gateway_is_a_warning(tmp_path: Path) -> None:
    pod = Pod(tmp_path / "pod")
    pod.plan(caches=(CachePlan("k", ("x",)),))
    result = pod.checkout()
    assert (result.code, result.checkout.caches[0].result) == (0, "failed")


def test_a_missing_variable_is_named(pod: Pod) -> None:
    pod.plan()
    del pod.variables["HOME"]
    process = pod.start("checkout")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "HOME is not set" in output


def test_sigterm_cancels_a_checkout_at_once(pod: Pod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        pod.plan(git=GitSource(f"http://127.0.0.1:{silent.getsockname()[1]}/app"))
        process = pod.start("checkout")
        connection, _ = silent.accept()  # git waits for an answer
        with connection:
            process.send_signal(signal.SIGTERM)
            result = pod.finish(process, limit=20)
    assert (result.code, result.checkout.reason) == (143, "canceled")


# --- masks ------------------------------------------------------------------------------------------------------------


def test_secrets_are_announced_before_anything_is_printed(pod: Pod, gateway: GatewayServer) -> None:
    pod.write(
        {"TOKEN": "t0ken", "KEY": "line one\nline two\n", "EMPTY": "", "BINARY": b"\xff\x00\xfe"}, folder="secrets"
    )
    pod.plan(masks=("TOKEN", "KEY", "EMPTY", "BINARY"), git=GitSource("file:///nowhere"))
    result = pod.checkout()
    assert result.checkout.reason == "repository-not-found"
    assert sorted(gateway.masks) == sorted([b"t0ken", b"line one\nline two\n", b"\xff\x00\xfe"])
    assert gateway.requests == ["PUT /runner/v1/masks"]


def test_secrets_that_cannot_be_announced_end_the_checkout_at_once(pod: Pod, gateway: GatewayServer) -> None:
    gateway.always = [("PUT", 503)]
    pod.write({"TOKEN": "t0ken"}, folder="secrets")
    pod.plan(masks=("TOKEN",), git=GitSource("file:///nowhere"))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (75, "gateway")
    assert "cloning" not in result.output
    assert "t0ken" not in result.output + result.message


def test_a_secret_that_is_not_there_ends_the_checkout(pod: Pod) -> None:
    pod.plan(masks=("ABSENT",))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (75, "masks")
    assert "'ABSENT'" in result.checkout.message


def test_secrets_without_a_gateway_end_the_checkout(tmp_path: Path) -> None:
    pod = Pod(tmp_path / "pod")
    pod.write({"TOKEN": "t0ken"}, folder="secrets")
    pod.plan(masks=("TOKEN",))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (75, "masks")


# --- a folder as source -----------------------------------------------------------------------------------------------


@pytest.fixture
def source(pod: Pod) -> Path:
    pod.write(
        {"a/b/file": "1", "run.sh": "#!/bin/sh\n", ".hidden": "h", ".git/config": "", ".dynapod/x": ""}, folder="source"
    )
    root = pod.root / "source"
    (root / "run.sh").chmod(0o755)
    (root / "empty").mkdir()
    (root / "link").symlink_to("a/b")
    (root / "absolute").symlink_to("/usr/bin/python3")
    os.utime(root / "a/b/file", (1_000_000_000, 1_000_000_000))
    return root


@pytest.mark.usefixtures("source")
def test_a_folder_is_copied_with_modes_times_and_links(pod: Pod) -> None:
    pod.plan(folder=FolderSource())
    result = pod.checkout()
    assert result.code == 0, result.output
    copied = sorted(str(path.relative_to(pod.workspace)) for path in pod.workspace.rglob("*"))
    assert copied == [".hidden", "a", "a/b", "a/b/file", "absolute", "empty", "link", "run.sh"]
    assert stat.S_IMODE((pod.workspace / "run.sh").stat().st_mode) == 0o755
    assert (pod.workspace / "a/b/file").stat().st_mtime == 1_000_000_000
    assert (pod.workspace / "link").readlink() == Path("a/b")
    assert (pod.workspace / "absolute").readlink() == Path("/usr/bin/python3")


@pytest.mark.usefixtures("source")
def test_a_list_of_files_restricts_the_copy(pod: Pod) -> None:
    pod.plan(folder=FolderSource(("a/b/file", "link", "gone", "./run.sh")))
    result = pod.checkout()
    assert result.code == 0
    assert "warning: gone is not in the source folder" in result.output
    copied = sorted(str(path.relative_to(pod.workspace)) for path in pod.workspace.rglob("*"))
    assert copied == ["a", "a/b", "a/b/file", "link", "run.sh"]


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("path", ["../token", "/etc/passwd", "a/../../token", "link/file", ""])
def test_listed_files_outside_the_folder_are_refused(pod: Pod, path: str) -> None:
    pod.plan(folder=FolderSource((path,)))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (1, "source")
    assert list(pod.workspace.iterdir()) == []


@pytest.mark.usefixtures("source")
def test_a_copy_never_writes_through_a_link_in_the_workspace(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (pod.workspace / "a").symlink_to(tmp_path / "outside")
    pod.plan(folder=FolderSource(("a/b/file",)))
    assert pod.checkout().code == 1
    assert list((tmp_path / "outside").iterdir()) == []


def test_special_files_are_left_out_with_a_warning(pod: Pod, source: Path) -> None:
    os.mkfifo(source / "fifo")
    pod.plan(folder=FolderSource())
    result = pod.checkout()
    assert result.code == 0
    assert "warning: fifo is a device, a socket or a pipe" in result.output


def test_credentials_that_are_not_mounted_are_the_platforms_fault(pod: Pod) -> None:
    (pod.root / "credentials").rmdir()
    pod.plan(git=GitSource("https://h.invalid/a", credentials=True))
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (75, "credentials")


def test_a_source_that_is_not_mounted_is_the_platforms_fault(pod: Pod) -> None:
    shutil.rmtree(pod.root / "source")
    pod.plan(folder=FolderSource())
    result = pod.checkout()
    assert (result.code, result.checkout.reason) == (75, "source")


# --- services ---------------------------------------------------------------------------------------------------------


@contextmanager
def http_service(statuses: list[int]) -> Iterator[tuple[int, list[str]]]:
    """Answers with these statuses in turn, the last one for ever; the port, and the requests seen."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.headers['Host']} {self.path}")
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
            """Keep the tests' output readable."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1], seen
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def test_a_service_that_becomes_ready_is_waited_for(pod: Pod) -> None:
    with http_service([503, 404, 302]) as (port, seen):
        pod.plan(ready=(ReadyPlan("web", http=f"http://web:{port}/health?x=1", timeout=20), ReadyPlan("db", tcp=port)))
        result = pod.checkout()
    assert result.code == 0
    assert seen == [f"web:{port} /health?x=1"] * 3
    assert "service web is ready after" in result.output


def test_a_port_that_opens_late_is_waited_for(pod: Pod) -> None:
    port = free_port()
    pod.plan(ready=(ReadyPlan("db", tcp=port, timeout=30),))
    process = pod.start("checkout")
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        server.accept()[0].close()
    assert pod.finish(process).code == 0


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_a_service_that_never_is_ready_is_named(pod: Pod, kind: str) -> None:
    with http_service([500]) as (port, _):
        target = ReadyPlan("search", tcp=free_port(), timeout=0.3)
        if kind == "http":
            target = ReadyPlan("search", http=f"http://search:{port}/", timeout=0.3)
        pod.plan(ready=(target,))
        result = pod.checkout()
    assert (result.code, result.checkout.reason) == (1, "service")
    assert "service 'search' is not ready" in result.checkout.message
    assert ("HTTP status 500" if kind == "http" else "refused") in result.checkout.message


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://db:8080/x?y", ("db", 8080, "/x?y")),
        (":8080/x", ("localhost", 8080, "/x")),
        ("8080", ("localhost", 8080, "/")),
        ("/ready", ("localhost", 80, "/ready")),
    ],
)
def test_addresses(target: str, expected: tuple[str, int, str]) -> None:
    assert address(target) == expected


# --- the shell --------------------------------------------------------------------------------------------------------


def test_without_a_folder_to_fill_no_shell_is_installed(pod: Pod) -> None:
    del pod.variables["DYNAPOD_BIN"]
    pod.plan()
    assert pod.checkout().code == 0
    assert list((pod.root / "bin").iterdir()) == []


def test_without_a_static_busybox_the_hosts_shell_is_linked(pod: Pod) -> None:
    pod.variables["DYNAPOD_BUSYBOX"] = shutil.which("git") or ""  # an ELF program, and a dynamic one
    pod.plan()
    assert pod.checkout().code == 0
    assert (pod.root / "bin" / "sh").readlink() == Path("/bin/sh")
    assert not (pod.root / "bin" / "busybox").exists()


def static_elf(*, interpreter: bool) -> bytes:
    """The smallest header that tells static from dynamic, ELF64 and little-endian."""
    head = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + (64).to_bytes(8, "little") + bytes(14)
    head += (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    return head.ljust(64, b"\0") + (3 if interpreter else 1).to_bytes(4, "little") + bytes(52)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (static_elf(interpreter=False), True),
        (static_elf(interpreter=True), False),
        (b"#!/bin/sh\n", False),
        (b"", False),
        (b"\x7fELF", False),
    ],
)
def test_a_static_program_is_recognised_by_its_header(tmp_path: Path, content: bytes, *, expected: bool) -> None:
    (tmp_path / "program").write_bytes(content)
    assert shell.is_static(tmp_path / "program") == expected
    assert shell.is_static(tmp_path / "absent") is False


def test_a_static_busybox_is_installed_as_sh_and_busybox(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(static_elf(interpreter=False))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")  # of an attempt before
    shell.install(tmp_path / "bin", tmp_path / "busybox")
    for name in ("sh", "busybox"):
        found = (tmp_path / "bin" / name).lstat()
        assert stat.S_ISREG(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o755
    shim = tmp_path / "bin" / "shim"
    assert subprocess.run(["/bin/sh", "-n", str(shim)], check=False).returncode == 0


def test_git_and_its_helpers_do_not_inherit_what_only_kubernetes_has_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAPOD_NEEDS_TOKEN", "hunter2")
    monkeypatch.setenv("DYNAPOD_PLAN", "/no/plan")  # wherever this runs: a pod of dynapod's would have one
    monkeypatch.setenv("DYNAPOD_TERMINATION_LOG", "/no/log")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is pytest's
    assert checkout.main() == Exit.TEMPFAIL
    assert "DYNAPOD_NEEDS_TOKEN" not in os.environ
