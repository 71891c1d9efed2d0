"""`waybill verify` finds every fault that is planted, and none where there is none."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

import eventstore.verify
import projections.verify
from command_line import CommandLine
from domain.aggregates import Event
from domain.ids import shipment_id
from domain.order import OrderCompleted, OrderDeleted
from domain.shipment import ShipmentCompleted, ShipmentCreated
from eventstore.codec import encode
from eventstore.findings import KINDS
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, EventStore, NewEvent, Snapshot
from projecting import added, append, append_raw, caught_up, created, projecting, whole_life


@dataclass
class Stores:
    """Both stores with an order in each state, verified by what `waybill verify` runs."""

    event_store_url: str
    read_store_url: str
    store: EventStore
    open: UUID = field(default_factory=uuid4)
    completed: UUID = field(default_factory=uuid4)
    shipped: UUID = field(default_factory=uuid4)
    deleted: UUID = field(default_factory=uuid4)

    @property
    def shipment(self) -> UUID:
        """That of the completed order."""
        return shipment_id(self.completed)

    async def live(self) -> None:
        await self.create(self.open, "OPEN")
        await append(self.store, str(self.open), added(self.open), added(self.open))
        await self.create(self.completed, "COMPLETED")
        await append(self.store, str(self.completed), OrderCompleted(id=self.completed))
        await append(self.store, str(self.shipment), ShipmentCreated(id=self.shipment, order_id=self.completed))
        await self.create(self.shipped, "SHIPPED")
        for stream, event in whole_life(self.shipped)[1:]:
            await append(self.store, stream, event)
        await self.create(self.deleted, "DELETED")
        event = NewEvent(uuid4(), *encode(OrderDeleted(id=self.deleted)))
        claim = Claim("order_number", "DELETED", self.deleted)
        await self.store.append(Append(str(self.deleted), 1, [event], release=[claim]))
        async with projecting(self.store, self.event_store_url, self.read_store_url):
            await caught_up(self.store, self.read_store_url)

    async def create(self, order_id: UUID, number: str, *, claimed: bool = True) -> None:
        claims = [Claim("order_number", number, order_id)] if claimed else []
        for claim in claims:
            await self.store.reserve(claim, uuid4(), lease_seconds=60)
        event = NewEvent(uuid4(), *encode(created(order_id, items=2, number=number)))
        await self.store.append(Append(str(order_id), "no_stream", [event], confirm=claims))

    async def plant(self, *statements: str, read_store: bool = False) -> None:
        """Change the tables by hand, with the guards off. The orders' ids go by their names: {open}."""
        connection = await asyncpg.connect(self.read_store_url if read_store else self.event_store_url)
        try:
            if not read_store:
                for table in ("events", "stream_events", "streams"):
                    await connection.execute(f"alter table {table} disable trigger user")
            for statement in statements:
                await connection.execute(statement.format(**vars(self), shipment=self.shipment))
        finally:
            await connection.close()

    async def append(self, stream: UUID, event: Event) -> None:
        await append(self.store, str(stream), event)

    async def findings(self) -> set[tuple[str, str]]:
        found, _ = await eventstore.verify.verify(self.event_store_url, lambda *_: None)
        rows = await projections.verify.verify(self.read_store_url, self.store, lambda *_: None)
        assert {finding.kind for finding in (*found.findings, *rows)} <= set(KINDS)
        return {(finding.kind, finding.subject) for finding in (*found.findings, *rows)}

    async def event_id(self, stream: UUID, version: int) -> str:
        return str((await self.store.read_stream(str(stream), after=version - 1, limit=1))[0].event_id)


@pytest.fixture
async def stores(event_store_url: str, read_store_url: str) -> AsyncGenerator[Stores]:
    async with PostgresStore.open(event_store_url, 2) as store:
        stores = Stores(event_store_url, read_store_url, store)
        await stores.live()
        yield stores


async def test_nothing_is_wrong_with_stores_that_were_only_used(stores: Stores):
    assert await stores.findings() == set()


async def test_nothing_is_wrong_with_stores_that_nobody_has_used(event_store_url: str, read_store_url: str):
    async with PostgresStore.open(event_store_url, 1) as store:
        assert await Stores(event_store_url, read_store_url, store).findings() == set()


