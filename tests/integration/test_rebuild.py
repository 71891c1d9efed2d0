"""A read model is built anew beside the live one, while that is read and written, and takes its place in one moment."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import projections.verify
from command_line import CommandLine, ended
from eventstore.postgres import PostgresStore
from projecting import (
    append,
    append_all,
    caught_up,
    projecting,
    random_lives,
    rows,
    whole_life,
    worker_process,
)
from projections import builds
from projections.orders import ORDERS
from projections.queries import ReadStore
from support import eventually


@dataclass
class ReadSide:
    """Both stores, with a history that was projected before it was rebuilt."""

    event_store_url: str
    read_store_url: str
    store: PostgresStore
    waybill: CommandLine
    born: list[tuple[UUID, int]] = field(default_factory=list)
    """Orders, and the positions of their creation."""

    @property
    def urls(self) -> tuple[str, str]:
        return self.event_store_url, self.read_store_url

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.read_store_url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def append_life(self) -> None:
        (stream, event), *others = whole_life(order_id := uuid4())
        appended = await append(self.store, stream, event)
        self.born.append((order_id, appended.first_position))
        await append_all(self.store, others)

    async def builds(self) -> dict[str, tuple[str, int]]:
        found = await rows(self.read_store_url, "select projection_name, stage, version from waybill.projections")
        return {name: (stage, version) for name, stage, version in found}

    async def position(self, build: str) -> int:
        statement = "select last_seen_event_number from projection_versions where projection_name = $1"
        return (await rows(self.read_store_url, statement, build))[0][0]

    async def schemas(self) -> list[str]:
        """Those of builds that are not live."""
        found = await rows(self.read_store_url, "select nspname::text from pg_namespace where nspname like 'orders%'")
        return [name for (name,) in found]

    async def findings(self) -> list[str]:
        found = await projections.verify.verify(self.read_store_url, self.store, lambda *_: None)
        return [finding.text for finding in found]

    async def begin_slowly(self) -> None:
        """A rebuild that takes its time: a second or so for each hundred events, until `hurry`."""
        connection = await asyncpg.connect(self.read_store_url)
        # In one transaction: workers that run already would be done with it before it is slow.
        async with connection.transaction():
            await builds.rebuild(connection, ORDERS)
            await connection.execute(
                """
                create table public.slow as select 0.3::float8 as seconds;
                create function public.dawdle() returns trigger language plpgsql as $$
                begin perform pg_sleep(coalesce((select max(seconds) from public.slow), 0)); return null; end $$;
                create trigger slow after insert on orders_next.orders execute function public.dawdle();
                """
            )
        await connection.close()

    async def hurry(self) -> None:
        await self.execute("truncate public.slow")

    async def is_under_way(self) -> bool:
        [(pace,)] = await rows(self.read_store_url, "select max(rate) from waybill.projections where stage = 'next'")
        return bool(pace) and 0 < await self.position("orders_next") < await self.position("orders")

    async def is_over(self) -> bool:
        return await self.builds() == {"orders": ("live", 1), "shipments": ("live", 1)}


@pytest.fixture
async def read_side(event_store_url: str, read_store_url: str) -> AsyncGenerator[ReadSide]:
    waybill = CommandLine({"WAYBILL_EVENT_STORE_URL": event_store_url, "WAYBILL_READ_STORE_URL": read_store_url})
    async with PostgresStore.open(event_store_url, pool_size=4) as store:
        yield ReadSide(event_store_url, read_store_url, store, waybill)


@pytest.fixture
async def projected(read_side: ReadSide) -> ReadSide:
    """With several hundred events."""
    await append_all(read_side.store, random_lives(Random(4), 150))
    async with projecting(read_side.store, *read_side.urls):
        await caught_up(read_side.store, read_side.read_store_url)
    return read_side


# --- The command


async def test_a_rebuild_mends_what_was_wrong_and_leaves_nothing_behind(projected: ReadSide):
    await projected.execute(
        "update orders set status = 'SHIPPED', version = 99 where position % 7 = 0",
        "delete from order_items where line = 1",
        "insert into orders select gen_random_uuid(), order_number, business_partner, status, version, shipment_id, "
        "shipment_version, -position, inserted_at, updated_at from orders limit 5",
    )
    assert await projected.findings()

    told = await projected.waybill("projection", "rebuild", "orders", "--json")

    assert (told.code, told.err) == (0, "")
    head = await projected.store.stream_version("$all")
    assert (told.json["name"], told.json["version"], told.json["position"]) == ("orders", 1, head)
    assert await projected.findings() == []
    assert await projected.is_over()
    assert await projected.schemas() == []


async def test_a_rebuild_says_in_words_what_has_happened(projected: ReadSide):
    told = await projected.waybill("projection", "rebuild", "shipments")
    assert told.code == 0
    assert told.out.startswith("shipments is built anew, up to position ")


async def test_of_a_projection_that_there_is_not_the_command_says_which_there_are(read_side: ReadSide):
    told = await read_side.waybill("projection", "rebuild", "invoices")
    assert (told.code, told.err) == (1, "Error: there is no projection invoices: orders, shipments\n")


async def test_the_status_tells_of_every_build(projected: ReadSide):
    await projected.begin_slowly()
    async with projecting(projected.store, *projected.urls, name="worker-7", lease=5, batch=20):
        await eventually(projected.is_under_way)
        told = await projected.waybill("projection", "status", "--json")
        live, next_, shipments = told.events
        assert [(each["name"], each["stage"], each["version"]) for each in told.events] == [
            ("orders", "live", 1),
            ("orders", "next", 1),
            ("shipments", "live", 1),
        ]
        assert {each["owner"].split("/")[0] for each in told.events} == {"worker-7"}
        assert (live["lag"], live["lag_seconds"], live["progress"], live["parked"]) == (0, 0, 1, 0)
        assert (shipments["state"], next_["state"]) == ("running", "running")
        assert 0 < next_["progress"] < 1
        assert next_["lag"] + next_["position"] == live["position"]
        assert next_["lag_seconds"] > 0
        assert next_["rate"] > 0
        assert next_["eta_seconds"] == pytest.approx(next_["lag"] / next_["rate"], rel=0.1)

        in_words = await projected.waybill("projection", "status")
        assert "worker-7/" in in_words.out
        await projected.hurry()


async def test_another_version_that_is_being_built_is_not_disturbed(read_side: ReadSide):
    await read_side.waybill("projection", "rebuild", "orders", "--no-wait")
    await read_side.execute(
        "update waybill.projections set version = 2, owner = 'worker-2', lease_until = now() + interval '1 hour' "
        "where stage = 'next'"
    )
    told = await read_side.waybill("projection", "rebuild", "orders")
    assert (told.code, told.err) == (1, "Error: version 2 of orders is being built: wait for that\n")


async def test_what_was_discarded_is_not_tried_again_by_a_rebuild_that_has_begun_without_it(projected: ReadSide):
    await projected.execute(
        """
        insert into waybill.parked
          (subscriber, position, stream_id, event_id, event_type, state, reason, attempts, discarded_at)
        values ('orders', 1, 'it', gen_random_uuid(), 'Order.OrderCreated', 'discarded', 'it', 1, now())
        """
    )
    command = ("projection", "rebuild", "orders", "--no-wait")
    assert (await projected.waybill(*command)).code == 0
    told = await projected.waybill(*command, "--with-discarded")
    assert (told.code, told.out) == (1, "")
    assert told.err == "Error: orders is being built without what was discarded: wait for that, then ask again\n"
    assert (await projected.waybill(*command)).code == 0


# --- Under load


@asynccontextmanager
async def load(read_side: ReadSide) -> AsyncGenerator[list[int]]:
    """Orders live and readers ask all the time: what a reader has seen once is never missing again.

    Gives the positions that the readers have seen.
    """
    seen: list[int] = []
    over = asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            await read_side.append_life()

    async def read() -> None:
        while not over.is_set():
            position = (await reader.positions())["orders"]
            visible = [order_id for order_id, at in read_side.born if at <= position]
            shown = (await reader.orders(limit=30)).rows
            assert {order.id for order in shown} >= set(visible[-10:])
            if visible:
                found = await reader.order(visible[-1])
                assert found
                assert len(found[1]) >= 2
            assert (await reader.positions())["orders"] >= position
            seen.append(position)

    async with ReadStore.open(read_side.read_store_url, 3) as reader, asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for _ in range(3):
            tasks.create_task(read())
        try:
            yield seen
        finally:
            over.set()


async def test_no_read_fails_or_goes_back_while_a_read_model_is_rebuilt_again_and_again(projected: ReadSide):
    async with projecting(projected.store, *projected.urls), load(projected) as seen:
        for _ in range(2):
            before = len(seen)
            told = await projected.waybill("projection", "rebuild", "orders", "--json")
            assert told.code == 0, told.err
            await eventually(lambda so_far=before: len(seen) > so_far + 20, within=30)
    async with projecting(projected.store, *projected.urls):
        await caught_up(projected.store, projected.read_store_url)
    assert await projected.findings() == []


async def test_somebody_who_reads_for_long_holds_up_the_switch_and_nobody_else(projected: ReadSide):
    connection = await asyncpg.connect(projected.read_store_url)
    reading = connection.transaction()
    await reading.start()
    await connection.fetch("select * from orders, order_items limit 1")
    try:
        async with projecting(projected.store, *projected.urls), load(projected) as seen:
            await projected.waybill("projection", "rebuild", "orders", "--no-wait")

            async def only_the_switch_is_left() -> bool:
                return await projected.position("orders_next") >= await projected.store.stream_version("$all") - 50

            await eventually(only_the_switch_is_left, within=20)
            for _ in range(3):
                before, position = len(seen), seen[-1]
                await eventually(lambda so_far=before: len(seen) > so_far + 20, within=30)
                assert seen[-1] > position
            assert (await projected.builds())["orders_next"] == ("next", 1)
            await reading.rollback()
            await eventually(projected.is_over, within=20)
    finally:
        await connection.close()
    assert await projected.findings() == []


# --- Interrupted


@asynccontextmanager
async def a_slow_rebuild(read_side: ReadSide) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process that is rebuilding, somewhere in the middle."""
    await read_side.begin_slowly()
    async with read_side.waybill.running("projection", "rebuild", "orders") as process:
        await eventually(read_side.is_under_way, within=30)
        yield process


