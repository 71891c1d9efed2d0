"""Processes that race on one event store, to be killed at any moment: `racer.py write|witness URL JOURNAL`.

They go on until they get SIGTERM. Whatever they do they note first, so that their journal tells what may have
happened, and then what they heard of it.
"""

import asyncio
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import uvloop

from eventstore.appender import UNAVAILABLE
from eventstore.postgres import PostgresStore
from eventstore.store import Append, EventStore, ExpectedVersion, NewEvent, SubscriptionLost, WrongExpectedVersion
from tests.chaos.journal import Journal

STREAMS = ("apples", "pears", "plums")
SUBSCRIPTION = "witness"
_TASKS = 4
_PAUSE = 0.1


async def main(role: str, url: str, path: str) -> None:
    work = asyncio.ensure_future({"write": write, "witness": witness}[role](url, Journal(Path(path))))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    with suppress(asyncio.CancelledError):
        await work


async def write(url: str, journal: Journal) -> None:
    """Several appends at a time, of one to three events, to few streams."""
    while True:
        with suppress(*UNAVAILABLE):
            async with PostgresStore.open(url, pool_size=3) as store, asyncio.TaskGroup() as group:
                for task in range(_TASKS):
                    group.create_task(_append_on(store, journal, task))
        await asyncio.sleep(_PAUSE)


async def _append_on(store: EventStore, journal: Journal, task: int) -> None:
    number = task
    append: Append | None = None
    while True:
        # Now and then the same once more: its answer has to be the same, too.
        if append is None or random.random() < 0.9:
            append = await _next_append(store)
        number += _TASKS
        journal.note(
            attempt=number,
            stream_id=append.stream_id,
            expected=append.expected,
            event_ids=[event.event_id for event in append.events],
            began=time.monotonic(),
        )
        try:
            answer = await store.append(append)
        except WrongExpectedVersion:
            journal.note(attempt=number, ended=time.monotonic(), outcome="refused")
            append = None
        except UNAVAILABLE:
            journal.note(attempt=number, ended=time.monotonic(), outcome="unknown")
            await asyncio.sleep(_PAUSE)
        else:
            journal.note(
                attempt=number,
                ended=time.monotonic(),
                outcome="appended",
                first_version=answer.first_version,
                first_position=answer.first_position,
            )


async def _next_append(store: EventStore) -> Append:
    stream = random.choice(STREAMS)
    expected: ExpectedVersion = "any"
    if random.random() < 0.5:
        with suppress(*UNAVAILABLE):
            expected = await store.stream_version(stream)
    events = [NewEvent(uuid4(), "Fruit.Picked", b"{}") for _ in range(random.randint(1, 3))]
    return Append(stream, expected, events)


async def witness(url: str, journal: Journal) -> None:
    """Owns the subscription whenever nobody else does."""
    while True:
        with suppress(SubscriptionLost, *UNAVAILABLE):
            async with PostgresStore.open(url, pool_size=1) as store:
                await _see(store, journal)
        await asyncio.sleep(_PAUSE)


async def _see(store: EventStore, journal: Journal) -> None:
    async with store.subscribe(SUBSCRIPTION, batch=50) as subscription:
        journal.note(checkpoint=subscription.checkpoint)
        async for batch in subscription:
            journal.note(saw=[(event.number, event.event_id) for event in batch])
            # In two steps, so that an owner may also end in the middle of a batch.
            for done in (random.choice(batch), batch[-1]):
                journal.note(tries=done.number)
                await subscription.ack(done)
                journal.note(acknowledged=done.number)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