async def test_a_stream_that_was_removed_for_good_is_not_missed(stores: Stores):
    await stores.store.delete_stream(str(stores.open), hard=True)
    found, _ = await eventstore.verify.verify(stores.event_store_url, lambda *_: None)
    assert found.findings == []


async def test_an_event_of_a_type_that_nobody_knows_is_no_fault(stores: Stores):
    await append_raw(stores.store, "customer-1", "Customer.Registered", b"whatever")
    found, _ = await eventstore.verify.verify(stores.event_store_url, lambda *_: None)
    assert (found.findings, found.unknown_types) == ([], {"Customer.Registered": 1})


# --- The sequences

DROP = """
    with gone as (
        delete from stream_events using streams
        where streams.stream_id = stream_events.original_stream_id
          and stream_uuid = '{%s}' and original_stream_version = %d
        returning event_id
    ) select from gone
"""


async def test_a_dropped_event_leaves_a_hole_in_its_stream_and_in_the_global_sequence(stores: Stores):
    await stores.plant(
        DROP % ("open", 2), "delete from events where event_id not in (select event_id from stream_events)"
    )
    assert await stores.findings() >= {("hole", "$all 2-2"), ("hole", f"{stores.open} 2-2")}


async def test_the_last_event_is_missed_too(stores: Stores):
    await stores.plant(
        DROP % ("deleted", 2), "delete from events where event_id not in (select event_id from stream_events)"
    )
    assert await stores.findings() >= {("hole", "$all 13-13"), ("hole", f"{stores.deleted} 2-2")}


async def test_a_stream_that_goes_on_after_its_end_is_found(stores: Stores):
    await stores.plant("update streams set stream_version = 1 where stream_uuid = '{open}'")
    assert await stores.findings() == {("hole", f"{stores.open} 2-1")}


async def test_an_event_that_is_not_in_the_global_sequence_is_found(stores: Stores):
    lost = await stores.event_id(stores.open, 3)
    await stores.plant(f"delete from stream_events where stream_id = 0 and event_id = '{lost}'")
    found, _ = await eventstore.verify.verify(stores.event_store_url, lambda *_: None)
    assert {(finding.kind, finding.subject) for finding in found.findings} == {
        ("misplaced-event", lost),
        ("hole", "$all 3-3"),
    }


async def test_an_event_that_is_in_no_stream_is_found(stores: Stores):
    lost = await stores.event_id(stores.deleted, 2)
    await stores.plant(f"delete from stream_events where stream_id <> 0 and event_id = '{lost}'")
    assert {("misplaced-event", lost), ("hole", f"{stores.deleted} 2-2")} <= await stores.findings()


async def test_a_pair_that_was_swapped_in_its_stream_is_found(stores: Stores):
    second, third = await stores.event_id(stores.open, 2), await stores.event_id(stores.open, 3)
    # Both are items: no state forbids their order.
    await stores.plant(
        f"update stream_events set stream_version = -1 where event_id = '{second}' and stream_id <> 0",
        f"update stream_events set stream_version = 2 where event_id = '{third}' and stream_id <> 0",
        f"update stream_events set stream_version = 3 where event_id = '{second}' and stream_id <> 0",
        """
        update stream_events as global set original_stream_version = own.stream_version from stream_events as own
        where own.event_id = global.event_id and own.stream_id = global.original_stream_id
        """,
    )
    assert ("out-of-order", second) in await stores.findings()


async def test_a_pair_that_was_swapped_in_the_global_sequence_is_found(stores: Stores):
    second, third = await stores.event_id(stores.open, 2), await stores.event_id(stores.open, 3)
    await stores.plant(
        f"update stream_events set stream_version = -1 where event_id = '{second}' and stream_id = 0",
        f"update stream_events set stream_version = 2 where event_id = '{third}' and stream_id = 0",
        f"update stream_events set stream_version = 3 where event_id = '{second}' and stream_id = 0",
    )
    assert ("out-of-order", third) in await stores.findings()


# --- Events that the domain wouldn't have let happen


