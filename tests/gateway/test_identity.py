import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.identity import (
    VERDICTS_LIMIT,
    WRITE_TTL_S,
    CachingTokenReviewer,
    KubernetesTokenReviewer,
    PodIdentity,
    Refused,
    ReviewUnavailableError,
)
from runner_spec import anatomy
from runner_spec.transfer import ARCHIVE_FORMAT_HEADER, ARTIFACTS_PATH, CACHES_PATH, MANIFEST_PATH, MASKS_PATH
from tests.gateway.apiserver import NAMESPACE, FakeApiServer
from tests.gateway.running import ANONYMOUS, JOB, TOKEN, gateway, sealed

IDENTITY = PodIdentity(NAMESPACE, "pod-t", "uid-t", "job/7", 3, "scope")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def _reviewer() -> AsyncIterator[tuple[FakeApiServer, KubernetesTokenReviewer]]:
    api = FakeApiServer()
    async with api.serving(), api.client() as caller:
        yield api, KubernetesTokenReviewer(caller, namespaces=[NAMESPACE])


def test_a_projected_token_tells_pod_job_attempt_and_scope() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, reviewer):
            api.add("t", "job/7", 3)
            assert await reviewer.review("t") == IDENTITY

    asyncio.run(scenario())


def _user(key: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda review, _pod: review["user"].update({key: value})


def _extra(name: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda review, _pod: review["user"]["extra"].update({f"authentication.kubernetes.io/{name}": value})


def _unauthenticated(error: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda review, _pod: review.update(authenticated=False, error=error)


def _metadata(key: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda _review, pod: pod["metadata"].update({key: value})


def _label(key: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda _review, pod: pod["metadata"]["labels"].update({key: value})


@pytest.mark.parametrize(
    ("reason", "known", "change"),
    [
        ("token", False, lambda review, _pod: review.update(authenticated=False)),
        ("token", False, lambda review, _pod: review.update(authenticated="yes")),
        # As a real API server says it.
        (
            "audience",
            False,
            _unauthenticated('[invalid bearer token, token audiences ["a"] is invalid for the target …'),
        ),
        ("expired", False, _unauthenticated("[invalid bearer token, service account token has expired]")),
        ("audience", False, lambda review, _pod: review.update(audiences=["https://kubernetes.default.svc"])),
        ("audience", False, lambda review, _pod: review.pop("audiences")),
        ("not-a-pod", True, _user("username", "system:node:node-1")),
        ("not-a-pod", True, _user("username", "system:serviceaccount:jobs")),
        ("not-a-pod", True, _user("extra", None)),
        ("not-a-pod", True, _extra("pod-name", [])),
        ("namespace", True, _user("username", "system:serviceaccount:elsewhere:default")),
        ("pod-gone", True, _extra("pod-name", ["another"])),
        ("pod-gone", True, _extra("pod-name", ["../../pods"])),
        ("uid", True, _metadata("uid", "uid-of-a-later-pod")),
        ("not-managed", True, _label(anatomy.LABEL_MANAGED_BY, "helm")),
        ("pod-ended", True, lambda _review, pod: pod.update(status={"phase": "Succeeded"})),
        ("pod-ended", True, lambda _review, pod: pod.update(status={"phase": "Failed"})),
        ("no-job", True, _metadata("annotations", None)),
        ("no-job", True, _label(anatomy.LABEL_ATTEMPT, "0")),
        ("no-job", True, _label(anatomy.LABEL_ATTEMPT, "²")),
    ],
)
def test_tokens_of_others_are_refused(
    reason: str, *, known: bool, change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    async def scenario() -> Refused | PodIdentity:
        async with _reviewer() as (api, reviewer):
            pod = api.add("t", "job/7", 3)
            change(api.reviews["t"], pod)
            return await reviewer.review("t")

    verdict = asyncio.run(scenario())
    assert isinstance(verdict, Refused)
    assert (verdict.reason, verdict.known) == (reason, known)


def test_without_the_kubernetes_api_nothing_is_allowed() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, reviewer):
            api.add("t", "job/7", 3)
            api.failing = True
            with pytest.raises(ReviewUnavailableError):
                await reviewer.review("t")

    asyncio.run(scenario())


def test_a_kubernetes_api_that_never_answers_is_given_up() -> None:
    async def scenario() -> None:
        api = FakeApiServer()
        api.gate = asyncio.Event()
        async with api.serving(), api.client() as caller:
            with pytest.raises(ReviewUnavailableError, match="did not answer"):
                await KubernetesTokenReviewer(caller, namespaces=[NAMESPACE], timeout=0.05).review("t")
            api.gate.set()

    asyncio.run(scenario())


def test_a_positive_verdict_is_believed_for_its_time_only() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, inner):
            api.add("t", "job/7", 3)
            clock = Clock()
            reviewer = CachingTokenReviewer(inner, clock=clock)
            for moment, calls in ((0.0, 2), (9.9, 2), (10.0, 4)):
                clock.now = 100.0 + moment
                assert await reviewer.review("t") == IDENTITY
                assert len(api.calls) == calls
            api.pods["pod-t"]["status"]["phase"] = "Succeeded"
            clock.now += 10.0
            assert isinstance(await reviewer.review("t"), Refused)

    asyncio.run(scenario())


def test_who_is_to_write_is_asked_again_sooner_and_the_answer_is_everybodys() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, inner):
            api.add("t", "job/7", 3)
            clock = Clock()
            reviewer = CachingTokenReviewer(inner, clock=clock)
            assert await reviewer.review("t") == IDENTITY
            clock.now += 0.9
            assert await reviewer.review("t", within=WRITE_TTL_S) == IDENTITY
            assert len(api.calls) == 2
            api.pods["pod-t"]["status"]["phase"] = "Succeeded"
            clock.now += 0.1
            assert isinstance(await reviewer.review("t", within=WRITE_TTL_S), Refused)
            # An old yes does not outlive a younger no.
            assert isinstance(await reviewer.review("t"), Refused)

    asyncio.run(scenario())


def test_an_answer_that_took_too_long_to_come_is_not_taken_for_a_young_one() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, inner):
            api.add("t", "job/7", 3)
            api.gate = asyncio.Event()
            clock = Clock()
            reviewer = CachingTokenReviewer(inner, clock=clock)
            slow = asyncio.create_task(reviewer.review("t"))
            await asyncio.sleep(0)
            clock.now += WRITE_TTL_S
            young = asyncio.create_task(reviewer.review("t", within=WRITE_TTL_S))
            await asyncio.sleep(0)
            api.gate.set()
            assert list(await asyncio.gather(slow, young)) == [IDENTITY, IDENTITY]
            assert len(api.calls) == 4

    asyncio.run(scenario())


def test_refusals_and_failures_are_not_remembered() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, inner):
            reviewer = CachingTokenReviewer(inner)
            assert isinstance(await reviewer.review("t"), Refused)
            api.add("t", "job/7", 3)
            api.failing = True
            with pytest.raises(ReviewUnavailableError):
                await reviewer.review("t")
            api.failing = False
            assert await reviewer.review("t") == IDENTITY

    asyncio.run(scenario())


def test_simultaneous_requests_with_one_token_ask_once() -> None:
    async def scenario() -> None:
        async with _reviewer() as (api, inner):
            api.add("t", "job/7", 3)
            api.gate = asyncio.Event()
            reviewer = CachingTokenReviewer(inner)
            waiting = [asyncio.create_task(reviewer.review("t")) for _ in range(50)]
            await asyncio.sleep(0)
            waiting[0].cancel()  # the one that caused the question hangs up
            api.gate.set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert answers[1:] == [IDENTITY] * 49
            assert len(api.calls) == 2

    asyncio.run(scenario())


def test_remembered_verdicts_are_bounded() -> None:
    class Anybody:
        async def review(self, token: str, *, within: float = 0.0) -> PodIdentity | Refused:  # noqa: ARG002 - the protocol's
            return PodIdentity("n", token, "u", "j", 1, None)

    async def scenario() -> int:
        reviewer = CachingTokenReviewer(Anybody())
        for number in range(VERDICTS_LIMIT + 10):
            await reviewer.review(str(number))
        return len(reviewer._verdicts)

    assert asyncio.run(scenario()) == VERDICTS_LIMIT


@pytest.mark.parametrize(
    ("header", "status", "reason"),
    [
        ("", 401, "no-token"),
        ("Basic dXNlcjpwYXNz", 401, "no-token"),
        ("Bearer ", 401, "no-token"),
        ("Bearer wrong", 401, "token"),
        ("Bearer " + "x" * 4097, 401, "token"),
        ("Bearer ended", 403, "pod-ended"),
    ],
)
def test_every_refusal_is_answered_logged_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str, status: int, reason: str
) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            running.api.add("ended", "job", 1)["status"]["phase"] = "Failed"
            headers = {"Authorization": header} if header else ANONYMOUS
            if not header:
                del running.client.headers["Authorization"]
            async with running.client.head(f"{running.url}{CACHES_PATH}/k", headers=headers) as answer:
                assert answer.status == status
            assert running.count("dynapod_gateway_refusals_total", reason=reason) == 1
            record = next(item for item in caplog.records if item.name == "gateway.access")
            assert record.levelno == logging.WARNING
            assert record.__dict__["reason"] == reason
            known = ("jobs", "pod-ended") if status == 403 else (None, None)
            assert (record.__dict__["namespace"], record.__dict__["pod"]) == known
            assert not header.removeprefix("Bearer ") or header not in caplog.text

    asyncio.run(scenario())


