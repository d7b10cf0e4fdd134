"""`python3 -m runner checkout` and `python3 -m runner upload`: the commands of the pod's containers."""

import signal
import sys

USAGE_ERROR = 2


def main(arguments: list[str]) -> int:
    """Run one command; its exit code is one of `runner_spec.anatomy.Exit`."""
    # Each command imports only what it needs: the start-up time of both is part of every job.
    match arguments:
        case ["checkout"]:
            from runner.checkout import main as command  # noqa: PLC0415 - see above
        case ["upload"]:
            # Before anything else, imports included: until then SIGTERM ends this process, or is lost when it is the
            # container's first.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            from runner.upload import main as command  # noqa: PLC0415 - see above
        case _:
            sys.stderr.write("usage: python3 -m runner checkout|upload\n")
            return USAGE_ERROR
    return command()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
