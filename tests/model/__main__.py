"""`python -m tests.model [jobs [faults [failovers [stops [set_backs]]]]]`: a larger exploration than the tests make."""

import logging
import sys
import time

from tests.model.exploration import explore
from tests.model.world import Configuration


def main() -> None:
    logging.disable()
    given = [*map(int, sys.argv[1:])]
    jobs, faults, failovers, stops, set_backs = [*given, *(1, 1, 1, 0, 0)[len(given) :]]
    configuration = Configuration(jobs=jobs, faults=faults, failovers=failovers, stops=stops, set_backs=set_backs)
    began = time.process_time()
    found = explore(configuration)
    print(  # noqa: T201 - a command, which prints figures
        f"{configuration}: states {len(found.states)}, transitions {found.transitions}, ends {len(found.ends)}, "
        f"calls of the queue {found.world.queue.calls}, most live pods of a job after a failover {found.crowd}, "
        f"{time.process_time() - began:.1f} s of processor time"
    )
    if found.crowd > 1:
        print(found.way(found.crowded))  # noqa: T201 - as above


if __name__ == "__main__":
    main()
