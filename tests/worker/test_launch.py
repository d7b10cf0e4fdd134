"""What Kubernetes has not answered is not known: neither that a pod is there, nor that it is not."""

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.policy import DEFAULT_POLICY
from worker import launch
from worker.launch import Launcher, UnansweredError
from worker.metrics import WorkerMetrics

POD: dict[str, Any] = {"metadata": {"name": "p", "labels": {}}}


class Api:
    """Answers each request with the next of these."""

    def __init__(self, *answers: ApiError | dict[str, Any] | None) -> None:
        self.answers = list(answers)

    async def get_pod(self, name: str) -> dict[str, Any] | None:
        assert name == "p"
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def create_pod(self, manifest: dict[str, Any]) -> dict[str, Any] | None:
        return await self.get_pod(manifest["metadata"]["name"])


def waiting_launcher(api: Api) -> Launcher:
    return Launcher(cast("KubernetesApi", api), DEFAULT_POLICY, "w", WorkerMetrics(CollectorRegistry()))


def launcher(api: Api, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    monkeypatch.setattr(launch, "BACKOFF_FIRST_S", 0.0)
    return waiting_launcher(api)


class Waits:
    """Does not wait."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, why: str, seconds: float) -> None:
        assert why.startswith("Kubernetes cannot create the pod now")
        self.seconds.append(seconds)


@pytest.mark.parametrize("pod", [POD, None], ids=["there is one", "there is none"])
def test_only_an_answer_says_that_there_is_no_pod(pod: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(*(ApiError(status, "x", "no") for status in (0, 429, 500, 503, 403, 401)), pod)
    assert asyncio.run(launcher(api, monkeypatch).find("p")) == pod
    assert api.answers == []


@pytest.mark.parametrize("status", [0, 500, 502, 504])
def test_a_creation_that_may_have_taken_effect_is_not_sent_again(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(ApiError(status, "x", "no"), POD)
    with pytest.raises(UnansweredError):
        asyncio.run(launcher(api, monkeypatch).create(POD, Waits()))
    assert api.answers == [POD]


def test_a_creation_that_has_taken_no_effect_is_sent_again_until_it_has() -> None:
    waits = Waits()
    refusals = [ApiError(0, "Unreachable", "no", sent=False), ApiError(429, "x", "no"), ApiError(503, "x", "no")]
    api = Api(*refusals, POD)
    assert asyncio.run(waiting_launcher(api).create(POD, waits)) == POD
    assert api.answers == []
    assert waits.seconds == [0.2, 0.4, 0.8]
