"""`make chaos`: load through HTTP while everything is maltreated, and a look at what is left of it.

The report, the journal and the log of all processes are in .waybill-chaos afterwards.
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import orjson
import uvloop
from temporalio.client import Client

from command_line import CommandLine
from dev import temporal
from dev.throwaway import temporary_directory
from proof.checks import Case, Verdict, judge
from proof.evidence import behind, connected, gather, listed, runs
from proof.journal import Journal
from proof.load import TIMEOUT, Customer, ask_again
from proof.plan import PACK, Fault, deal
from proof.plant import PATIENCE, Plant, plant
from proof.report import KINDS, passed, report, told
from support import eventually

DIRECTORY = Path(".waybill-chaos")
CUSTOMERS = 16
_LONGEST_PAUSE = 30.0
_ASKED_AGAIN = 1000


@dataclass(frozen=True)
class Storm:
    """How long and how hard. It goes on, pack by pack of faults, until all of it is fulfilled."""

    seed: int
    seconds: float
    commands: int = 1
    """Acknowledged ones."""
    kills: int = 1
    apart: int = 30
    """Acknowledged commands between two faults, on average."""
    longest: float = 5.0
    """Seconds that a fault lasts, at most."""


async def run(storm: Storm, directory: Path) -> dict[str, Any]:
    """One run; the report. What else there is to read afterwards is in the directory."""
    journal = Journal(directory / "journal.jsonl")
    with temporary_directory() as data:
        async with plant(data, directory / "log") as waybill:
            seconds = await _storm(storm, waybill, journal)
            verdicts = await _look(storm, waybill, journal)
    found = report(storm.seed, seconds, journal.calls, journal.struck, verdicts)
    (directory / "report.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return found


async def _storm(storm: Storm, waybill: Plant, journal: Journal) -> float:
    """Load and faults; in the end, when the faults are over, every request gets its answer. Seconds of faults."""
    over = asyncio.Event()
    began = time.monotonic()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=CUSTOMERS)
    async with httpx2.AsyncClient(base_url=waybill.url, timeout=TIMEOUT, limits=limits, trust_env=False) as http:
        customers = [
            Customer(http, journal, Random(f"{storm.seed} {n}"), f"customer-{n}", lambda: not over.is_set())
            for n in range(CUSTOMERS)
        ]
        at_work = asyncio.gather(*(customer.live() for customer in customers))
        try:
            await _faults(storm, waybill, journal)
            seconds = time.monotonic() - began
            await waybill.recovered()
            over.set()
            async with asyncio.timeout(PATIENCE):
                await at_work
        except TimeoutError:
            # Who has still no answer now is what the checks are to complain of.
            seconds = time.monotonic() - began
        finally:
            at_work.cancel()
            with suppress(asyncio.CancelledError):
                await at_work
    return seconds


async def _faults(storm: Storm, waybill: Plant, journal: Journal) -> None:
    began = time.monotonic()

    async def strike(fault: Fault) -> None:
        at = time.monotonic()
        hits = await waybill.strike(fault)
        journal.strike(fault, at, hits)

    def is_enough() -> bool:
        kinds = {each.fault.kind for each in journal.struck if each.hits}
        return (
            time.monotonic() - began >= storm.seconds
            and kinds.issuperset(KINDS)
            and sum(each.fault.kind == "kill" for each in journal.struck) >= storm.kills
            and len(journal.done) >= storm.commands
        )

    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(deal(storm.seed, storm.apart, storm.longest)):
            if number and number % PACK == 0 and is_enough():
                break
            await _work(journal, fault.after)
            group.create_task(strike(fault))


async def _work(journal: Journal, commands: int) -> None:
    """Wait until so many more are acknowledged; but not for ever: it may be the faults that are in the way."""
    due = len(journal.done) + commands
    with suppress(AssertionError):
        await eventually(lambda: len(journal.done) >= due, within=_LONGEST_PAUSE)


async def _look(storm: Storm, waybill: Plant, journal: Journal) -> dict[str, Verdict]:
    """What is there when all is quiet, and whether it is right."""
    urls = waybill.event_store_url, waybill.read_store_url

    async def have_caught_up() -> bool:
        return not await behind(*urls)

    with suppress(AssertionError):
        await eventually(have_caught_up, within=PATIENCE, every=0.2)
    async with httpx2.AsyncClient(base_url=waybill.stack.api_url, timeout=60, trust_env=False) as http:
        answered = [
            call
            for call in journal.calls
            if call.final and call.writes and call.key and call.code != "idempotency-key-reused"
        ]
        chosen = Random(storm.seed).sample(answered, min(len(answered), _ASKED_AGAIN))
        await ask_again(http, journal, chosen, PATIENCE)
        client = await Client.connect(waybill.stack.temporal.address, namespace=temporal.NAMESPACE)
        async with connected(urls[0]) as events, connected(urls[1]) as reads:
            evidence = await gather(events, reads)
        evidence.listed = await listed(http)
        orders = sum(event.type == "Order.OrderCreated" for event in evidence.events)
        evidence.runs = await runs(client, orders, PATIENCE)
    verdicts = judge(Case(journal.calls, evidence, journal.gone))
    return {**verdicts, "waybill verify finds nothing": await _verified(waybill)}


async def _verified(waybill: Plant) -> Verdict:
    verify = await CommandLine.to(waybill.stack.record(waybill.supervisor))("verify", "--json")
    return Verdict(verify.json["events"], [finding["text"] for finding in verify.json["findings"]])


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=5, help="for how long at least")
    parser.add_argument("--commands", type=int, default=1, help="until so many are acknowledged")
    parser.add_argument("--kills", type=int, default=1, help="until there were so many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of faults and load")
    asked = parser.parse_args()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir()
    sys.stdout.write(f"seed {asked.seed}; the log is in {DIRECTORY}/log\n")
    sys.stdout.flush()
    storm = Storm(asked.seed, asked.minutes * 60, asked.commands, asked.kills)
    found = uvloop.run(run(storm, DIRECTORY))
    sys.stdout.write(told(found) + "\n")
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
