"""What the run may do to the cluster's own components, by commands of whoever runs it.

`break` is a command with `{name}` in it that ends a component at once; `mend` brings back all that are down; `audit`
prints the API server's audit log. Each is optional: without it, those faults are left out.
"""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND_S: Final = 180.0


class ComponentError(Exception):
    """A command failed; the message has its words and what it said."""


@dataclass(frozen=True, slots=True)
class Components:
    """Commands as they were given (empty: none), and the names of what may be broken."""

    break_command: str
    mend_command: str
    audit_command: str
    names: tuple[str, ...]
    log: Path  # what the commands say

    @property
    def breakable(self) -> bool:
        return bool(self.break_command and self.mend_command and self.names)

    async def break_down(self, name: str) -> None:
        """End one of them.

        Raises:
            ComponentError: the command failed.
        """
        await self._run([word.replace("{name}", name) for word in shlex.split(self.break_command)])

    async def mend(self) -> None:
        """Bring back what is down; again once, because a component may have gone while others were being started.

        Raises:
            ComponentError: the command failed twice.
        """
        try:
            await self._run(shlex.split(self.mend_command))
        except ComponentError:
            await self._run(shlex.split(self.mend_command))

    async def write_audit(self, path: Path) -> None:
        """Have the audit log written to a file.

        Raises:
            ComponentError: the command failed.
        """
        await self._run(shlex.split(self.audit_command), path)

    async def _run(self, words: Sequence[str], output: Path | None = None) -> None:
        # Files, not pipes: what a command starts in the background inherits them, and must not hold us up.
        with self.log.open("ab") as log, (output or self.log).open("wb" if output else "ab") as file:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=log, start_new_session=True
            )
        try:
            async with asyncio.timeout(COMMAND_S):
                code = await process.wait()
        except TimeoutError as error:
            process.kill()
            raise ComponentError(f"{shlex.join(words)} has not ended within {COMMAND_S:g} s; see {self.log}") from error
        if code:
            raise ComponentError(f"{shlex.join(words)} ended with {code}; see {self.log}")