async def test_a_rebuild_that_is_killed_goes_on_where_it_was(projected: ReadSide):
    async with a_slow_rebuild(projected) as process:
        process.kill()
        await ended(process)
    reached = await projected.position("orders_next")
    assert reached > 0
    await projected.hurry()
    # As if what it had made of the first events were lost: nobody makes it again.
    await projected.execute(
        "update orders_next.orders set order_number = 'from before' where position = "
        "(select min(position) from orders_next.orders join public.orders as living using (position))"
    )

    assert (await projected.waybill("projection", "rebuild", "orders")).code == 0

    (finding,) = await projected.findings()
    assert "order_number is from before, not N-" in finding


async def test_workers_take_over_a_rebuild_that_is_killed(projected: ReadSide):
    with worker_process(*projected.urls, "worker", lease=1.0):
        async with a_slow_rebuild(projected) as process:
            process.kill()
            await ended(process)
        await projected.hurry()
        await eventually(projected.is_over, within=30)
    assert await projected.findings() == []


async def test_a_rebuild_that_is_interrupted_by_hand_says_who_goes_on(projected: ReadSide):
    async with a_slow_rebuild(projected) as process:
        process.send_signal(signal.SIGINT)
        told = await ended(process)
    assert told.code == 130
    assert told.err == "Stopped. A worker goes on, or `waybill projection rebuild orders` does.\n"
    assert (await projected.builds())["orders_next"] == ("next", 1)


