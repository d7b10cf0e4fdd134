import asyncio
import base64
import json
from pathlib import Path

import pytest

from gateway.masks import MASKS_TTL_S
from gateway.settings import Limits
from runner_spec.transfer import MASKS_PATH
from runner_spec.wire import masks_key
from tests.gateway.running import JOB, gateway


def _body(*values: bytes) -> bytes:
    return json.dumps({"values": [base64.b64encode(value).decode() for value in values]}).encode()


def test_values_reach_redis_for_the_attempt_of_the_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            for values in ([b"old"], [b"s3cret\n", b"", b"\xff\x00"]):
                async with running.client.put(running.url + MASKS_PATH, data=_body(*values)) as answer:
                    assert answer.status == 204
            stored = json.loads(await running.redis.get(masks_key(JOB, 2)))
            assert [base64.b64decode(value) for value in stored] == [b"s3cret\n", b"\xff\x00"]
            assert MASKS_TTL_S - 60 < await running.redis.ttl(masks_key(JOB, 2)) <= MASKS_TTL_S

    asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"values": "YQ=="}', b'{"values": [1]}', b'{"values": ["a b"]}'])
def test_malformed_values_are_refused_without_repeating_them(tmp_path: Path, body: bytes) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            async with running.client.put(running.url + MASKS_PATH, data=body) as answer:
                assert answer.status == 400
                assert "a b" not in await answer.text()
            assert await running.redis.keys() == []

    asyncio.run(scenario())


def test_too_many_or_too_large_values_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, limits=Limits(max_masks=2, max_masks_bytes=200)) as running:
            for body in (_body(b"a", b"b", b"c"), _body(b"x" * 200)):
                async with running.client.put(running.url + MASKS_PATH, data=body) as answer:
                    assert answer.status == 413
            assert await running.redis.keys() == []

    asyncio.run(scenario())


def test_without_redis_the_answer_is_to_try_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as running:
            running.redis_server.connected = False
            async with running.client.put(running.url + MASKS_PATH, data=_body(b"x")) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0

    asyncio.run(scenario())
