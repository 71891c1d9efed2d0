"""`make bench`: every benchmark, or those that are named. Each prints a table and writes results/NAME.json."""

import asyncio
import sys

from benchmarks import appends, lifecycles, listeners

BENCHMARKS = {"lifecycles": lifecycles.run, "appends": appends.run, "listeners": listeners.run}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"No such benchmark: {', '.join(unknown)}. There are {', '.join(BENCHMARKS)}.\n")
        return 2
    for name in names or BENCHMARKS:
        asyncio.run(BENCHMARKS[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
