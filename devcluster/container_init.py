"""The first process of a container: starts the main process, forwards signals, reaps, logs, leaves nothing behind.

Run as `python -I -S -E container_init.py`, by path and with the standard library only: it must start in milliseconds
and can import nothing of this package.

stdin is the control pipe: first one line of JSON (the fields of `Orders`), then one signal number a line. Its end
means that the cluster's process is gone, in whatever way: the container is killed.
stdout is the report pipe: `.` when the log has grown, else one line of JSON: `{"started": pid, "at": ns}`,
`{"error": "…"}` when the main process could not be started, and last
`{"exit": code, "signal": n or 0, "oom": bool, "log_error": "…", "at": ns}`.

The log is CRI's: `<RFC 3339 time, 9 digits> stdout|stderr F|P <content>`; P marks a line's part that is continued.
Times are strictly increasing within a container, so that a reader can resume after the last one it has seen.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import time
from types import FrameType
from typing import Any, Final, NoReturn

# containerd's max_container_log_line_size: longer lines are split into partial records of this many bytes.
PARTIAL_BYTES: Final = 16 * 1024
READ_BYTES: Final = 64 * 1024  # a pipe's capacity
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_SIGNAL_BASE: Final = 128  # a process killed by signal N is reported as 128+N, as runc does
# How long a program may take to set its signal handlers (an interpreter on a busy machine), and how often to look; s.
_STARTING_SECONDS: Final = 3.0
_DEFERRED_PERIOD: Final = 0.02
# Without a memory cgroup, use is measured this often (seconds) and the container killed when it is over its limit.
_MEMORY_PERIOD: Final = 0.25
# How long to go on killing what does not die (uninterruptible sleep, another user's process); seconds.
_REAP_LIMIT: Final = 10.0
_NS: Final = 1_000_000_000


class LogWriter:
    """Turns bytes of two streams into one CRI log file, with bounded memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._last = 0
        self._pending = {b"stdout": b"", b"stderr": b""}
        self.error = ""

    def feed(self, stream: bytes, data: bytes) -> None:
        """Log what a stream has just delivered."""
        lines = (self._pending[stream] + data).split(b"\n")
        rest = lines.pop()
        self._last = now = max(self._last, time.time_ns() - 1)
        out: list[bytes] = []
        middle = b" " + stream + b" "
        for line in lines:
            while len(line) > PARTIAL_BYTES:
                now += 1
                out += (self._stamp(now), middle, b"P ", line[:PARTIAL_BYTES], b"\n")
                line = line[PARTIAL_BYTES:]  # noqa: PLW2901 - the remainder of the same line
            now += 1
            # containerd's line reader takes "\r\n" for a line's end too.
            out += (self._stamp(now), middle, b"F ", line.removesuffix(b"\r"), b"\n")
        while len(rest) > PARTIAL_BYTES:
            now += 1
            out += (self._stamp(now), middle, b"P ", rest[:PARTIAL_BYTES], b"\n")
            rest = rest[PARTIAL_BYTES:]
        self._pending[stream] = rest
        self._last = now
        self._write(b"".join(out))

    def finish(self, stream: bytes) -> None:
        """Log what a stream left without a final newline, as a partial line (containerd does the same)."""
        if rest := self._pending[stream]:
            self._last = max(self._last + 1, time.time_ns())
            self._write(self._stamp(self._last) + b" " + stream + b" P " + rest + b"\n")
            self._pending[stream] = b""

    _second = -1
    _prefix = ""

    def _stamp(self, ns: int) -> bytes:
        second, fraction = divmod(ns, _NS)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._prefix}{fraction:09d}Z".encode()

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:  # a full disk: the container must not look as if it had been silent
            self.error = self.error or f"the log could not be written: {error.strerror}"