async def test_a_rebuild_that_was_paused_for_longer_than_its_lease_and_comes_back_does_no_harm(projected: ReadSide):
    async with a_slow_rebuild(projected) as process:
        process.send_signal(signal.SIGSTOP)
        await projected.hurry()
        with worker_process(*projected.urls, "heir", lease=1.0):
            await eventually(projected.is_over, within=30)
            process.send_signal(signal.SIGCONT)
            told = await ended(process)
            assert (told.code, told.err) == (0, "")
            await projected.append_life()
            await caught_up(projected.store, projected.read_store_url)
    assert await projected.findings() == []


async def test_a_rebuild_that_is_killed_at_the_switch_is_finished_by_another(projected: ReadSide):
    connection = await asyncpg.connect(projected.read_store_url)
    reading = connection.transaction()
    await reading.start()
    await connection.fetch("select * from order_items limit 1")
    switching = "select true from pg_stat_activity where wait_event_type = 'Lock' and query like 'lock table%'"

    async def is_at_the_switch() -> bool:
        return await rows(projected.read_store_url, switching) != []

    async with projected.waybill.running("projection", "rebuild", "orders") as process:
        await eventually(is_at_the_switch, within=30, every=0.005)
        process.kill()
        await ended(process)
    await reading.rollback()
    await connection.close()
    # Whatever the dead process had begun is undone: both are as they were.
    assert (await projected.builds())["orders"] == ("live", 1)
    assert (await projected.builds())["orders_next"] == ("next", 1)
    async with projecting(projected.store, *projected.urls):
        await eventually(projected.is_over, within=20)
    assert await projected.findings() == []


