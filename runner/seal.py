"""The seal of `runner_spec.transfer`: content followed by its SHA-256 digest."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from runner_spec.transfer import SEAL_BYTES


class Readable(Protocol):
    """A byte stream; `read(n)` returns at most n bytes, and none only at the end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        ...


class SealError(Exception):
    """A sealed body was cut short or altered."""


class Sealer:
    """Adds the seal to content on its way out; `size` (bytes) and `sha256` (hex) describe what has passed."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks, then the 32 bytes of their digest."""
        for chunk in chunks:
            self._digest.update(chunk)
            self.size += len(chunk)
            yield chunk
        yield self._digest.digest()

    @property
    def sha256(self) -> str:
        """Hex digest of the content so far."""
        return self._digest.hexdigest()


class SealedReader:
    """Reads the content of a sealed body, holding back its last 32 bytes; checks them at the end."""

    def __init__(self, body: Readable) -> None:
        self._body = body
        self._digest = hashlib.sha256()
        self._held = b""
        self._ended = False
        self.size = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes of content; empty only at the end, and only when the seal matches.

        Raises:
            SealError: at the end, when the body is too short or its digest differs.
        """
        while not self._ended:
            chunk = self._body.read(max(1, size))
            if len(chunk) >= SEAL_BYTES:  # but for the last ones: one copy, not two
                content, self._held = b"".join((self._held, memoryview(chunk)[:-SEAL_BYTES])), chunk[-SEAL_BYTES:]
            else:
                data = self._held + chunk
                content, self._held = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
            if not chunk:
                self._ended = True
                if self._digest.digest() != self._held:
                    raise SealError(f"the seal does not match after {self.size} bytes: cut short or altered")
            elif content:
                self._digest.update(content)
                self.size += len(content)
                return content
        return b""

    def drain(self) -> None:
        """Read to the end, for the seal's sake.

        Raises:
            SealError: see `read`.
        """
        while self.read(65536):
            pass
