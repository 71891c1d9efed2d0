"""Code of several versions of a read model runs side by side, each with rows of its own, without anybody's doing."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

import projections.verify
from domain.order import OrderCreated
from eventstore.migrate import migrating
from eventstore.postgres import PostgresStore
from projecting import append, append_all, created, projecting, rows, whole_life
from projections import builds
from projections.migrate import migrate
from projections.orders import ORDERS
from projections.projection import Happened, Projection
from projections.queries import ReadStore
from support import eventually


def of_version(version: int) -> Projection:
    """Orders as code of another version has them: with a column that only it knows, and fills."""
    column = f"made_by_{version}"

    async def apply(connection: Any, batch: Sequence[Happened]) -> None:
        await ORDERS.apply(connection, batch)
        await connection.execute(f"update orders set {column} = version where {column} is distinct from version")

    end_of_orders = "  updated_at timestamptz not null\n);\ncomment on column orders.version"
    assert end_of_orders in ORDERS.tables
    tables = ORDERS.tables.replace(end_of_orders, end_of_orders.replace("\n);", f",\n  {column} bigint\n);"))
    return replace(ORDERS, version=version, tables=tables, apply=apply)


V1, V2, V3 = ORDERS, of_version(2), of_version(3)


@dataclass
class ReadSide:
    """Both stores, and what code of one version sees of them."""

    event_store_url: str
    read_store_url: str
    store: PostgresStore
    resources: AsyncExitStack

    def run(self, version: Projection, **options: Any) -> Any:
        urls = (self.event_store_url, self.read_store_url)
        options = {"name": f"v{version.version}"} | options
        return projecting(self.store, *urls, projections=[version], **options)

    async def reader(self, version: Projection) -> "Reader":
        opened = ReadStore.open(self.read_store_url, 1, [version])
        return Reader(self, version, await self.resources.enter_async_context(opened))

    async def stages(self) -> dict[int, str]:
        found = await rows(
            self.read_store_url, "select version, stage from waybill.projections where projection = 'orders'"
        )
        return dict(found)


@dataclass
class Reader:
    side: ReadSide
    version: Projection
    read_store: ReadStore

    async def sees_all(self) -> bool:
        head = await self.side.store.stream_version("$all")
        return (await self.read_store.positions()).get("orders") == head

    async def shows(self, order_id: UUID) -> str | None:
        await eventually(self.sees_all, within=20)
        found = await self.read_store.order(order_id)
        if found and (number := self.version.version) > 1:
            # It is its own row, and no other's that happens to look alike.
            made_by = f"select made_by_{number} from orders where id = $1"
            assert await self.read_store.pool.fetchval(made_by, order_id) == found[0].version
        return found[0].status if found else None

    async def findings(self) -> list[str]:
        side = self.side
        found = await projections.verify.verify(side.read_store_url, side.store, lambda *_: None, [self.version])
        return [finding.text for finding in found]


@pytest.fixture
async def read_side(event_store_url: str, read_store_url: str) -> AsyncGenerator[ReadSide]:
    async with AsyncExitStack() as resources:
        store = await resources.enter_async_context(PostgresStore.open(event_store_url, pool_size=4))
        yield ReadSide(event_store_url, read_store_url, store, resources)


async def live_an_order(read_side: ReadSide) -> UUID:
    order_id = uuid4()
    await append_all(read_side.store, whole_life(order_id))
    return order_id


async def test_during_a_deploy_old_and_new_code_have_their_own_rows_and_both_are_kept_up_to_date(read_side: ReadSide):
    old, new = await read_side.reader(V1), await read_side.reader(V2)
    async with read_side.run(V1):
        before = await live_an_order(read_side)
        assert await old.shows(before) == "SHIPPED"
        # Rows of another version are not those that it waits for.
        assert await new.read_store.positions() == {}
        assert await new.findings() == ["orders: no rows of version 2 yet"]

        async with read_side.run(V2):
            assert await new.shows(before) == "SHIPPED"
            during = await live_an_order(read_side)
            for reader in (old, new):
                assert await reader.shows(before) == await reader.shows(during) == "SHIPPED"
                assert await reader.findings() == []
            assert await read_side.stages() == {1: "retired", 2: "live"}


async def test_a_reader_of_the_old_version_sees_nothing_of_the_switch(read_side: ReadSide):
    old = await read_side.reader(V1)
    async with read_side.run(V1):
        orders = [await live_an_order(read_side)]
        await eventually(old.sees_all, within=20)
        async with read_side.run(V2):
            last = 0
            while (await read_side.stages()).get(2) != "live":
                position = (await old.read_store.positions())["orders"]
                assert position >= last
                last = position
                found = await old.read_store.order(orders[0])
                assert found
                assert found[0].status == "SHIPPED"
            assert await old.shows(await live_an_order(read_side)) == "SHIPPED"


async def test_after_a_roll_back_the_old_rows_are_there_at_once_and_brought_up_to_date(read_side: ReadSide):
    old = await read_side.reader(V1)
    async with read_side.run(V1):
        before = await live_an_order(read_side)
        await eventually(old.sees_all, within=20)
    async with read_side.run(V2):
        new = await read_side.reader(V2)
        meanwhile = await live_an_order(read_side)
        assert await new.shows(meanwhile) == "SHIPPED"
        assert await old.read_store.order(before)
    async with read_side.run(V1):
        assert await old.shows(meanwhile) == "SHIPPED"
        assert await old.findings() == []
        assert await read_side.stages() == {1: "retired", 2: "live"}


async def test_a_roll_back_after_the_old_rows_are_gone_builds_them_anew(read_side: ReadSide):
    async with read_side.run(V1):
        order_id = await live_an_order(read_side)
    async with read_side.run(V2):
        assert await (await read_side.reader(V2)).shows(order_id) == "SHIPPED"
        # Nobody has run version 1 for an hour.
        await rows(
            read_side.read_store_url,
            "update waybill.projections set lease_until = now() - interval '61 minutes' where version = 1",
        )

        async def is_forgotten() -> bool:
            return await read_side.stages() == {2: "live"}

        await eventually(is_forgotten)
        assert await rows(read_side.read_store_url, "select to_regnamespace('orders_v1')::text") == [(None,)]
    async with read_side.run(V1):
        old = await read_side.reader(V1)
        assert await old.shows(order_id) == "SHIPPED"
        assert await read_side.stages() == {1: "live", 2: "retired"}


async def test_a_retired_build_that_somebody_runs_is_kept_however_old_it_is(read_side: ReadSide):
    async with read_side.run(V1), read_side.run(V2):
        old = await read_side.reader(V1)
        await eventually(old.sees_all, within=20)
        await rows(read_side.read_store_url, "update waybill.projections set started_at = now() - interval '1 day'")
        assert await old.shows(await live_an_order(read_side)) == "SHIPPED"
        assert set(await read_side.stages()) == {1, 2}


async def test_a_rebuild_of_the_version_that_was_rolled_back_to_makes_it_the_live_one(read_side: ReadSide):
    order_id = await live_an_order(read_side)
    async with read_side.run(V2):
        assert await (await read_side.reader(V2)).shows(order_id) == "SHIPPED"
    async with read_side.run(V1):
        old = await read_side.reader(V1)
        assert await old.shows(order_id) == "SHIPPED"
        connection = await asyncpg.connect(read_side.read_store_url)
        await builds.rebuild(connection, V1)
        await connection.close()

        async def is_live() -> bool:
            return await read_side.stages() == {1: "live", 2: "retired"}

        await eventually(is_live, within=20)
        assert await old.shows(order_id) == await old.shows(await live_an_order(read_side)) == "SHIPPED"
        assert await old.findings() == []


async def test_what_an_abandoned_deploy_had_begun_makes_room_for_the_next_version(read_side: ReadSide):
    order_id = await live_an_order(read_side)
    connection = await asyncpg.connect(read_side.read_store_url)
    await builds.ensure(connection, V2)
    assert await read_side.stages() == {1: "live", 2: "next"}
    await connection.close()

    async with read_side.run(V3):
        assert await (await read_side.reader(V3)).shows(order_id) == "SHIPPED"
    assert await read_side.stages() == {1: "retired", 3: "live"}


async def test_of_many_workers_of_a_new_version_one_builds_it(read_side: ReadSide):
    order_id = await live_an_order(read_side)
    async with AsyncExitStack() as workers:
        for number in range(4):
            await workers.enter_async_context(read_side.run(V2, name=f"worker-{number}"))
        new = await read_side.reader(V2)
        assert await new.shows(order_id) == "SHIPPED"
        assert await new.findings() == []
    assert await read_side.stages() == {1: "retired", 2: "live"}


async def test_a_new_read_model_has_its_tables_by_a_migration_and_its_rows_by_a_worker(
    read_side: ReadSide, monkeypatch: pytest.MonkeyPatch
):
    async def apply(connection: Any, batch: Sequence[Happened]) -> None:
        await connection.executemany(
            "insert into numbers (taken_by, number) values ($1, $2)",
            [(it.aggregate_id, it.event.order_number) for it in batch if isinstance(it.event, OrderCreated)],
        )

    numbers = Projection(
        name="numbers",
        version=1,
        tables="create table numbers (\n  taken_by uuid primary key,\n  number text not null\n)",
        events=(OrderCreated,),
        apply=apply,
    )
    monkeypatch.setattr("projections.migrate.PROJECTIONS", (ORDERS, numbers))
    assert await migrate(read_side.read_store_url) == []
    await append(read_side.store, str(order_id := uuid4()), created(order_id, number="A-7"))

    async with read_side.run(numbers):

        async def is_there() -> bool:
            return await rows(read_side.read_store_url, "select * from numbers") == [(order_id, "A-7")]

        await eventually(is_there)


async def test_a_database_of_the_first_migration_goes_on_with_its_rows(read_side: ReadSide):
    async with read_side.run(V1):
        order_id = await live_an_order(read_side)
        assert await (await read_side.reader(V1)).shows(order_id) == "SHIPPED"
    async with migrating(read_side.read_store_url) as connection:
        await connection.execute(
            """
            alter table waybill.projections
              drop projection, drop stage, drop tables, drop rate, drop started_at;
            drop table waybill.parked;
            delete from waybill.migrations where name <> '0001_read_models';
            """
        )
    assert "0002_builds" in await migrate(read_side.read_store_url)

    async with read_side.run(V1):
        reader = await read_side.reader(V1)
        assert await reader.shows(order_id) == await reader.shows(await live_an_order(read_side)) == "SHIPPED"
        assert await reader.findings() == []
