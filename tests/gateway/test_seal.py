import asyncio
import hashlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.seal import SealError, Unsealing, content_of, verified
from tests.gateway.running import sealed


async def _stream(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _gather(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(0, 340), max_size=12))
def test_content_comes_out_whole_however_the_body_is_cut(content: bytes, cuts: list[int]) -> None:
    chunks = _cut(sealed(content), cuts)
    unsealing = Unsealing()
    assert asyncio.run(_gather(content_of(_stream(chunks), unsealing))) == content
    assert unsealing.size == len(content)
    assert unsealing.finish() == hashlib.sha256(content).hexdigest()
    assert asyncio.run(_gather(verified(_stream(chunks), Unsealing()))) == sealed(content)


@given(content=st.binary(max_size=100), data=st.data())
def test_a_body_that_is_truncated_or_altered_is_refused(content: bytes, data: st.DataObject) -> None:
    body = sealed(content)
    keep = data.draw(st.integers(0, len(body) - 1))
    position = data.draw(st.integers(0, len(body) - 1))
    altered = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
    for damaged in (body[:keep], altered):
        for check in (content_of, verified):
            with pytest.raises(SealError):
                asyncio.run(_gather(check(_stream([damaged]), Unsealing())))