class Memory:
    """The container's memory limit: a cgroup's own, or measured."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.limit: int = orders.get("memory_limit") or 0
        self._cgroup: dict[str, Any] | None = orders.get("cgroup")
        self.event_fd = -1
        self.killed = False
        if self._cgroup and self._cgroup["version"] == 1:
            self._listen(self._cgroup)

    def _listen(self, cgroup: dict[str, Any]) -> None:
        # v1 would kill one process only; in Kubernetes (memory.oom.group of v2) the whole container ends. So the kernel
        # is told to hold whoever wants more memory (oom_kill_disable) and to tell us, and we kill everything.
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(cgroup["events"], os.O_RDONLY | os.O_CLOEXEC)
        with open(os.path.join(cgroup["folder"], "cgroup.event_control"), "w", encoding="ascii") as file:  # noqa: PTH118, PTH123 - pathlib costs 10 ms at start
            file.write(f"{self.event_fd} {control}")

    @property
    def measured(self) -> bool:
        """Whether this process has to look itself."""
        return bool(self.limit) and self._cgroup is None

    def join(self) -> None:
        """Called in the child before exec."""
        if self._cgroup:
            with open(os.path.join(self._cgroup["folder"], "cgroup.procs"), "w", encoding="ascii") as file:  # noqa: PTH118, PTH123
                file.write("0")

    def oom(self) -> bool:
        """Whether the kernel (or this process, measuring) has killed for memory."""
        if self.killed or self._cgroup is None:
            return self.killed
        with contextlib.suppress(OSError), open(self._cgroup["events"], encoding="ascii") as file:  # noqa: PTH123
            for line in file:
                name, _, count = line.partition(" ")
                if name == "oom_kill" and int(count) > 0:
                    return True
        return False

    def over(self) -> bool:
        """Measure: resident memory first (cheap), then the proportional share (exact where pages are shared)."""
        pids = descendants()
        page = os.sysconf("SC_PAGE_SIZE")
        resident = sum(int(_read(f"/proc/{pid}/statm", "0 0").split()[1]) for pid in pids) * page
        return resident > self.limit and sum(_proportional(pid) for pid in pids) > self.limit


def _proportional(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup", "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str, missing: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - see Memory._listen
            return file.read() or missing
    except OSError:
        return missing  # the process has just ended


def descendants() -> list[int]:
    """All living descendants of this process (a subreaper: nothing below it can escape), by one scan of /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208
        if entry.isdigit() and (stat := _read(f"/proc/{entry}/stat", "")):
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    queue = [os.getpid()]
    while queue:
        below = children.get(queue.pop(), ())
        found += below
        queue += below
    return found


