"""What goes wrong, decided by a seed. The proxies and the storm obey.

Each kind of request has dice of its own, so that one seed gives each kind the same sequence of faults, however requests
of different kinds fall between one another.
"""

import random
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

from tests.chaos import faults
from tests.chaos.faults import KubernetesFault, RedisFault
from tests.chaos.kubernetes_proxy import RequestFacts

Fault = TypeVar("Fault")
Maker = Callable[[random.Random], Fault]

# Of each hundred requests of a kind, how many are harmed.
HARMED: Final = {"create": 0.10, "delete": 0.10, "get": 0.10, "list": 0.15, "watch": 0.7, "log": 0.10}
REDIS_HARMED: Final = 0.004
# Never harmed: without an answer to these, a connection is not even made.
REDIS_SPARED: Final = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "PING"})


def _writes() -> Sequence[Maker[KubernetesFault]]:
    return (
        lambda _: faults.DropRequest(),
        lambda _: faults.DropReply(),
        lambda _: faults.DropReply(),
        lambda dice: faults.DropReply(dice.uniform(0.1, 2.0)),
        lambda dice: faults.DelayRequest(dice.uniform(0.1, 3.0)),
        lambda dice: faults.DelayReply(dice.uniform(0.1, 3.0)),
        lambda dice: faults.Duplicate(dice.choice(("first", "second"))),
        lambda dice: faults.Reset(dice.randint(0, 400)),
        lambda dice: faults.Refuse(429, dice.choice((None, 1))),
        lambda _: faults.Refuse(500),
        lambda _: faults.Refuse(503),
        lambda _: faults.Refuse(504),
    )


def _reads() -> Sequence[Maker[KubernetesFault]]:
    return (
        lambda _: faults.DropRequest(),
        lambda _: faults.DropReply(),
        lambda dice: faults.DelayReply(dice.uniform(0.1, 1.5)),
        lambda dice: faults.Reset(dice.randint(0, 4000)),
        lambda _: faults.Refuse(429, 1),
        lambda _: faults.Refuse(500),
        lambda _: faults.Refuse(503),
    )


def _watches() -> Sequence[Maker[KubernetesFault]]:
    return (
        lambda dice: faults.Close(dice.uniform(0.2, 5.0)),
        lambda dice: faults.Close(dice.uniform(0.2, 5.0)),
        lambda dice: faults.Cut(dice.uniform(0.1, 5.0)),
        lambda dice: faults.Reset(dice.randint(0, 100_000)),
        lambda _: faults.Expire(),
        lambda dice: faults.Expire(dice.uniform(0.1, 3.0)),
        lambda dice: faults.Replay(dice.randint(1, 40), dice.uniform(0.0, 2.0)),
        lambda dice: faults.Replay(dice.randint(1, 40), dice.uniform(0.0, 2.0), deletions=True),
        lambda dice: faults.Rewind(dice.randint(1, 200)),
        lambda dice: faults.HalfOpen(dice.uniform(1.0, 4.0), dice.uniform(0.0, 3.0)),
        lambda _: faults.Refuse(503),
        lambda _: faults.DropRequest(),
    )


def _logs() -> Sequence[Maker[KubernetesFault]]:
    return (
        lambda dice: faults.Close(dice.uniform(0.0, 1.0)),
        lambda dice: faults.Cut(dice.uniform(0.0, 1.0)),
        lambda dice: faults.Reset(dice.randint(0, 5000)),
        lambda dice: faults.HalfOpen(dice.uniform(1.0, 4.0), dice.uniform(0.0, 1.0)),
        lambda _: faults.Refuse(500),
        lambda _: faults.DropRequest(),
    )


def _redis() -> Sequence[Maker[RedisFault]]:
    return (
        lambda _: faults.DropRequest(),
        lambda _: faults.DropReply(),
        lambda _: faults.DropReply(),
        lambda dice: faults.DropReply(dice.uniform(0.1, 1.0)),
        lambda dice: faults.DelayRequest(dice.uniform(0.05, 1.0)),
        lambda dice: faults.DelayReply(dice.uniform(0.05, 1.0)),
        lambda dice: faults.Reset(dice.randint(0, 200)),
        lambda dice: faults.HalfOpen(dice.uniform(0.5, 6.0)),
        lambda dice: faults.Stall(dice.uniform(0.1, 1.0)),
    )


class Weather:
    """The plans of both proxies; nothing goes wrong while it is not `rough`."""

    def __init__(self, seed: int) -> None:
        self.rough = False
        self._seed = seed
        self._dice: dict[str, random.Random] = {}
        writes, reads = _writes(), _reads()
        # A conflict while a quota is being written: only creations meet it.
        creates = (*writes, lambda _: faults.Refuse(409))
        self._kubernetes: dict[str, Sequence[Maker[KubernetesFault]]] = {
            "create": creates,
            "delete": writes,
            "get": reads,
            "list": reads,
            "watch": _watches(),
            "log": _logs(),
        }
        self._redis = _redis()

    def dice(self, kind: str) -> random.Random:
        """The dice of one kind of thing."""
        # A string seeds by its bytes, not by Python's randomised hash.
        return self._dice.setdefault(kind, random.Random(f"{self._seed} {kind}"))

    def kubernetes(self, request: RequestFacts) -> KubernetesFault | None:
        """What becomes of a request to the API server."""
        if not self.rough or request.resource != "pods" or request.verb not in HARMED:
            return None
        dice = self.dice(request.verb)
        if dice.random() >= HARMED[request.verb]:
            return None
        return dice.choice(self._kubernetes[request.verb])(dice)

    def redis(self, commands: Collection[str]) -> RedisFault | None:
        """What becomes of a chunk of commands to Redis."""
        if not self.rough or not REDIS_SPARED.isdisjoint(commands):
            return None
        dice = self.dice("redis")
        return dice.choice(self._redis)(dice) if dice.random() < REDIS_HARMED else None
