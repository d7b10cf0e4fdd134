"""`dynapod run`: a job here and now. Queue, cluster, gateway and worker live in this process, and end with it."""

import asyncio
import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.cancellation import cancel_and_wait
from worker.cli.connection import json_option
from worker.cli.description_file import DescriptionFile, file_argument, read_file
from worker.cli.downloads import UPLOADED, DownloadError, download_artifacts, recorded_artifacts
from worker.cli.ending import read_ending
from worker.cli.exit_status import DOCUMENTATION, ExitStatus, PlatformError
from worker.cli.faults import told_as_faults
from worker.cli.following import TerminalNarrator, follow
from worker.cli.interrupt import two_step_interrupts
from worker.cli.local_source import local_source
from worker.cli.reporting import narrator, report
from worker.cli.secret_options import Secrets, read_secrets, require_secrets, secret_options
from worker.cli.staging import staged_source
from worker.cli.state_folder import default_state
from worker.cli.terminal import Terminal

if TYPE_CHECKING:
    from adapters.object_store import ObjectStore
    from worker.cli.embedded import Embedded
    from worker.job_status import JobStatus

DEFAULT_OUTPUT: Final = Path(".dynapod/artifacts")


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What to run and how; `output` None is `.dynapod/artifacts/<job>`."""

    description: Mapping[str, Any]
    secrets: Secrets
    state: Path
    output: Path | None
    keep: bool


@click.command(
    help=f"""Run the job that FILE describes, here and now, and show its log.

    Queue, cluster, gateway and worker are started in this process: nothing is needed but Python, and git for a git
    source. The job's containers are processes of this machine, started as you: they are NOT isolated from it, and
    images are not used. Run only what you would run by hand.

    Relative paths in the description's source begin at FILE's folder. Without a source, that folder itself is copied:
    tracked files and untracked ones that git does not ignore, or all files where there is no git.

    Ctrl-C stops the job and waits for its end; a second one ends everything at once.

    {DOCUMENTATION}"""
)
@file_argument
@click.option("--source", metavar="PATH|URL", help="Another source: a folder as it is, or a git repository.")
@click.option("--ref", metavar="REF", help="Branch, tag or commit to check out.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Put artifacts there, as DIR/<artifact>/<path>; {DEFAULT_OUTPUT}/<job> by default.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DYNAPOD_STATE",
    show_envvar=True,
    help="Caches, artifacts and logs are kept there; $XDG_STATE_HOME/dynapod by default.",
)
@click.option(
    "--env", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable of the steps. Repeatable."
)
@secret_options
@click.option("--timeout", metavar="DURATION", help="Another limit for all steps together, such as 30m.")
@click.option("--keep", is_flag=True, help="Keep the workspace of the job, and say where it is.")
@click.option("-q", "--quiet", is_flag=True, help="Leave out the log; the summary is still printed.")
@click.option("-v", "--verbose", is_flag=True, help="Begin every line of the log with its time; show warnings.")
@json_option
@click.pass_context
def run(
    context: click.Context,
    file: str,
    source: str | None,
    ref: str | None,
    output: Path | None,
    state: Path | None,
    variables: tuple[str, ...],
    secret: tuple[str, ...],
    secret_env: tuple[str, ...],
    secret_file: tuple[str, ...],
    timeout: str | None,
    *,
    keep: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """See the help above, which is made with the table of exit statuses."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    secrets = read_secrets(secret, secret_env, secret_file)
    description = read_file(file)
    data = local_source(description.document.data, description.folder, override=source, ref=ref)
    data = changed(data, variables, timeout)
    require_secrets(description.parse(data), secrets)
    configure_logging(verbose=verbose)
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    teller = narrator(terminal, quiet=quiet, timestamps=verbose)
    state = state or default_state()
    with tempfile.TemporaryDirectory(prefix="dynapod-source-") as staging:
        if isinstance(data.get("source"), dict):
            data["source"] = staged_source(data["source"], Path(staging))
        local = LocalRun(data, secrets, state, output, keep)
        session = Session(local, description, terminal, teller, as_json=as_json)
        context.exit(int(_finish(session)))


def _finish(session: "Session") -> ExitStatus:
    try:
        with told_as_faults():
            return asyncio.run(session.run())
    except asyncio.CancelledError:  # the second Ctrl-C
        raise click.Abort from None
    finally:
        session.terminal.progress("")


