"""`make fuzz`: schemathesis against a whole Waybill, for as long as asked.

A stack of its own, as `waybill dev` starts it; its gateway counts what it was sent.
"""

import argparse
import asyncio
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx2

from dev import throwaway

HERE = Path(__file__).parent
ENVIRONMENT = {"WAYBILL_CONSISTENCY_TIMEOUT": "0.1"}
"""What isn't there yet may be waited for, but not by a fuzzer."""
_REQUESTS = re.compile(r'^waybill_http_requests_total\{.*status="(\d+)"\} ([\d.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    failed: bool
    told: str
    """What schemathesis has printed."""
    requests: Counter[str]
    """How many requests the gateway has answered, by status."""


async def fuzz(url: str, *options: str) -> Outcome:
    """One run against the gateway at `url`, with these options of `schemathesis run` besides those in the file."""
    before = await answered(url)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "schemathesis",
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
        f"{url}/openapi.json",
        "--checks=all",
        # In several threads of one process, Python 3.11's parser may lose count of its own depth.
        "--workers=1",
        *options,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "NO_COLOR": "1", "COLUMNS": "160"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    return Outcome(process.returncode != 0, told.decode(errors="replace"), await answered(url) - before)


async def answered(url: str) -> Counter[str]:
    async with httpx2.AsyncClient(base_url=url) as client:
        metrics = (await client.get("/metrics")).text
    counted: Counter[str] = Counter()
    for status, count in _REQUESTS.findall(metrics):
        counted[status] += int(float(count))
    return counted


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time")
    parser.add_argument("rest", nargs="*", help="options of `schemathesis run`, after --")
    asked = parser.parse_args()
    options = [f"--max-time={asked.seconds}", *asked.rest]
    async with throwaway.stack(environment=ENVIRONMENT) as record:
        before = await answered(record.api_url)
        outcomes = await asyncio.gather(*(fuzz(record.api_url, *options) for _ in range(asked.processes)))
        requests = await answered(record.api_url) - before
    for outcome in outcomes:
        sys.stdout.write(outcome.told)
    by_status = ", ".join(f"{count:,} x {status}" for status, count in sorted(requests.items()))
    sys.stdout.write(f"\n{requests.total():,} requests answered by the gateway: {by_status}\n")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
