"""As much of RESP as it takes to know which commands a client sends, and where they end."""

from typing import Final

_CRLF: Final = b"\r\n"


class RequestReader:
    """Finds the ends of requests in a client's bytes."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
        """All bytes since the last answer and the commands in them, once they end where a request ends; else None.

        Raises:
            ValueError: this is not RESP.
        """
        self._pending += data
        names: list[str] = []
        position = 0
        while position < len(self._pending):
            found = self._request(position)
            if found is None:
                return None
            name, position = found
            if name:
                names.append(name.decode("latin-1").upper())
        whole, self._pending = bytes(self._pending), bytearray()
        return whole, tuple(names)

    def take(self) -> bytes:
        """What was held back."""
        held, self._pending = bytes(self._pending), bytearray()
        return held

    def _request(self, position: int) -> tuple[bytes, int] | None:
        """The name of the command that starts here, and its end; None if it is not all there."""
        pending = self._pending
        end = pending.find(b"\n", position)
        if end < 0:
            return None
        if pending[position] != ord("*"):  # an inline command, or the bare newline of a replica that is busy loading
            words = pending[position:end].split()
            return (bytes(words[0]) if words else b""), end + 1
        name = b""
        count, position = int(pending[position + 1 : end]), end + 1
        for number in range(count):
            end = pending.find(_CRLF, position)
            if end < 0:
                return None
            if pending[position] != ord("$"):
                raise ValueError(f"an argument begins with {pending[position:end][:20]!r}")
            start = end + 2
            position = start + int(pending[position + 1 : end]) + 2
            if position > len(pending):
                return None
            if number == 0:
                name = bytes(pending[start : position - 2])
        return name, position
