"""One owner per projection among any number of workers, whatever happens to the owner."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from subprocess import Popen
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

import projections.verify
from eventstore.postgres import PostgresStore
from eventstore.store import EventStore, RecordedEvent
from projecting import (
    LEASE,
    append,
    append_all,
    caught_up,
    created,
    owner,
    projecting,
    rows,
    whole_life,
    worker_process,
)
from projections import builds
from projections.orders import ORDERS
from projections.projection import Happened
from projections.registry import PROJECTIONS
from support import eventually

NAMES = [projection.name for projection in PROJECTIONS]


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url, pool_size=4) as store:
        yield store


@pytest.fixture
async def look(read_store_url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(read_store_url)
    yield connection
    await connection.close()


async def owned_by(read_store_url: str, name: str) -> bool:
    """Whether all projections are the worker's of this name."""
    owners = [await owner(read_store_url, projection) for projection in NAMES]
    return all(its is not None and its.startswith(f"{name}/") for its in owners)


async def owned(read_store_url: str) -> bool:
    return all([await owner(read_store_url, name) for name in NAMES])


async def counts(read_store_url: str) -> tuple[int, ...]:
    (row,) = await rows(
        read_store_url,
        "select (select count(*) from orders where status = 'SHIPPED'), (select count(*) from order_items), "
        "(select count(*) from shipments where status = 'COMPLETED')",
    )
    return row


async def test_of_several_workers_one_owns_a_projection_and_the_next_goes_on_when_it_stops(
    store: EventStore, event_store_url: str, read_store_url: str
):
    async with projecting(store, event_store_url, read_store_url, name="first", lease=600):
        await eventually(lambda: owned_by(read_store_url, "first"))
        async with projecting(store, event_store_url, read_store_url, name="second", lease=600):
            await append_all(store, whole_life(uuid4()))
            await caught_up(store, read_store_url)
            assert await owned_by(read_store_url, "first")

            async with projecting(store, event_store_url, read_store_url, name="third", lease=600):
                pass
            assert await owned_by(read_store_url, "first")
        assert await owned_by(read_store_url, "first")
    assert [await owner(read_store_url, name) for name in NAMES] == [None, None]

    # The lease was given back: nobody waits for its end.
    async with projecting(store, event_store_url, read_store_url, name="fourth", lease=600):
        await append_all(store, whole_life(uuid4()))
        await caught_up(store, read_store_url)
        assert await owned_by(read_store_url, "fourth")
    assert await counts(read_store_url) == (2, 6, 2)


async def test_workers_of_the_same_name_are_told_apart(store: EventStore, event_store_url: str, read_store_url: str):
    with capture_logs() as logs:
        async with (
            projecting(store, event_store_url, read_store_url, lease=600),
            projecting(store, event_store_url, read_store_url, lease=600),
        ):
            await append_all(store, whole_life(uuid4()))
            await caught_up(store, read_store_url)
            acquired = [entry["build"] for entry in logs if entry["event"] == "projection.acquired"]
            assert sorted(acquired) == NAMES


@pytest.mark.parametrize(
    ("theft", "checkpoint"),
    [
        ("update waybill.projections set owner = 'thief', lease_until = now() + interval '1 hour' returning 1", 0),
        ("update projection_versions set last_seen_event_number = 1 returning 1", 1),
    ],
    ids=["lease", "checkpoint"],
)
async def test_an_owner_that_lost_its_place_between_reading_and_writing_writes_nothing(
    store: PostgresStore,
    event_store_url: str,
    read_store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    theft: str,
    checkpoint: int,
):
    await append(store, str(uuid4()), created(uuid4()))
    read_all = store.read_all

    async def rob(**what: Any) -> list[RecordedEvent]:
        page = await read_all(**what)
        await rows(read_store_url, theft)
        return page

    monkeypatch.setattr(store, "read_all", rob)
    with capture_logs() as logs:
        async with projecting(store, event_store_url, read_store_url, projections=[ORDERS]):
            await eventually(lambda: any(entry["event"] == "projection.lost" for entry in logs))
    assert await rows(read_store_url, "select * from orders") == []
    reached = "select last_seen_event_number from projection_versions where projection_name = 'orders'"
    assert await rows(read_store_url, reached) == [(checkpoint,)]