async def test_what_was_left_over_when_a_rebuild_was_killed_after_the_switch_is_dropped(projected: ReadSide):
    connection = await asyncpg.connect(projected.read_store_url)
    async with connection.transaction():
        await builds.rebuild(connection, ORDERS)
        await builds.put_live(connection, ORDERS)
    await connection.close()
    assert (await projected.builds())["orders_old"] == ("leftover", 1)

    async with projecting(projected.store, *projected.urls):
        await eventually(projected.is_over, within=20)
        await caught_up(projected.store, projected.read_store_url)
    assert await projected.schemas() == []
    assert await projected.findings() == []


async def test_workers_that_are_killed_again_and_again_while_they_write_and_rebuild_make_every_row_once(
    projected: ReadSide,
):
    await projected.begin_slowly()
    over = asyncio.Event()

    async def live() -> None:
        while not over.is_set():
            await projected.append_life()

    writing = asyncio.create_task(live())
    kills = 0
    try:
        while kills < 4:
            with worker_process(*projected.urls, f"worker-{kills}", lease=0.6) as process:
                before = await projected.position("orders"), await projected.position("orders_next")

                async def has_worked(before: tuple[int, int] = before) -> bool:
                    live, next_ = await projected.position("orders"), await projected.position("orders_next")
                    return live > before[0] and next_ > before[1]

                await eventually(has_worked, within=30)
                process.kill()
                kills += 1
    finally:
        over.set()
        await writing
    await projected.hurry()
    async with projecting(projected.store, *projected.urls):
        await eventually(projected.is_over, within=30)
        await caught_up(projected.store, projected.read_store_url)
    assert await projected.findings() == []


async def test_a_read_model_that_is_ahead_of_the_events_is_mended_by_a_rebuild(projected: ReadSide):
    # An older backup of the event store was restored.
    await projected.execute("update projection_versions set last_seen_event_number = last_seen_event_number + 100")
    assert (await projected.waybill("projection", "rebuild", "orders")).code == 0
    assert await projected.position("orders") == await projected.store.stream_version("$all")


async def test_what_is_discarded_while_a_rebuild_runs_stays_discarded(projected: ReadSide):
    await projected.execute(
        """
        insert into waybill.parked (subscriber, position, stream_id, event_id, event_type, state, reason, attempts)
        values ('orders', 1, 'it', gen_random_uuid(), 'Order.OrderCreated', 'failed', 'it', 1)
        """
    )
    await projected.begin_slowly()
    await projected.execute(
        """
        insert into waybill.parked (subscriber, position, stream_id, event_id, event_type, state, reason, attempts)
        select 'orders_next', position, stream_id, event_id, event_type, state, reason, attempts from waybill.parked
        """,
        "update waybill.parked set state = 'discarded', discarded_at = clock_timestamp() where subscriber = 'orders'",
    )
    await projected.hurry()
    async with projecting(projected.store, *projected.urls):
        await eventually(projected.is_over, within=30)
    found = await rows(projected.read_store_url, "select subscriber, state from waybill.parked")
    assert found == [("orders", "discarded")]


async def test_an_audit_finds_nothing_wrong_while_a_rebuild_wants_to_switch(
    projected: ReadSide, monkeypatch: pytest.MonkeyPatch
):
    # In many ranges: what lies behind the first is looked at, too.
    monkeypatch.setattr("projections.verify._PAGE", 7)
    read_all, rebuilds = projected.store.read_all, list[asyncio.Task[Any]]()

    async def meanwhile(**what: Any) -> Any:
        if not rebuilds:
            rebuilds.append(asyncio.create_task(projected.waybill("projection", "rebuild", "orders")))
            # Time enough for all of it, if nothing kept it from switching.
            await asyncio.wait(rebuilds, timeout=3)
        return await read_all(**what)

    monkeypatch.setattr(projected.store, "read_all", meanwhile)
    assert await projected.findings() == []
    assert (await rebuilds[0]).code == 0
