"""`make bench`: every benchmark, or those that are named. Each prints a table and writes results/NAME.json."""

import sys

import uvloop

from benchmarks import (
    appends,
    commands,
    growth,
    lag,
    lifecycles,
    listeners,
    pages,
    reads,
    rebuild,
    slow,
    tracing,
    workers,
)
from garbage import collect_seldom
from observability import configure_logging

BENCHMARKS = {
    "lifecycles": lifecycles.run,
    "appends": appends.run,
    "growth": growth.run,
    "commands": commands.run,
    "pages": pages.run,
    "lag": lag.run,
    "rebuild": rebuild.run,
    "reads": reads.run,
    "slow": slow.run,
    "workers": workers.run,
    "listeners": listeners.run,
    "tracing": tracing.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"No such benchmark: {', '.join(unknown)}. There are {', '.join(BENCHMARKS)}.\n")
        return 2
    configure_logging("error", "console")
    # As the gateway and workers do.
    collect_seldom()
    for name in names or BENCHMARKS:
        uvloop.run(BENCHMARKS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