async def test_an_owner_that_is_held_up_in_the_middle_of_a_batch_loses_it_to_another(
    store: EventStore, event_store_url: str, read_store_url: str
):
    held_up, go_on = asyncio.Event(), asyncio.Event()

    async def hanging(connection: Any, batch: Sequence[Happened]) -> None:
        await ORDERS.apply(connection, batch)
        held_up.set()
        await go_on.wait()

    await append_all(store, whole_life(uuid4()))
    slow = [replace(ORDERS, apply=hanging)]
    async with projecting(store, event_store_url, read_store_url, name="slow", projections=slow):
        await asyncio.wait_for(held_up.wait(), 10)
        began = time.monotonic()
        async with projecting(store, event_store_url, read_store_url, name="quick", projections=[ORDERS]):
            await caught_up(store, read_store_url, projections=[ORDERS])
            assert time.monotonic() - began < 2 * LEASE + 1

            with capture_logs() as logs:
                go_on.set()
                await eventually(lambda: any(entry["event"] == "projection.interrupted" for entry in logs))
            await append_all(store, whole_life(uuid4()))
            await caught_up(store, read_store_url, projections=[ORDERS])
            assert (await owner(read_store_url, "orders") or "").startswith("quick/")
    assert (await counts(read_store_url))[:2] == (2, 6)


async def test_a_statement_that_takes_longer_than_the_lease_is_let_come_to_its_end(
    store: EventStore, event_store_url: str, read_store_url: str, look: Any
):
    await look.execute(
        "create function dawdle() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(1.5); return null; end $$"
    )
    await look.execute("create trigger slow after insert on orders execute function dawdle()")
    await append_all(store, whole_life(uuid4()))
    with capture_logs() as logs:
        async with (
            projecting(store, event_store_url, read_store_url, name="first", lease=0.4),
            projecting(store, event_store_url, read_store_url, name="second", lease=0.4),
        ):
            await caught_up(store, read_store_url)
    assert not [entry for entry in logs if entry["event"] in {"projection.displaced", "projection.interrupted"}]
    assert await counts(read_store_url) == (1, 3, 1)


async def test_a_look_at_the_events_that_takes_longer_than_the_lease_does_not_cost_it(
    store: PostgresStore, event_store_url: str, read_store_url: str, monkeypatch: pytest.MonkeyPatch
):
    read_all = store.read_all
    looking, found = asyncio.Event(), asyncio.Event()

    async def look_for_long(**what: Any) -> list[RecordedEvent]:
        looking.set()
        await found.wait()
        return await read_all(**what)

    async def lease_until() -> datetime:
        (row,) = await rows(read_store_url, "select lease_until from waybill.projections where projection = 'orders'")
        return row[0]

    await append_all(store, whole_life(uuid4()))
    monkeypatch.setattr(store, "read_all", look_for_long)
    async with (
        projecting(store, event_store_url, read_store_url, name="first", projections=[ORDERS]),
        projecting(store, event_store_url, read_store_url, name="second", projections=[ORDERS]),
    ):
        await asyncio.wait_for(looking.wait(), 10)
        its_owner, until = await owner(read_store_url, "orders"), await lease_until()

        async def renewed_beyond_its_end() -> bool:
            return await lease_until() > until + timedelta(seconds=LEASE)

        await eventually(renewed_beyond_its_end)
        assert await owner(read_store_url, "orders") == its_owner
        found.set()
        await caught_up(store, read_store_url, projections=[ORDERS])
        assert await owner(read_store_url, "orders") == its_owner


async def test_another_process_goes_on_within_two_seconds_when_the_owner_is_killed(
    store: EventStore, event_store_url: str, read_store_url: str
):
    urls = (event_store_url, read_store_url)
    with worker_process(*urls, "first", lease=1.5) as first, worker_process(*urls, "second", lease=1.5) as second:
        await eventually(lambda: owned(read_store_url), within=20)
        orders = await owner(read_store_url, "orders") or ""
        victim, heir = (first, "second") if orders.startswith("first/") else (second, "first")
        await append_all(store, whole_life(uuid4()))
        await caught_up(store, read_store_url)

        victim.kill()
        killed = time.monotonic()
        await eventually(lambda: owned_by(read_store_url, heir))
        assert time.monotonic() - killed < 2

        await append_all(store, whole_life(uuid4()))
        await caught_up(store, read_store_url)
    assert await counts(read_store_url) == (2, 6, 2)


