"""`python3 -m runner checkout` and `python3 -m runner upload`: the commands of the pod's containers.

An exception that nobody expected would end Python with exit code 1, the very code that blames the job. So it ends here,
with a code of its own. What remains without a report and with 1 is Python itself (no module named runner, say).
"""

import signal
import sys

USAGE_ERROR = 2


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is one of `runner_spec.anatomy.Exit`."""
    if arguments == ["upload"]:
        # Before anything else, imports included: until then SIGTERM ends this process, or is lost when it is the
        # container's first.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        return _run(arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not look like the job's fault
        return _crashed(error)


def _run(arguments: list[str]) -> int:
    # Each command imports only what it needs: the start-up time of both is part of every job.
    match arguments:
        case ["checkout"]:
            from runner.checkout import main as command  # noqa: PLC0415 - see above
        case ["upload"]:
            from runner.upload import main as command  # noqa: PLC0415 - see above
        case _:
            sys.stderr.write("usage: python3 -m runner checkout|upload\n")
            return USAGE_ERROR
    return command()


def _crashed(error: Exception) -> int:
    """Say what happened as the log's last lines, which become the container's termination message."""
    import traceback  # noqa: PLC0415 - see `_run`

    from runner import console  # noqa: PLC0415 - see `_run`
    from runner_spec.anatomy import Exit  # noqa: PLC0415 - see `_run`

    for line in "".join(traceback.format_exception(error)).splitlines():
        console.say(line)
    console.say(f"the runner itself failed: {type(error).__name__}: {error}")
    return Exit.CRASHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
