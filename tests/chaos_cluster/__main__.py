"""`make chaos-cluster`: a chaos run on the cluster that KUBECONFIG names, with real pods and those of a fake node.

Prints its seed, its progress, what was found, and one closing line. The images are those of the cluster tests. How
components are broken and mended, and where the audit log is, says whoever runs it; what is not said is left out, and
the report tells so. A short form: `--seconds 100 --jobs 40 --fake-jobs 400 --kills 15`.

Exit code 0: every promise held; 1: one did not (all evidence is kept in the folder that is printed); 2: bad arguments.
"""

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.__main__ import say
from tests.chaos.storm import Scale
from tests.chaos_cluster.components import Components
from tests.chaos_cluster.ground import FAKE, REAL
from tests.chaos_cluster.storm import DEFAULT_COMPONENTS, ClusterStorm, Site
from tests.cluster.site import host_address


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos_cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="what goes wrong, in which order; other clocks than ours still differ")
    parser.add_argument("--jobs", type=int, default=250, help="jobs with real pods (250)")
    parser.add_argument("--fake-jobs", type=int, default=2500, help="jobs on the fake node (2500)")
    parser.add_argument("--kills", type=int, default=80, help="workers to kill by SIGKILL (80)")
    parser.add_argument("--seconds", type=float, default=480.0, help="for how long, without settling (480)")
    parser.add_argument("--workers", type=int, default=6, help="workers at a time (6)")
    parser.add_argument("--fake-node", default="type=kwok", metavar="KEY=VALUE", help="label of fake nodes (type=kwok)")
    parser.add_argument("--break", default="", dest="break_command", metavar="CMD", help="kills component {name}")
    parser.add_argument("--mend", default="", metavar="CMD", help="starts all components that are down, and waits")
    parser.add_argument("--audit", default="", metavar="CMD", help="prints the API server's audit log (JSON lines)")
    components = ",".join(DEFAULT_COMPONENTS)
    parser.add_argument("--components", default=components, help=f"what to break, by commas ({components})")
    parser.add_argument("--folder", type=Path, help="where logs and evidence go; a temporary one, kept on failure")
    asked = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        parser.error("KUBECONFIG names no cluster: set it to a cluster's credentials file")
    if asked.break_command and "{name}" not in asked.break_command:
        parser.error(f"--break {asked.break_command!r}: write {{name}} where the component's name belongs")
    if "=" not in asked.fake_node:
        parser.error(f"--fake-node {asked.fake_node!r}: write a label as KEY=VALUE")
    return asked


def main() -> int:
    asked = arguments()
    seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="dynapod-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"seed {seed}; folder {folder}")
    names = tuple(name for name in asked.components.split(",") if name)
    site = Site(
        kubeconfig=Path(os.environ["KUBECONFIG"]),
        host=host_address(),
        fake_label=asked.fake_node,
        jobs={REAL: asked.jobs, FAKE: asked.fake_jobs},
        components=Components(asked.break_command, asked.mend, asked.audit, names, folder / "commands.log"),
    )
    began = time.monotonic()
    scale = Scale(asked.jobs + asked.fake_jobs, asked.kills, asked.seconds, asked.workers)
    storm = ClusterStorm(folder, seed, scale, say, site)
    report = asyncio.run(storm.run())
    for line in [*storm.notes, *report.lines(storm.kills, storm.faults)]:
        say(line)
    held = not report.violations
    say(f"seed {seed}: {time.monotonic() - began:.0f} s, {'every promise held' if held else f'see {folder}'}")
    if held and asked.folder is None:
        shutil.rmtree(folder)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