class ContainerInit:
    """One container, from its orders to its report."""

    def __init__(self, orders: dict[str, Any], control_rest: bytes) -> None:
        self._orders = orders
        self._control = control_rest
        self._memory = Memory(orders)
        self._main = 0
        self._status: int | None = None
        self._spared_until = 0.0  # monotonic
        self._deferred: set[int] = set()
        log_fd = os.open(orders["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log = LogWriter(log_fd)
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, bytes] = {}

    def run(self) -> None:
        """The whole life of the container."""
        self._forward_signals()
        try:
            self._start()
        except OSError as error:
            report({"error": str(error.strerror or error)})
            return
        report({"started": self._main, "at": time.time_ns()})
        self._signal_main(b"")  # what came together with the orders
        while self._status is None:
            self._turn()
        ended = time.time_ns()
        oom = self._memory.oom()
        stuck = self._kill_all()
        self._drain()
        code = os.waitstatus_to_exitcode(self._status)
        number = -code if code < 0 else 0
        report(
            {
                "exit": _SIGNAL_BASE + number if number else code,
                "signal": number,
                "oom": oom or self._memory.oom(),
                "log_error": self._log.error,
                "stuck": stuck,
                "at": ended,
            }
        )

    def _forward_signals(self) -> None:
        # The self-pipe: a signal only wakes the loop, which then does the work outside the handler.
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        for number in _FORWARDED:
            signal.signal(number, lambda number, _frame: self._kill_main(number))
        self._selector.register(read_fd, selectors.EVENT_READ, "signals")
        self._selector.register(0, selectors.EVENT_READ, "control")
        if self._memory.event_fd >= 0:
            self._selector.register(self._memory.event_fd, selectors.EVENT_READ, "memory")

    def _start(self) -> None:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        fault_read, fault_write = os.pipe()  # closed by a successful exec, else it carries the error
        sys.stdout.flush()
        self._main = os.fork()
        if self._main == 0:
            self._become_main(out_write, err_write, fault_write)
        for fd in (out_write, err_write, fault_write):
            os.close(fd)
        self._spared_until = time.monotonic() + _STARTING_SECONDS
        fault = os.read(fault_read, READ_BYTES)
        os.close(fault_read)
        if fault:
            os.waitpid(self._main, 0)
            raise OSError(fault.decode(errors="replace"))
        for fd, stream in ((out_read, b"stdout"), (err_read, b"stderr")):
            os.set_blocking(fd, False)
            self._streams[fd] = stream
            self._selector.register(fd, selectors.EVENT_READ, "log")

    def _become_main(self, out: int, err: int, fault: int) -> NoReturn:
        orders = self._orders
        try:
            os.setsid()  # its own session and process group: no terminal, and a group for the shell's job control
            for number in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            if sys.platform == "linux":
                prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            self._memory.join()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.umask(0o022)
            try:
                os.chdir(orders["folder"])
            except OSError as error:
                message = f'chdir to cwd ("{orders["folder"]}") failed: {str(error.strerror).lower()}'
                raise OSError(error.errno, message) from error
            command: list[str] = orders["command"]
            os.execve(executable(command[0], orders["env"].get("PATH", "")), command, orders["env"])  # noqa: S606 - no shell on purpose
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            os.write(fault, text.encode(errors="replace"))
        os._exit(127)

    def _turn(self) -> None:
        """Wait for one round of events."""
        timeout = _MEMORY_PERIOD if self._memory.measured else None
        events = self._selector.select(_DEFERRED_PERIOD if self._deferred else timeout)
        self._retry_deferred()
        for key, _ in events:
            fd = key.fd
            if key.data == "log":
                self._copy(fd)
            elif key.data == "control":
                self._obey()
            elif key.data == "memory":
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                self._memory.killed = True
                self._kill_descendants()
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, READ_BYTES)
        self._reap()
        if self._log.error:
            self._kill_descendants()
        if timeout and self._status is None and self._memory.over():
            self._memory.killed = True
            self._kill_descendants()

    def _copy(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        stream = self._streams[fd]
        if data:
            self._log.feed(stream, data)
        else:
            self._log.finish(stream)
            self._selector.unregister(fd)
            os.close(fd)
            del self._streams[fd]
        with contextlib.suppress(BlockingIOError):
            os.write(1, b".\n")  # lost when the reader is far behind: then it has been told already

    def _obey(self) -> None:
        data = os.read(0, READ_BYTES)
        if not data:  # the cluster's process is gone
            self._selector.unregister(0)
            self._kill_descendants()
            return
        self._signal_main(data)

    def _signal_main(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        for line in lines:
            number = int(line)
            if number == signal.SIGKILL:
                self._kill_descendants()
            else:
                self._kill_main(number)

    def _kill_main(self, number: int) -> None:
        """Pass a signal on, once the main process is ready for it.

        The kernel drops a signal for which the first process of a container has no handler, so programs that start
        in one count on not being killed before they have set theirs. Ours is no first process: spare it that long.
        """
        if self._main and self._status is None:
            if time.monotonic() < self._spared_until and not handles(self._main, number):
                self._deferred.add(number)
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._main, number)

    def _retry_deferred(self) -> None:
        deferred, self._deferred = self._deferred, set()
        for number in deferred:
            self._kill_main(number)

    def _kill_descendants(self) -> None:
        for pid in descendants() or [self._main]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> bool:
        """Collect what has ended; whether there are children left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main:
                self._status = status

    def _kill_all(self) -> bool:
        """Kill every descendant, also what escaped into other sessions; whether something refused to die."""
        limit = time.monotonic() + _REAP_LIMIT
        while self._reap():
            self._kill_descendants()
            # A dying process may be blocked in a write to a full pipe of ours, and needs its signal only: no deadlock.
            if time.monotonic() > limit:
                return True
            time.sleep(0.002)
        return False

    def _drain(self) -> None:
        """Log what is left in the pipes: nobody can write to them any more, so each ends."""
        for fd in list(self._streams):
            while fd in self._streams:
                try:
                    data = os.read(fd, READ_BYTES)
                except BlockingIOError:  # something refused to die and holds the pipe
                    data = b""
                stream = self._streams[fd]
                if data:
                    self._log.feed(stream, data)
                else:
                    self._log.finish(stream)
                    del self._streams[fd]


def handles(pid: int, number: int) -> bool:
    """Whether a process catches, blocks or ignores a signal; also true when that cannot be known."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - see Memory._listen
            masks = [line.split()[1] for line in file if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
    except OSError:
        return True
    return not masks or any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def executable(command: str, path: str) -> str:
    """The file to execute, in runc's words when there is none.

    Raises:
        OSError: not found, or not executable.
    """
    if "/" in command:
        if not os.path.exists(command):  # noqa: PTH110 - see Memory._listen
            raise FileNotFoundError(2, f'exec: "{command}": stat {command}: no such file or directory')
        if os.path.isdir(command) or not os.access(command, os.X_OK):  # noqa: PTH112
            raise PermissionError(13, f'exec: "{command}": permission denied')
        return command
    for folder in path.split(":"):
        candidate = os.path.join(folder or ".", command)  # noqa: PTH118
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):  # noqa: PTH113
            return candidate
    raise FileNotFoundError(2, f'exec: "{command}": executable file not found in $PATH')


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process; Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def report(facts: dict[str, Any]) -> None:
    """One line to the cluster; its absence (a broken pipe) changes nothing here."""
    os.set_blocking(1, True)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(facts).encode() + b"\n")
    os.set_blocking(1, False)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """SIGCHLD needs a handler for the wakeup descriptor to be written."""


def main() -> None:
    """Read the orders, then run."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    data = b""
    while b"\n" not in data:
        more = os.read(0, READ_BYTES)
        if not more:
            return  # gone before it could say what to run
        data += more
    line, _, rest = data.partition(b"\n")
    if sys.platform == "linux":
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    ContainerInit(json.loads(line), rest).run()


if __name__ == "__main__":
    main()
