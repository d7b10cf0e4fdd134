#!/usr/bin/env python3
# System calls, by their own names; and its lines are what it is for:
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH108, PTH110, PTH116, PTH123, PTH208, T201, FLY002
"""Tries to leave its container, in ways that end at once. Runs in the job's image, as a step; prints one line each.

    <number> <name>: contained: <what stood in the way>
    <number> <name>: ESCAPED: <what was reached>

Variables: GATEWAY (URL), NODE (address), NAMESPACE, NEIGHBOUR (id of another job).
"""

import base64
import ctypes
import errno
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
# Split, because this very text lies in a file that is searched.
JWT = re.compile(rb"ey" rb"J[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_REMOUNT, MS_BIND = 32, 4096
AF_PACKET, ETH_P_ALL = 17, 0x0003
READ_ONLY_PORTS = (10255, 10248, 10249, 10256, 2379, 2380, 10257, 10259, 2375, 2376)
TIMEOUT_S = 3.0


class EscapedError(Exception):
    """Something was reached that is not the job's own."""


def get(url: str, token: str = "", *, method: str = "GET", body: bytes | None = None) -> int:
    """The status of an answer; 0 when there is none."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=trusting) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def refused(urls: list[str], token: str = "", *, method: str = "GET", body: bytes | None = None) -> str:
    seen = {}
    for url in urls:
        status = seen[url] = get(url, token, method=method, body=body)
        if status not in {0, 400, 401, 403, 404}:
            raise EscapedError(f"{method} {url} answers {status}")
    return ", ".join(sorted({str(status or "no answer") for status in seen.values()}))


def denied(what: str, action: Callable[[], object]) -> str:
    """The system's word for why an action fails."""
    try:
        result = action()
    except OSError as error:
        return f"{what} {errno.errorcode.get(error.errno or 0, str(error))}"
    raise EscapedError(f"{what} works: {result!r}")


def call(name: str, *arguments: object) -> int:
    """A function of libc, its failure as OSError."""
    result = int(getattr(LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def api() -> str:
    return f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"


def api_urls() -> list[str]:
    namespaced = f"{api()}/api/v1/namespaces/{os.environ['NAMESPACE']}"
    return [*(f"{namespaced}/{kind}" for kind in ("pods", "secrets", "configmaps")), f"{api()}/api/v1/nodes"]


def api_server_without_a_token() -> str:
    pod = json.dumps({"metadata": {"name": "evil"}, "spec": {"containers": []}}).encode()
    return f"{refused(api_urls())}; create: {refused(api_urls()[:1], method='POST', body=pod)}"


def files_below(folder: str) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)


def tokens() -> Iterator[str]:
    places = [Path(path) for pid in pids() for path in (f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")]
    for folder in ("/var/run/secrets", "/run", "/dynapod", "/workspace", "/tmp", "/etc", "/home"):
        places.extend(files_below(folder))
    for path in places:
        try:
            if stat.S_ISFIFO(path.stat().st_mode) or path.stat().st_size > 2**22:
                continue
            yield from (found.decode() for found in JWT.findall(path.read_bytes()))
        except OSError:
            continue


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def api_server_with_a_token_that_lies_about() -> str:
    found = sorted(set(tokens()))
    for token in found:
        refused(api_urls(), token)
    if found:
        raise EscapedError(f"{len(found)} tokens lie about")
    return "there is no token in any file, environment or command line"


def another_jobs_cache_and_artifacts() -> str:
    gateway = os.environ["GATEWAY"]
    claims = {"sub": f"system:serviceaccount:{os.environ['NAMESPACE']}:default", "aud": ["dynapod"]}
    parts = [{"alg": "none"}, claims]
    forged = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."
    said = []
    for token in ("", "made-up", forged, f"{forged}c2lnbmF0dXJl"):
        said.append(refused([f"{gateway}/runner/v1/caches?key=k&fallback=k"], token))
        puts = (
            "artifacts/wheel/f",
            f"artifacts/..%2f..%2f{os.environ['NEIGHBOUR']}/f",
            "manifest",
            "masks",
            "caches/k",
        )
        said.append(refused([f"{gateway}/runner/v1/{path}" for path in puts], token, method="PUT", body=b"{}"))
    if set(said) != {"401"}:
        raise EscapedError(f"the gateway answers {said}")
    return "401"


def kubelet() -> str:
    node = os.environ["NODE"]
    paths = ("pods", "runningpods/", "metrics", "logs/", f"exec/{os.environ['NAMESPACE']}/p/run?command=id")
    open_ports = [f"http://{node}:{port}/" for port in READ_ONLY_PORTS]
    return f"{refused([f'https://{node}:10250/{path}' for path in paths])}; other ports: {refused(open_ports)}"


def host_paths() -> str:
    for path in ("/host", "/rootfs", "/var/lib/kubelet", "/etc/kubernetes", "/run/containerd", "/var/run/docker.sock"):
        if os.path.exists(path):
            raise EscapedError(f"{path} is there")
    if os.path.realpath("/workspace/" + "../" * 40) != "/":
        raise EscapedError("there is something above the root")
    ours, first = os.stat("/"), os.stat("/proc/1/root/")
    if (ours.st_dev, ours.st_ino) != (first.st_dev, first.st_ino):
        raise EscapedError("process 1 has another root")
    if b"/dynapod/bin/shim" not in Path("/proc/1/cmdline").read_bytes():
        raise EscapedError("process 1 is not the shim")
    return "no folder of the node; process 1 is the shim, its root ours"


def device_files() -> str:
    said = [denied(path, partial(os.open, path, os.O_RDONLY)) for path in ("/dev/mem", "/dev/kmsg", "/dev/kvm")]
    disks = [path for path in os.listdir("/sys/block") if not path.startswith(("loop", "ram"))]
    said += [denied(f"/dev/{disk}", partial(os.open, f"/dev/{disk}", os.O_RDONLY)) for disk in disks[:2]]
    for kind, number in ((stat.S_IFBLK, os.makedev(8, 0)), (stat.S_IFCHR, os.makedev(1, 1))):
        said.append(denied("mknod", partial(os.mknod, "/workspace/device", kind | 0o666, number)))
    return ", ".join(said)


def mounts() -> str:
    attempts: list[tuple[str, bytes, bytes | None, int]] = [
        ("tmpfs", b"none", b"tmpfs", 0),
        ("bind", b"/", None, MS_BIND),
        ("proc", b"proc", b"proc", 0),
        ("sysfs", b"sysfs", b"sysfs", 0),
        ("remount", b"none", None, MS_REMOUNT | MS_BIND),
    ]
    os.makedirs("/workspace/mnt", exist_ok=True)
    return ", ".join(
        denied(
            name,
            partial(call, "mount", source, b"/workspace/mnt", kind, flags, None),
        )
        for name, source, kind, flags in attempts
    )


def other_containers_processes() -> str:
    for pid in pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"runner" in command or b"containerd" in command or b"kubelet" in command or b"/pause" in command:
            raise EscapedError(f"process {pid} is {command!r}")
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    strangers = [pid for pid in range(5000, min(limit, 200_000), 997) if os.path.exists(f"/proc/{pid}")]
    if [pid for pid in strangers if pid not in pids()]:
        raise EscapedError(f"processes {strangers}")
    return f"only its own {len(pids())} processes are to be seen"


def overwriting_the_shim() -> str:
    return ", ".join(
        [
            denied("write", lambda: open("/dynapod/bin/shim", "w")),
            denied("remove", lambda: os.unlink("/dynapod/bin/shim")),
            denied("replace", lambda: os.rename("/dynapod/state", "/dynapod/bin")),
            denied("chmod", lambda: os.chmod("/dynapod/bin/sh", 0o777)),
            denied("plan", lambda: open("/dynapod/plan/steps", "w")),
        ]
    )


def status(name: str) -> str:
    return re.search(rf"^{name}:\s*(\S+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def more_privileges() -> str:
    said = [denied("unshare", partial(call, "unshare", flag)) for flag in (CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID)]
    said.append(denied("chroot", lambda: os.chroot("/workspace")))
    said.append(denied("setns", lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)))
    if os.getuid():
        said.append(denied("setuid", lambda: os.setuid(0)))
        answer = subprocess.run(["su", "-c", "id -u"], input=b"", capture_output=True, check=False)
        if answer.stdout.strip() == b"0":
            raise EscapedError("su made it root")
    else:
        inside, outside, count = map(int, Path("/proc/self/uid_map").read_text().split())
        if outside < 65536 or count > 65536:
            raise EscapedError(f"root inside is uid {outside} outside, with {count} more")
        said.append(f"root inside is uid {outside - inside} outside")
    facts = {name: status(name) for name in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "CapPrm")}
    if (
        facts["NoNewPrivs"] != "1"
        or facts["Seccomp"] != "2"
        or any(int(facts[n], 16) for n in facts if n.startswith("Cap"))
    ):
        raise EscapedError(str(facts))
    return ", ".join([*said, "no capabilities, no new privileges, seccomp"])


def raw_sockets() -> str:
    packet = denied("AF_PACKET", lambda: socket.socket(AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    raw = denied("raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    icmp = denied("raw ICMP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    return ", ".join((packet, raw, icmp))


def kernel_settings() -> str:
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/net/ipv4/ip_forward"]
    paths += ["/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent"]
    paths += ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cgroup.procs"]
    said = {denied("", partial(os.open, path, os.O_WRONLY | os.O_TRUNC)).strip() for path in paths}
    try:
        # Root inside a user namespace may divide what its own cgroup has; the limits above are not its to change.
        os.mkdir("/sys/fs/cgroup/below")
        said.add("a cgroup below its own")
    except OSError as error:
        said.add(errno.errorcode[error.errno or 0])
    return ", ".join(sorted(said))


ATTEMPTS: dict[int, Callable[[], str]] = {
    1: api_server_without_a_token,
    2: api_server_with_a_token_that_lies_about,
    3: another_jobs_cache_and_artifacts,
    4: kubelet,
    5: host_paths,
    6: device_files,
    7: mounts,
    8: other_containers_processes,
    13: overwriting_the_shim,
    19: more_privileges,
    21: raw_sockets,
    22: kernel_settings,
}


def main() -> int:
    escaped = False
    for number, attempt in ATTEMPTS.items():
        name = attempt.__name__.replace("_", " ")
        try:
            print(f"{number} {name}: contained: {attempt()}", flush=True)
        except EscapedError as error:
            escaped = True
            print(f"{number} {name}: ESCAPED: {error}", flush=True)
    return int(escaped)


if __name__ == "__main__":
    sys.exit(main())