@dataclass
class Owner:
    """A worker process that is to be stopped while it writes."""

    process: Popen[bytes]
    read_store_url: str
    look: "asyncpg.Connection[asyncpg.Record]"

    async def is_stopped(self, build: str, *, in_copy: bool) -> bool:
        """Stop it. If that isn't in the middle of a batch (in a COPY), let it go on."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            # What the server has got of it, it brings to its end, and then waits for the rest, if there is any.
            waits = await eventually(partial(self.look.fetchrow, _HOLDER, build), within=0.1, every=0.002)
        except AssertionError:
            caught = False
        else:
            assert waits
            caught = waits["in_copy"] or not in_copy
        if not caught:
            self.goes_on()
        return caught

    def goes_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    async def has_written(self, schema: str) -> bool:
        """So much that it is in the middle of its work."""
        if await self.look.fetchval("select to_regclass($1)", f"{schema}.orders") is None:
            return False
        return await self.look.fetchval(f"select count(*) > 50 from {schema}.orders")


# Who is in the middle of a batch of a build, and waits for its process.
_HOLDER = """
select state = 'active' and query ilike 'copy %' as in_copy
from waybill.projections
join pg_locks on locktype = 'transactionid' and transactionid = projections.xmax and granted
join pg_stat_activity using (pid)
where projection_name = $1 and wait_event_type = 'Client'
"""


@asynccontextmanager
async def load(store: EventStore) -> AsyncGenerator[list[UUID]]:
    """Orders live all the time within the block; gives those that have."""
    lived: list[UUID] = []
    over = asyncio.Event()

    async def live() -> None:
        while not over.is_set():
            await append_all(store, whole_life(order_id := uuid4()))
            lived.append(order_id)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(live())
        try:
            yield lived
        finally:
            over.set()


async def append_large_orders(store: EventStore, orders: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for order_id in [uuid4() for _ in range(orders)]:
            tasks.create_task(append(store, str(order_id), created(order_id, items=50)))


@pytest.mark.parametrize("moment", ["catching up", "live", "in a COPY of a rebuild"])
async def test_an_owner_that_was_stopped_while_it_wrote_and_comes_back_writes_nothing(
    store: PostgresStore, event_store_url: str, read_store_url: str, look: Any, moment: str
):
    urls = (event_store_url, read_store_url)
    # Enough to be at it for a while.
    large = {"catching up": 400, "live": 0, "in a COPY of a rebuild": 1000}[moment]
    await append_large_orders(store, large)
    if moment == "in a COPY of a rebuild":
        async with projecting(store, *urls):
            await caught_up(store, read_store_url, within=30)
    with worker_process(*urls, "paused", lease=LEASE) as process:
        paused = Owner(process, read_store_url, look)
        async with load(store) as lived:
            if moment == "in a COPY of a rebuild":
                await stop_in_a_copy(paused)
            else:
                await eventually(partial(paused.has_written, "public"), within=30)
                await eventually(partial(paused.is_stopped, "orders", in_copy=False), within=30, every=0.003)
            async with projecting(store, *urls, name="heir"):
                await eventually(lambda: owned_by(read_store_url, "heir"))
                await eventually(partial(no_rebuild, look), within=30)
                before = len(lived)
                paused.goes_on()
                await eventually(lambda: len(lived) > before + 40)
                await caught_up(store, read_store_url, within=30)
                assert await owned_by(read_store_url, "heir")
                assert process.poll() is None
            # It lives, and takes its turn.
            await eventually(lambda: owned_by(read_store_url, "paused"))
        await caught_up(store, read_store_url, within=30)
    assert await projections.verify.verify(read_store_url, store, lambda *_: None) == []
    assert await counts(read_store_url) == (len(lived), large * 50 + len(lived) * 3, len(lived))


async def stop_in_a_copy(owner: Owner) -> None:
    async def is_stopped() -> bool:
        if await no_rebuild(owner.look):
            # It was too quick: once more.
            await builds.rebuild(owner.look, ORDERS)
        return await owner.has_written("orders_next") and await owner.is_stopped("orders_next", in_copy=True)

    await eventually(is_stopped, within=60, every=0.003)


async def no_rebuild(look: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return not await look.fetchval("select exists (select from waybill.projections where stage = 'next')")
