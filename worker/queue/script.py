"""The Lua scripts, run by their digest: the text crosses the wire once per server, not once per call."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, Protocol

from adapters.redis_server import AsyncClient, RedisUnavailable, ScriptMissing, translated

Word = str | bytes | int | float
# Scripts that move executions share more than the prelude.
LIBRARIES: Final = {
    "adopt": ("prelude", "poison", "takeover"),
    "mend": ("prelude", "mending"),
    "revive": ("prelude", "mending"),
}


class Pipelined(Protocol):
    """The one method of a redis-py pipeline that a script needs."""

    def evalsha(self, digest: str, number_of_keys: int, *words: Word) -> object:
        """Queue the call."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text and its SHA-1 digest, by which the server knows it."""

    text: str
    digest: str

    async def run(self, client: AsyncClient, keys: list[str], arguments: list[Word]) -> Any:  # noqa: ANN401 - a reply
        """Execute once; a server that does not know the script has executed nothing: it is taught, and called again.

        Raises:
            RedisUnavailable: no answer; the script may have been executed.
            RedisRefused: the script ended with an error.
        """
        with translated():
            try:
                return await self._call(client, keys, arguments)
            except ScriptMissing:
                await client.script_load(self.text)
            try:
                return await self._call(client, keys, arguments)
            except ScriptMissing as error:  # flushed again, or another server since: as if there was no answer
                raise RedisUnavailable(f"Redis forgets its scripts: {error}") from error

    def queue(self, pipeline: Pipelined, keys: list[str], arguments: list[Word]) -> None:
        """Add one execution to a pipeline; the caller handles `ScriptMissing`."""
        pipeline.evalsha(self.digest, len(keys), *keys, *arguments)

    async def _call(self, client: AsyncClient, keys: list[str], arguments: list[Word]) -> Any:  # noqa: ANN401 - a reply
        call: Any = client.evalsha
        return await call(self.digest, len(keys), *keys, *arguments)


@cache
def load(name: str) -> Script:
    """The script in `scripts/<name>.lua`, behind the libraries that it uses."""
    folder = files("worker.queue") / "scripts"
    parts = (*LIBRARIES.get(name, ("prelude",)), name)
    text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
