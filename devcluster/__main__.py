"""`python -m devcluster --root DIR [--kubeconfig FILE]`: the embedded cluster on its own, until SIGINT or SIGTERM."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devcluster.cluster import NOTICE, ClusterError, DevCluster
from devcluster.process_runtime import ProcessRuntime
from devcluster.sleep_runtime import SleepRuntime

if TYPE_CHECKING:
    from devcluster.runtime import Runtime


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m devcluster", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for the pods' files")
    parser.add_argument("--kubeconfig", type=Path, help="where to write the kubeconfig; default ROOT/kubeconfig")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; default: a free one")
    parser.add_argument("--namespace", action="append", help="namespace to create, repeatable; default: default")
    parser.add_argument(
        "--sleep", type=float, metavar="SECONDS", help="run nothing: every container only lasts so long"
    )
    return parser.parse_args(arguments)


async def serve(arguments: argparse.Namespace) -> None:
    """Run until told to stop."""
    runtime: Runtime = ProcessRuntime() if arguments.sleep is None else SleepRuntime(arguments.sleep)
    root: Path = arguments.root.resolve()
    cluster = DevCluster(root, runtime, namespaces=arguments.namespace or ["default"], port=arguments.port)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await cluster.start()
    try:
        kubeconfig = arguments.kubeconfig or root / "kubeconfig"
        cluster.write_kubeconfig(kubeconfig)
        if isinstance(runtime, ProcessRuntime):
            sys.stderr.write(f"{NOTICE}\n")
        sys.stdout.write(f"listening on {cluster.url}\nexport KUBECONFIG={kubeconfig}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await cluster.stop()


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 stopped, 2 could not start."""
    logging.basicConfig(level=logging.ERROR)
    try:
        asyncio.run(serve(parse_arguments(arguments)))
    except ClusterError as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
