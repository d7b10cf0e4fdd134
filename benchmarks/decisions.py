"""(k) What one decision costs: a description checked, admitted, rendered; a pod's status classified.

Of the least job, and of one that uses the whole language. CPU time of this thread, in a loop: no system is involved.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from benchmarks.figure import Figure
from benchmarks.suite import Options
from runner_spec.admission import admit
from runner_spec.classify import classify
from runner_spec.description import parse_description
from runner_spec.pod_check import check_pod
from runner_spec.policy import Policy
from runner_spec.render import Attempt, manifest_json, render
from tests.runner_spec.descriptions import least, whole
from tests.runner_spec.pods import POLICY, START, bound, new_pod, over, running

FULL_CALLS: Final = 2000
ATTEMPT: Final = Attempt("0b9b1d2e-7c7e-4a5e-9d5e-2f6f0c1d7a55", 1, "worker-0123456789abcdef")
NOW: Final = START + 30.0


def measure(options: Options) -> Iterator[Figure]:
    """Each decision in turn, and again."""
    calls = options.sized(FULL_CALLS, at_least=3)
    table = decisions()
    taken: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(options.rounds):
        for name, decide in table.items():
            taken[name].append(microseconds(decide, calls))
    for name, values in taken.items():
        yield Figure("k", name, "µs", tuple(values), note=f"{calls} calls")


def decisions() -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    table: dict[str, Callable[[], object]] = {}
    for kind, data in (("least", least()), ("whole", whole())):
        table |= _of_a_job(f"{kind} job", data, POLICY)
    for state, pod in (("waits for its images", bound(new_pod())), ("runs", running()), ("is over", over())):
        table[f"whole job: classify, {state}"] = partial(classify, pod, NOW, policy=POLICY)
    return table


def _of_a_job(kind: str, data: dict[str, Any], policy: Policy) -> dict[str, Callable[[], object]]:
    text, description = json.dumps(data), parse_description(data)
    admission = admit(description, policy)
    pod = render(admission, ATTEMPT)
    return {
        f"{kind}: validate": lambda: admit(parse_description(json.loads(text)), policy),
        f"{kind}: render": lambda: render(admission, ATTEMPT),
        f"{kind}: check the pod": lambda: check_pod(pod, policy),
        f"{kind}: write as JSON": lambda: manifest_json(pod),
    }


def microseconds(decide: Callable[[], object], calls: int) -> float:
    """Of CPU time per call, after one to warm up."""
    decide()
    began = time.thread_time_ns()
    for _ in range(calls):
        decide()
    return (time.thread_time_ns() - began) / calls / 1000