async def test_an_event_that_came_twice_is_found(stores: Stores):
    await stores.append(stores.completed, OrderCompleted(id=stores.completed))
    assert await stores.findings() == {("illegal-event", await stores.event_id(stores.completed, 3))}


async def test_an_item_after_the_completion_is_found(stores: Stores):
    await stores.append(stores.completed, added(stores.completed))
    assert await stores.findings() == {("illegal-event", await stores.event_id(stores.completed, 3))}


async def test_an_event_of_an_order_that_never_was_is_found(stores: Stores):
    nobody = uuid4()
    await stores.append(nobody, OrderDeleted(id=nobody))
    assert await stores.findings() == {("never-existed", await stores.event_id(nobody, 1))}


async def test_an_event_in_a_stream_of_the_other_kind_is_found(stores: Stores):
    await stores.append(stores.open, ShipmentCompleted(id=stores.open))
    assert await stores.findings() == {("illegal-event", await stores.event_id(stores.open, 4))}


async def test_an_event_that_names_another_order_is_found(stores: Stores):
    await stores.append(stores.open, added(stores.completed))
    assert await stores.findings() == {("names-another", await stores.event_id(stores.open, 4))}


async def test_an_event_that_cannot_be_read_is_found(stores: Stores):
    await append_raw(stores.store, str(stores.open), "Order.OrderCompleted", b"{}")
    assert await stores.findings() == {("undecodable-event", await stores.event_id(stores.open, 4))}


async def test_a_snapshot_that_says_something_else_is_found(stores: Stores):
    state = {"id": str(stores.open), "order_number": "ANOTHER", "business_partner": "x", "status": "OPEN"}
    metadata = b'{"snapshot_module_version": 1}'
    snapshot = Snapshot(str(stores.open), 2, "Order.Aggregate.Order", orjson.dumps(state), metadata)
    await stores.store.record_snapshot(snapshot)
    assert await stores.findings() == {("wrong-snapshot", str(stores.open))}


# --- Orders, their shipments and their claims


async def test_a_completed_order_without_a_shipment_is_found(stores: Stores):
    await stores.append(stores.open, OrderCompleted(id=stores.open))
    await stores.plant("update events set created_at = created_at - interval '1 minute'")
    assert ("no-shipment", str(stores.open)) in await stores.findings()


async def test_a_shipment_that_is_just_coming_is_waited_for(stores: Stores):
    await stores.append(stores.open, OrderCompleted(id=stores.open))
    seen, shipment = asyncio.Event(), shipment_id(stores.open)
    looking = asyncio.create_task(eventstore.verify.verify(stores.event_store_url, lambda *_: seen.set()))
    await seen.wait()
    await stores.append(shipment, ShipmentCreated(id=shipment, order_id=stores.open))
    found, _ = await looking
    assert found.findings == []
    assert [unshipped.order_id for unshipped in found.unshipped] == [stores.open]


async def test_a_second_shipment_is_found(stores: Stores):
    another = uuid4()
    await stores.append(another, ShipmentCreated(id=another, order_id=stores.completed))
    assert await stores.findings() == {("several-shipments", str(another))}


async def test_a_shipment_of_an_open_order_and_one_of_no_order_are_found(stores: Stores):
    of_open, of_none = shipment_id(stores.open), shipment_id(nobody := uuid4())
    await stores.append(of_open, ShipmentCreated(id=of_open, order_id=stores.open))
    await stores.append(of_none, ShipmentCreated(id=of_none, order_id=nobody))
    assert await stores.findings() == {("astray-shipment", str(of_open)), ("astray-shipment", str(of_none))}


async def test_a_shipment_with_an_id_that_nobody_can_know_is_found(stores: Stores):
    made_up = uuid4()
    await stores.append(stores.open, OrderCompleted(id=stores.open))
    await stores.append(made_up, ShipmentCreated(id=made_up, order_id=stores.open))
    assert await stores.findings() == {("missing-claim", str(made_up))}


@pytest.mark.parametrize("owner", ["deleted", "shipment", "open"])
async def test_a_claim_whose_owner_does_not_live_by_it_is_found(stores: Stores, owner: str):
    columns = "(kind, key, owner, command_id)"
    await stores.plant(f"insert into waybill.claims {columns} values ('order_number', 'X', '{{{owner}}}', '{{open}}')")
    assert await stores.findings() == {("idle-claim", "order_number X")}