class Session:
    """One local run, from the start of its little world to its end."""

    def __init__(
        self, local: LocalRun, file: DescriptionFile, terminal: Terminal, teller: TerminalNarrator, *, as_json: bool
    ) -> None:
        self.local, self.file, self.terminal, self.teller = local, file, terminal, teller
        self.as_json = as_json

    async def run(self) -> ExitStatus:
        """Start, submit, follow, download, report.

        Raises:
            PlatformError: when a part of the little world ended by itself.
        """
        begun = time.monotonic()
        self.terminal.progress("... starting")
        from worker.cli.embedded import embedded
        from worker.client import JobClient

        job = str(uuid.uuid4())
        async with embedded(self.local.state, secrets=self.local.secrets, keep=self.local.keep) as world:
            self._notices(world)
            client = JobClient(world.redis, world.store)

            async def ask_to_stop() -> None:
                self.teller.remark("stopping the job; press Ctrl-C again to end at once")
                await client.cancel(job, by="Ctrl-C")

            await client.submit(self.local.description, job_id=job)
            with two_step_interrupts(ask_to_stop) as interrupts:
                status = await _while_it_works(world, follow(client, job, self.teller))
            seconds = time.monotonic() - begun
            paths, whole = await self._download(world.store, status)
        code = report(
            status, self.terminal, seconds=seconds, paths=paths, as_json=self.as_json, interrupted=interrupts.count > 0
        )
        # A success whose artifacts did not arrive is none for whoever waits for them.
        return ExitStatus.PLATFORM_FAULT if code is ExitStatus.SUCCEEDED and not whole else code

    def _notices(self, world: "Embedded") -> None:
        """What the embedded world has to say before it begins: that nothing is isolated, above all."""
        for notice in world.notices:
            self.teller.remark(notice)

    async def _download(self, store: "ObjectStore", status: "JobStatus") -> tuple[dict[str, str], bool]:
        """Where the artifacts are now, and whether all of them are there."""
        from adapters.object_store import StoreError

        output = self.local.output or DEFAULT_OUTPUT / status.id
        attempt = read_ending(status).attempt
        try:
            artifacts = await recorded_artifacts(store, status.id, attempt) if attempt else ()
            if any(artifact.result == UPLOADED for artifact in artifacts):
                _keep_out_of_git(output)
            downloads = await download_artifacts(store, status.id, attempt, artifacts, output)
        except (DownloadError, StoreError, OSError) as error:
            self.teller.remark(f"artifacts were not fetched: {error}; they are kept in {self.local.state}")
            return {}, False
        return {download.name: str(download.path) for download in downloads}, True


async def _while_it_works(world: "Embedded", following: Coroutine[Any, Any, "JobStatus"]) -> "JobStatus":
    """What `following` returns, unless the worker ends by itself: then nobody would ever end the job.

    Raises:
        PlatformError: the worker has ended.
    """
    follower = asyncio.create_task(following)
    worker = asyncio.create_task(world.worker.ended())
    try:
        await asyncio.wait({follower, worker}, return_when=asyncio.FIRST_COMPLETED)
        if not follower.done():
            cause = worker.exception()
            raise PlatformError(f"the embedded worker has ended: {cause!r}") from cause
        return follower.result()
    finally:
        await cancel_and_wait(follower, worker)


def changed(data: Mapping[str, Any], variables: Iterable[str], timeout: str | None) -> dict[str, Any]:
    """The description with the variables (`NAME=VALUE`) and the timeout of the command line.

    Raises:
        click.BadParameter: for a variable that is not written so.
    """
    result = dict(data)
    for text in variables:
        name, separator, value = text.partition("=")
        if not (separator and name):
            raise click.BadParameter(f"{text!r}: write NAME=VALUE", param_hint="--env")
        # What is not a mapping is left as it is, for validation to report.
        if isinstance(result.setdefault("env", {}), dict):
            result["env"] = {**result["env"], name: value}
    if timeout is not None:
        result["timeout"] = timeout
    return result


def configure_logging(*, verbose: bool) -> None:
    """The embedded services' own log: their warnings with --verbose, else only errors, on standard error."""
    logging.basicConfig(
        level=logging.WARNING if verbose else logging.ERROR, format="dynapod: %(name)s: %(message)s", stream=sys.stderr
    )


def _keep_out_of_git(output: Path) -> None:
    """A `.dynapod` folder of ours ignores itself, as the caches of pytest and ruff do."""
    parts = output.parts
    if ".dynapod" in parts:
        folder = Path(*parts[: parts.index(".dynapod") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ".gitignore").exists():
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