def _writes(path: str, body: bytes) -> Any:
    return pytest.param(path, body, id=path.split("/")[3])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        _writes(f"{ARTIFACTS_PATH}/wheel/a", sealed(b"a")),
        _writes(f"{CACHES_PATH}/key", sealed(b"a")),
        _writes(MANIFEST_PATH, b"{}"),
        _writes(MASKS_PATH, b'{"values": []}'),
    ],
)
def test_a_body_that_outlasts_its_pod_is_not_stored(tmp_path: Path, path: str, body: bytes) -> None:
    """The pod is alive when the request begins, and has ended by the end of the body."""

    async def scenario() -> None:
        clock = Clock()
        async with gateway(tmp_path, clock=clock) as running:
            begun = asyncio.Event()

            async def slowly() -> AsyncIterator[bytes]:
                yield body[:1]
                await begun.wait()
                yield body[1:]

            headers = {ARCHIVE_FORMAT_HEADER: "tar.gz"}
            request = asyncio.create_task(running.client.put(running.url + path, data=slowly(), headers=headers))
            await running.api.pod_asked.wait()
            running.api.pods[f"pod-{TOKEN}"]["status"]["phase"] = "Succeeded"
            clock.now += WRITE_TTL_S
            begun.set()
            answer = await request
            assert (answer.status, (await answer.json())["reason"]) == (403, "pod-ended")
            assert running.files == []
            assert await running.redis.keys() == []
            assert running.count("dynapod_gateway_refusals_total", reason="pod-ended") == 1

    asyncio.run(scenario())


def test_the_access_log_names_job_and_attempt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.access")

    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            headers = {"Dynapod-Request-Id": "request-1"}
            async with running.client.head(f"{running.url}{CACHES_PATH}/k", headers=headers) as answer:
                assert answer.headers["Dynapod-Request-Id"] == "request-1"

    asyncio.run(scenario())
    facts = next(item for item in caplog.records if item.name == "gateway.access").__dict__
    assert {key: facts[key] for key in ("action", "request_id", "job", "attempt", "status")} == {
        "action": "request",
        "request_id": "request-1",
        "job": JOB,
        "attempt": 2,
        "status": 404,
    }
    assert TOKEN not in caplog.text


def test_without_the_kubernetes_api_the_answer_is_to_try_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            running.api.failing = True
            async with running.client.head(f"{running.url}{CACHES_PATH}/k") as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0

    asyncio.run(scenario())
