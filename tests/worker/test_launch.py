"""Looking for a pod whose creator has died: only Kubernetes itself may say that there is none."""

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from adapters.kubernetes_api import ApiError, KubernetesApi
from runner_spec.policy import DEFAULT_POLICY
from worker import launch
from worker.launch import Launcher
from worker.metrics import WorkerMetrics

POD: dict[str, Any] = {"metadata": {"name": "p"}}


class Api:
    """Answers each look with the next of these."""

    def __init__(self, *answers: ApiError | dict[str, Any] | None) -> None:
        self.answers = list(answers)

    async def get_pod(self, name: str) -> dict[str, Any] | None:
        assert name == "p"
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


@pytest.mark.parametrize("pod", [POD, None], ids=["there is one", "there is none"])
def test_only_an_answer_says_that_there_is_no_pod(pod: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "BACKOFF_FIRST_S", 0.0)
    refusals = [ApiError(status, "x", "no") for status in (0, 429, 500, 503, 403, 401)]
    api = Api(*refusals, pod)
    launcher = Launcher(cast("KubernetesApi", api), DEFAULT_POLICY, "w", WorkerMetrics(CollectorRegistry()))
    assert asyncio.run(launcher.find("p")) == pod
    assert api.answers == []
