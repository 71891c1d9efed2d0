"""Another program appends to our streams in its own way, at the same time: both get the answers that are theirs.

The original's way is one statement that computes versions on the client's side and takes no lock beforehand (see
benchmarks/original.py). It says itself what time it is.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from benchmarks.original import OriginalClient
from databases import Databases
from eventstore.postgres import PostgresStore
from eventstore.store import Append, EventStore, ExpectedVersion, NewEvent, WrongExpectedVersion
from tests.chaos.checker import Attempt, violations
from tests.chaos.histories import SECONDS, history
from tests.contract.appends import events, ids

FOREIGN, OURS = 6, 2
"""Sessions of the other program, and processes of ours with a few appends at a time each."""
AT_A_TIME = 6
CONFLICTS = {"ix_stream_events", "ix_streams_stream_uuid"}
"""By which the original recognises that somebody was faster."""

Turn = Callable[[str], Awaitable[Attempt]]


def stream_of(turn: int) -> str:
    """Three streams that all share, and now and then a new one that all try to create."""
    return f"new-{turn // 10}" if turn % 10 == 0 else random.choice(("apples", "pears", "plums"))


async def append_as_the_original(client: OriginalClient, stream: str) -> Attempt:
    known = await client.find(stream)
    new = events(random.randint(1, 3))
    exact = random.random() < 0.7
    expected: ExpectedVersion = "no_stream" if known is None else known[1] if exact else "any"
    attempt = Attempt("original", stream, expected, tuple(ids(new)), time.monotonic())
    try:
        if known is None:
            await client.create(stream, new)
        elif exact:
            await client.append(known[0], new, known[1])
        else:
            await client.append_at_any_version(known[0], new)
    except asyncpg.UniqueViolationError as conflict:
        if conflict.constraint_name not in CONFLICTS:
            raise
        attempt.outcome = "refused"
    except asyncpg.DeadlockDetectedError:
        # It takes rows in another order than we do. PostgreSQL has chosen it; nothing was written.
        attempt.outcome = "refused"
    else:
        attempt.outcome = "appended"
    attempt.ended = time.monotonic()
    return attempt


async def append_as_we_do(store: EventStore, stream: str) -> Attempt:
    expected: ExpectedVersion = "any" if random.random() < 0.5 else await store.stream_version(stream)
    new: list[NewEvent] = events(random.randint(1, 3))
    attempt = Attempt("waybill", stream, expected, tuple(ids(new)), time.monotonic())
    try:
        answer = await store.append(Append(stream, expected, new))
    except WrongExpectedVersion:
        attempt.outcome = "refused"
    else:
        attempt.outcome = "appended"
        attempt.first_version, attempt.first_position = answer.first_version, answer.first_position
    attempt.ended = time.monotonic()
    return attempt


@pytest.fixture
async def impatient_url(databases: Databases, event_store_url: str) -> str:
    """An event store that looks for deadlocks after milliseconds and not after a second: there are to be many."""
    admin = await asyncpg.connect(databases.admin_url)
    await admin.execute(f"alter database {urlsplit(event_store_url).path[1:]} set deadlock_timeout = '5ms'")
    await admin.close()
    return event_store_url


async def test_a_client_that_appends_as_the_original_does_and_ours_do_each_other_no_harm(impatient_url: str) -> None:
    attempts: list[Attempt] = []
    turns = 0
    deadline = time.monotonic() + SECONDS

    async def go_on(turn: Turn) -> None:
        nonlocal turns
        while time.monotonic() < deadline:
            turns += 1
            attempts.append(await turn(stream_of(turns)))

    async with AsyncExitStack() as opened:
        stores = [await opened.enter_async_context(PostgresStore.open(impatient_url, AT_A_TIME)) for _ in range(OURS)]
        pool = await opened.enter_async_context(asyncpg.create_pool(impatient_url, min_size=1, max_size=FOREIGN))
        with capture_logs() as said:
            async with asyncio.TaskGroup() as group:
                for _ in range(FOREIGN):
                    group.create_task(go_on(lambda stream: append_as_the_original(OriginalClient(pool), stream)))
                for store in stores * AT_A_TIME:
                    group.create_task(go_on(lambda stream, store=store: append_as_we_do(store, stream)))
        streams = [info.stream_id for info in await stores[0].list_streams(limit=100_000)]
        found = await history(stores[0], streams, attempts)
    # The original isn't told where its events are.
    place = {event.event_id: event for event in found.everything}
    for attempt in attempts:
        if attempt.writer == "original" and (first := place.get(attempt.event_ids[0])):
            attempt.first_version, attempt.first_position = first.version, first.position
    assert [each for each in violations(found) if "time runs backwards" not in each] == []
    outcomes = Counter((attempt.writer, attempt.outcome) for attempt in attempts)
    assert outcomes.keys() == {(who, what) for who in ("original", "waybill") for what in ("appended", "refused")}
    print(dict(outcomes), Counter(line.get("reason", line["event"]) for line in said))  # noqa: T201
