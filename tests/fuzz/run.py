"""`make fuzz`: schemathesis against a whole Waybill, for as long as asked.

A stack of its own, as `waybill dev` starts it; its gateway counts what it was sent.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from dev import throwaway

HERE = Path(__file__).parent
ENVIRONMENT = {"WAYBILL_CONSISTENCY_TIMEOUT": "0.1"}
"""What isn't there yet may be waited for, but not by a fuzzer."""
PHASES = ("examples", "coverage", "fuzzing", "stateful")
TALLY = "FUZZ_TALLY"
"""The environment variable with the file that gets the counts of a run when it ends (hooks.py)."""
_REQUESTS = re.compile(r'^waybill_http_requests_total\{.*status="(\d+)"\} ([\d.e+]+)$', re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    failed: bool
    told: str
    """What schemathesis has printed."""
    requests: Counter[str]
    """How many requests the gateway has answered, by status."""
    tally: Counter[str]
    """How many it was sent in each phase, how many `checks` there were of an answer, and how many `failures`."""


async def fuzz(url: str, *options: str) -> Outcome:
    """One run against the gateway at `url`, with these options of `schemathesis run` besides those in the file.

    Cancelled, it lets schemathesis come to its end, as Ctrl-C does, and tells what there is until then.
    """
    before = await answered(url)
    with TemporaryDirectory() as directory:
        tally = Path(directory) / "tally"
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
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "NO_COLOR": "1", "COLUMNS": "160", TALLY: str(tally)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C is for us to pass on: a second one would cut its report off.
            start_new_session=True,
        )
        ending = asyncio.create_task(process.communicate())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            process.send_signal(signal.SIGINT)
        told, _ = await ending
        counted: Counter[str] = Counter(json.loads(tally.read_text()) if tally.exists() else {})
    requests = await answered(url) - before
    return Outcome(process.returncode != 0, told.decode(errors="replace"), requests, counted)


async def answered(url: str) -> Counter[str]:
    async with httpx2.AsyncClient(base_url=url) as client:
        metrics = (await client.get("/metrics")).text
    counted: Counter[str] = Counter()
    for status, count in _REQUESTS.findall(metrics):
        counted[status] += int(float(count))
    return counted


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for how long; Ctrl-C ends it earlier")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time")
    parser.add_argument("rest", nargs="*", help="options of `schemathesis run`, after --")
    asked = parser.parse_args()
    options = [f"--max-time={asked.seconds}", *asked.rest]
    async with throwaway.stack(environment=ENVIRONMENT) as record:
        began = time.monotonic()
        before = await answered(record.api_url)
        running = [asyncio.create_task(fuzz(record.api_url, *options)) for _ in range(asked.processes)]
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, lambda: [each.cancel() for each in running])
        outcomes = await asyncio.gather(*running)
        requests = await answered(record.api_url) - before
        seconds = time.monotonic() - began
    for outcome in outcomes:
        sys.stdout.write(outcome.told)
    tally = sum((outcome.tally for outcome in outcomes), Counter[str]())
    by_status = ", ".join(f"{count:,} x {status}" for status, count in sorted(requests.items()))
    by_phase = ", ".join(f"{tally[phase]:,} in {phase}" for phase in PHASES)
    idle = [phase for phase in PHASES if not tally[phase]]
    sys.stdout.write(
        f"\n{requests.total():,} requests answered by the gateway in {seconds:,.0f} s: {by_status}\n"
        f"{by_phase}; {tally['checks']:,} answers checked in every way; {tally['failures']:,} failures\n"
    )
    if idle:
        sys.stdout.write(f"Nothing was sent in {' and '.join(idle)}: this says little\n")
    return 1 if idle or tally["failures"] or any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
