"""The devcluster of a chaos run in a process of its own: scripted containers, some real ones, a stranger's hands.

`python -m tests.chaos.cluster_process FOLDER --ledger FILE` prints one line of JSON when it listens
(`{"url": …, "kubeconfig": …}`), then obeys one command a line on stdin, and answers each with one line of JSON:

    restart SECONDS [compact]   the API server is away for so long, and comes back at the same port with the same pods
    compact                     older resourceVersions are answered with 410 from now on
    evict NAME|random           the node ends a pod that runs, for want of memory
    delete NAME|random [GRACE]  a stranger deletes a pod (user agent kubectl), with so many seconds of grace
    pods                        the names of all pods
    audit FILE                  write the audit log: every create and delete of a pod, a line of JSON each
    stop                        end, as at the end of stdin

An answer is `{"ok": true, …}`, or `{"ok": false, "why": …}` when there was nothing to do or the command is none.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from devcluster.audit import KEPT_ENTRIES
from devcluster.cluster import ClusterError, DevCluster
from devcluster.resources import PODS, Object
from runner_spec.policy import DEFAULT_POLICY
from tests.chaos.ledger import LedgerWriter
from tests.chaos.mixed_runtime import MixedRuntime
from tests.chaos.records import PodWrite

STRANGER: Final = "kubectl/v1.34.0 (linux/amd64)"
ROOT: Final = Path(__file__).parents[2]
# Seconds to start, to answer or to end, on a loaded machine; a restart's own time is part of its answer.
ANSWER_S: Final = 60.0
_LINE_BYTES: Final = 4 * 1024 * 1024  # the names of tens of thousands of pods in one line


class CommandError(Exception):
    """A command that cannot be obeyed; the message says why."""


class Hands:
    """Obeys commands."""

    def __init__(self, cluster: DevCluster, namespace: str, dice: random.Random) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._dice = dice

    async def obey(self, words: Sequence[str]) -> dict[str, Any]:
        """Do what a command says; more facts for the answer.

        Raises:
            CommandError: there was nothing to do, or it is no command.
        """
        match words:
            case ["restart", seconds, *rest] if rest in ([], ["compact"]):
                await self._cluster.restart_api(float(seconds), compact=bool(rest))
                return {}
            case ["compact"]:
                self._cluster.compact()
                return {}
            case ["evict", name]:
                return {"pod": self._evict(name)}
            case ["delete", name, *grace] if len(grace) <= 1:
                return {"pod": await self._delete(self._chosen(name), grace[0] if grace else None)}
            case ["pods"]:
                return {"pods": self._names()}
            case ["audit", path]:
                return {"entries": write_audit(self._cluster, Path(path))}
        raise CommandError(f"{' '.join(words)!r} is no command; see the text of tests.chaos.cluster_process")

    def _names(self) -> list[str]:
        return [name for (_, name), _ in self._cluster.store[PODS].sorted(self._namespace)]

    def _chosen(self, name: str) -> str:
        if name != "random":
            return name
        known = self._names()
        if not known:
            raise CommandError("there is no pod")
        return self._dice.choice(known)

    def _evict(self, name: str) -> str:
        """Of random pods, the first one that has not ended."""
        names = self._names() if name == "random" else [name]
        self._dice.shuffle(names)
        for candidate in names:
            if self._cluster.evict(self._namespace, candidate):
                return candidate
        raise CommandError(f"{name}: no such pod runs")

    async def _delete(self, name: str, grace: str | None) -> str:
        """Through the API, as anybody would: it is in the audit log like all the others."""
        url = f"{self._cluster.url}/api/v1/namespaces/{self._namespace}/pods/{name}"
        headers = {"Authorization": f"Bearer {self._cluster.token}", "User-Agent": STRANGER}
        query = {} if grace is None else {"gracePeriodSeconds": grace}
        async with aiohttp.ClientSession(headers=headers) as session, session.delete(url, params=query) as response:
            if response.status != 200:
                raise CommandError(f"{name}: {response.status} {await response.text()}")
        return name


def write_audit(cluster: DevCluster, path: Path) -> int:
    """Write every create and delete of a pod, oldest first; returns how many."""
    entries = [e for e in cluster.audit if e.resource == "pods" and e.verb in {"create", "delete"}]
    lines = [
        json.dumps({"verb": e.verb, "pod": e.name, "code": e.code, "user_agent": e.user_agent, "at": e.at})
        for e in entries
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def read_audit(path: Path) -> tuple[PodWrite, ...]:
    """What `write_audit` wrote."""
    return tuple(PodWrite(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


# -- the process itself


async def serve(arguments: argparse.Namespace) -> None:
    """Run until told to stop."""
    folder: Path = arguments.folder.resolve()
    with LedgerWriter(arguments.ledger) as ledger:
        runtime = MixedRuntime(ledger)
        cluster = DevCluster(
            folder,
            runtime,
            namespaces=[arguments.namespace],
            service_accounts=[DEFAULT_POLICY.service_account],
            port=arguments.port,
            history=arguments.history,
            kept_audit=arguments.kept_audit,
        )
        runtime.scripted.bound = partial(_is_bound, cluster)
        await cluster.start()
        try:
            kubeconfig = arguments.kubeconfig or folder / "kubeconfig"
            cluster.write_kubeconfig(kubeconfig)
            _print({"url": cluster.url, "kubeconfig": str(kubeconfig)})
            await _obey_all(Hands(cluster, arguments.namespace, random.Random(arguments.seed)))
        finally:
            await cluster.stop()


def _is_bound(cluster: DevCluster, pod: Object) -> bool:
    metadata = pod["metadata"]
    found = cluster.store[PODS].get((metadata["namespace"], metadata["name"]))
    return found is not None and found.obj["metadata"]["uid"] == metadata["uid"] and "nodeName" in found.obj["spec"]


async def _obey_all(hands: Hands) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while words := (await commands.readline()).decode().split():
        if words == ["stop"]:
            return
        try:
            _print({"ok": True, **await hands.obey(words)})
        except (CommandError, ClusterError, ValueError, OSError, aiohttp.ClientError) as error:
            _print({"ok": False, "why": f"{type(error).__name__}: {error}"})


def _print(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Exit status: 0 stopped, 2 could not start."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.cluster_process")
    parser.add_argument("folder", type=Path, help="for the pods' files; of this cluster alone")
    parser.add_argument("--ledger", type=Path, required=True, help="the outside ledger, appended to")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; default: a free one")
    parser.add_argument("--kubeconfig", type=Path, help="where to write it; default FOLDER/kubeconfig")
    parser.add_argument("--namespace", default=DEFAULT_POLICY.namespace)
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen at random")
    parser.add_argument("--history", type=int, default=10_000, help="events kept; who is further behind gets 410")
    parser.add_argument("--kept-audit", type=int, default=KEPT_ENTRIES, help="entries of the audit log")
    logging.basicConfig(level=logging.ERROR)
    try:
        asyncio.run(serve(parser.parse_args(words)))
    except ClusterError as error:
        sys.stderr.write(f"chaos cluster: {error}\n")
        return 2
    return 0


# -- how others start it and talk to it


class ClusterProcess:
    """The process, as its parent sees it: `async with ClusterProcess(folder) as cluster` starts and ends it.

    `options` are those of its command line (`--port`, `8001`, …). Its ledger is `ledger`, below the folder.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.jsonl"
        self.url = ""
        self.kubeconfig = folder / "kubeconfig"
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start it.

        Raises:
            ClusterError: it could not start; its words are on stderr.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        pipe = asyncio.subprocess.PIPE
        words = [
            "-m",
            "tests.chaos.cluster_process",
            str(self.folder.resolve()),
            "--ledger",
            str(self.ledger.resolve()),
        ]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *words, *self._options, cwd=ROOT, stdin=pipe, stdout=pipe, limit=_LINE_BYTES
        )
        try:
            first = await self._answer()
        except BaseException:
            await self.__aexit__()
            raise
        self.url, self.kubeconfig = first["url"], Path(first["kubeconfig"])
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it: it kills its containers and goes when its input ends."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def restart_api(self, seconds: float, *, compact: bool = False) -> None:
        """The API server is away for so long; with `compact`, nobody can go on with a watch from before."""
        await self._obeyed("restart", str(seconds), *(["compact"] if compact else []))

    async def compact(self) -> None:
        """Older resourceVersions are answered with 410 from now on."""
        await self._obeyed("compact")

    async def evict(self, name: str = "random") -> str | None:
        """The node ends a pod; its name, None when there was none to end."""
        return await self._done("evict", name)

    async def delete(self, name: str = "random", *, grace_seconds: int | None = None) -> str | None:
        """A stranger deletes a pod; its name, None when there was none, or somebody else was quicker."""
        return await self._done("delete", name, *([] if grace_seconds is None else [str(grace_seconds)]))

    async def pod_names(self) -> list[str]:
        """All pods."""
        names: list[str] = (await self._obeyed("pods"))["pods"]
        return names

    async def pods(self) -> int:
        """How many pods there are."""
        return len(await self.pod_names())

    async def audit(self) -> tuple[PodWrite, ...]:
        """Every create and delete of a pod so far."""
        path = self.folder.resolve() / "audit.jsonl"
        await self._obeyed("audit", str(path))
        return await asyncio.to_thread(read_audit, path)

    async def _done(self, *words: str) -> str | None:
        answer = await self._ask(words)
        return answer["pod"] if answer["ok"] else None

    async def _obeyed(self, *words: str) -> dict[str, Any]:
        answer = await self._ask(words)
        if not answer["ok"]:
            raise CommandError(answer["why"])
        return answer

    async def _ask(self, words: Sequence[str]) -> dict[str, Any]:
        """Send a command; who gives up waiting must not leave its answer to the next one."""
        return await asyncio.shield(self._exchange(words))

    async def _exchange(self, words: Sequence[str]) -> dict[str, Any]:
        """One command at a time; they are answered in order."""
        async with self._turn:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(" ".join(words).encode() + b"\n")
            return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise ClusterError("the chaos cluster has ended; its own words are on stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