async def test_a_number_that_is_only_reserved_is_no_claim_yet(stores: Stores):
    await stores.store.reserve(Claim("order_number", "X", uuid4()), uuid4(), lease_seconds=60)
    assert await stores.findings() == set()


async def test_an_order_without_its_claim_is_found(stores: Stores):
    await stores.plant("delete from waybill.claims where owner = '{open}'")
    assert await stores.findings() == {("missing-claim", str(stores.open))}


async def test_a_number_that_two_orders_live_by_is_found(stores: Stores):
    second = uuid4()
    await stores.create(second, "OPEN", claimed=False)
    assert await stores.findings() == {("number-taken-twice", str(second))}


# --- The read models


async def test_a_wrong_row_is_found_with_what_is_wrong_about_it(stores: Stores):
    await stores.plant("update orders set status = 'SHIPPED', version = 9 where id = '{open}'", read_store=True)
    (finding,) = await projections.verify.verify(stores.read_store_url, stores.store, lambda *_: None)
    assert (finding.kind, finding.subject) == ("wrong-row", f"orders {stores.open}")
    assert finding.text == f"orders {stores.open}: status is SHIPPED, not OPEN; version is 9, not 3"


async def test_missing_rows_are_found(stores: Stores):
    await stores.plant(
        "delete from orders where id = '{open}'",
        "delete from shipments where order_id = '{completed}'",
        read_store=True,
    )
    assert await stores.findings() == {
        ("missing-row", f"orders {stores.open}"),
        ("missing-row", f"shipments {stores.shipment}"),
    }


async def test_a_doubled_item_is_found(stores: Stores):
    doubled = uuid4()
    await stores.plant(
        f"""
        insert into order_items
        select '{doubled}', order_id, 99, product_id, quantity, uom, inserted_at, updated_at
        from order_items where order_id = '{{open}}' and line = 0
        """,
        read_store=True,
    )
    assert await stores.findings() == {("surplus-row", f"order_items {doubled}")}


async def test_rows_of_a_deleted_order_are_found(stores: Stores):
    await stores.plant(
        """
        insert into orders
        select '{deleted}', 'DELETED', business_partner, status, 1, null, null, 11, inserted_at, updated_at
        from orders where id = '{open}'
        """,
        read_store=True,
    )
    assert await stores.findings() == {("surplus-row", f"orders {stores.deleted}")}


async def test_a_projection_that_lags_is_not_wrong(stores: Stores):
    await stores.create(uuid4(), "LATER")
    assert await stores.findings() == set()


async def test_a_projection_that_has_seen_more_than_there_is_is_found(stores: Stores):
    await stores.plant(
        "update projection_versions set last_seen_event_number = 99 where projection_name = 'orders'", read_store=True
    )
    assert await stores.findings() == {("projection-ahead", "orders")}


# --- The command


@pytest.fixture
def waybill(stores: Stores) -> Callable[..., Awaitable[Any]]:
    return CommandLine(
        {"WAYBILL_EVENT_STORE_URL": stores.event_store_url, "WAYBILL_READ_STORE_URL": stores.read_store_url}
    )


async def test_the_command_exits_with_0_when_all_is_well(waybill):
    told = await waybill("verify")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("All is well.\n  13 events in 6 streams, ")


async def test_the_command_exits_with_1_and_lists_what_is_wrong(stores: Stores, waybill):
    await stores.append(stores.completed, added(stores.completed))
    await stores.plant("delete from orders where id = '{open}'", read_store=True)

    told = await waybill("verify")
    assert told.code == 1
    assert told.out.startswith("2 things are wrong.")
    assert "Events that the state before them doesn't allow (1):" in told.out
    assert "Order already completed" in told.out
    assert f"orders {stores.open}" in told.out

    as_json = await waybill("verify", "--json")
    assert (as_json.code, as_json.json["ok"]) == (1, False)
    assert [finding["kind"] for finding in as_json.json["findings"]] == ["illegal-event", "missing-row"]
