"""`python -m tests.kill_points`: kill the worker at every await point. `--point ID` replays one."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.kill_points.campaign import LANES, Campaign, both_phases
from tests.kill_points.instrument import Victim
from tests.kill_points.points import points
from tests.kill_points.scenarios import SCENARIOS


async def campaign(arguments: argparse.Namespace, folder: Path) -> bool:
    work = Campaign(folder, seed=arguments.seed, lanes=arguments.lanes)
    if arguments.scenario:
        victim = Victim.parse(arguments.point) if arguments.point else None
        await work.one(arguments.scenario, victim)
    else:
        await work.learn()
        await work.kill(both_phases(Victim.parse(arguments.point).point) if arguments.point else None)
    for line in work.report.lines():
        sys.stdout.write(f"{line}\n")
    return work.report.clean


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_points", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which pass through a point, and in which scenario")
    parser.add_argument("--lanes", type=int, default=LANES, help="worlds at the same time")
    parser.add_argument("--point", help="only this one: module:qualname#n, with --scenario also …@before or @after@n")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="only this one, and --point in it")
    parser.add_argument("--list", action="store_true", help="print the points and end")
    parser.add_argument("--keep", type=Path, help="folder for logs and worlds; it must not exist")
    arguments = parser.parse_args()
    if arguments.list:
        sys.stdout.writelines(f"{point.id}  {point.file}:{point.line}  {point.kind}\n" for point in points())
        return 0
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        return 0 if asyncio.run(campaign(arguments, arguments.keep)) else 1
    with tempfile.TemporaryDirectory(prefix="kill-points-") as folder:
        return 0 if asyncio.run(campaign(arguments, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
