"""The seal at the end of a body (`runner_spec.transfer`), verified while the body streams through."""

import hashlib
from collections.abc import AsyncIterator

from runner_spec.transfer import SEAL_BYTES


class SealError(ValueError):
    """The body is truncated or altered: its last 32 bytes are not the SHA-256 of what stands before them."""


class Unsealing:
    """Separates content from seal: holds the last 32 bytes back, because only the end tells which they are."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._held = b""
        self.size = 0

    def feed(self, chunk: bytes) -> tuple[bytes, memoryview]:
        """Take the next bytes of the body; returns the content that is certain by now (maybe none), in two pieces.

        The second, and larger, is a view of `chunk`: what only checks the body copies nothing.
        """
        if len(chunk) < SEAL_BYTES:  # the seal is not all in here
            chunk, self._held = self._held + chunk, b""
        content = self._held, memoryview(chunk)[:-SEAL_BYTES]
        self._held = chunk[-SEAL_BYTES:]
        for piece in content:
            self._digest.update(piece)
            self.size += len(piece)
        return content

    def finish(self) -> str:
        """The content's hex SHA-256, at the end of the body.

        Raises:
            SealError: when the seal does not match, or the body is shorter than a seal.
        """
        if len(self._held) < SEAL_BYTES:
            raise SealError(f"the body has {len(self._held)} bytes, its seal alone has {SEAL_BYTES}")
        if self._digest.digest() != self._held:
            raise SealError(f"the seal does not match the {self.size} bytes before it")
        return self._digest.hexdigest()


async def content_of(sealed: AsyncIterator[bytes], unsealing: Unsealing) -> AsyncIterator[bytes]:
    """The content of a sealed body, without the seal.

    Raises:
        SealError: at the end, instead of ending: whoever stores the stream must not keep it.
    """
    async for chunk in sealed:
        if content := b"".join(unsealing.feed(chunk)):
            yield content
    unsealing.finish()


async def verified(sealed: AsyncIterator[bytes], unsealing: Unsealing) -> AsyncIterator[bytes]:
    """A sealed body unchanged, seal included.

    Raises:
        SealError: at the end, as `content_of` does.
    """
    async for chunk in sealed:
        unsealing.feed(chunk)
        yield chunk
    unsealing.finish()
