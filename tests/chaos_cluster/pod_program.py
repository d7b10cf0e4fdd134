"""What `run` of a real pod does: it writes its scripted log, and tells the collector about itself. Runs in the pod.

Standard library only, and little of it: it starts once for each of hundreds of pods. The collector knows of the start
before the first line is written, and of every sign of life (`written`: bytes written by then); of the end, with the
exit code, before the process has it. So a pod that is killed has written at least what its last sign says.

Environment: `CHAOS_COLLECTOR` (host:port), `CHAOS_SECONDS`, `CHAOS_LINES`, `CHAOS_EXIT`, `CHAOS_DEAF` as for
`tests.chaos.runtime`, and `CHAOS_ARTIFACT`: bytes of a file `out/artifact.txt` to write.
"""

import http.client
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

from tests.chaos.scripted_log import log_lines

SIGN_S = 0.5
RETRY_S = 0.2
TIMEOUT_S = 5.0
TERMINATED = 143  # 128+SIGTERM


class Told:
    """The connection to the collector; what is told is repeated until it is acknowledged."""

    def __init__(self, address: str, identity: dict[str, Any]) -> None:
        self._address = address
        self._identity = identity
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, event: str, **facts: Any) -> None:
        body = json.dumps({"event": event, **self._identity, **facts})
        while not self._sent(body):
            time.sleep(RETRY_S)

    def _sent(self, body: str) -> bool:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
            self._connection.request("POST", "/", body)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return False
        return answer.status == http.client.OK


class Program:
    """One life. SIGTERM ends it between two lines, unless it is deaf."""

    def __init__(self) -> None:
        environment = os.environ
        self._seconds = float(environment["CHAOS_SECONDS"])
        self._lines = int(environment["CHAOS_LINES"])
        self._exit = int(environment["CHAOS_EXIT"])
        job, attempt, pod = environment["DYNAPOD_JOB"], int(environment["DYNAPOD_ATTEMPT"]), environment["HOSTNAME"]
        # A second start of the same pod, or another pod of the same name, is another one.
        self._uid = f"{job}-{attempt}-{os.urandom(6).hex()}"
        identity = {"job": job, "attempt": attempt, "pod": pod, "uid": self._uid, "lines": self._lines}
        self._tell = Told(environment["CHAOS_COLLECTOR"], identity)
        self._written = 0
        self._terminated = False

    def run(self) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("CHAOS_DEAF") == "1" else self._end)
        self._tell("started")
        self._write_artifact()
        began = told = time.monotonic()
        for number, line in enumerate(log_lines(self._uid, "run", self._lines), 1):
            self._say(line)
            told = self._rest(began + self._seconds * number / self._lines, told)
        self._rest(began + self._seconds, told)
        # From here on the code stands. Who ends the pod all the same is known by the kubelet's word.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._tell("ended", exit_code=self._exit, written=self._written)
        sys.exit(self._exit)

    def _say(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            done = os.write(1, left)
            self._written += done
            left = left[done:]

    def _rest(self, until: float, told: float) -> float:
        """Wait, with signs of life; when the last one was given."""
        while True:
            now = time.monotonic()
            if self._terminated:
                self._tell("ended", exit_code=TERMINATED, written=self._written)
                sys.exit(TERMINATED)
            if now - told > SIGN_S:
                self._tell("alive", written=self._written)
                told = now
            if now >= until:
                return told
            time.sleep(min(until - now, 0.1))

    def _write_artifact(self) -> None:
        size = int(os.environ.get("CHAOS_ARTIFACT", "0"))
        if size:
            os.makedirs("out", exist_ok=True)  # noqa: PTH103 - pathlib is a tenth of a second of a pod's CPU
            with open("out/artifact.txt", "wb") as file:  # noqa: PTH123 - as above
                file.write(artifact(os.environ["DYNAPOD_JOB"], size))

    def _end(self, _: int, __: FrameType | None) -> None:
        self._terminated = True


def artifact(job: str, size: int) -> bytes:
    """What a job's artifact holds."""
    line = f"artifact of {job}\n".encode()
    return (line * (size // len(line) + 1))[:size]


if __name__ == "__main__":
    Program().run()
