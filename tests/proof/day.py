"""A short day at Waybill: what a few customers asked for, and a small database in which just that has happened.

The checks have nothing against it, until a test plants something.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import eventstore.migrate
import projections.migrate
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, NewEvent
from projecting import caught_up, projecting
from proof.checks import Case, command_id, first_event_id
from proof.evidence import TOO_SLOW, Run, connected, gather
from proof.journal import Call

if TYPE_CHECKING:
    from proof.evidence import Connection

ORDER, DELETED, LATER = (str(UUID(int=n, version=4)) for n in (1, 2, 3))
SHIPMENT = str(uuid5(UUID(ORDER), "shipment"))
PRODUCT = str(UUID(int=9, version=4))
_ITEM = {"product_id": PRODUCT, "quantity": 1.5, "uom": "KG"}
_OTHER_ITEM = {"product_id": PRODUCT, "quantity": 2, "uom": "MT"}


def _order(order_id: str, number: str) -> dict[str, Any]:
    return {
        "id": order_id,
        "order_number": number,
        "business_partner": "ada@example.com",
        "items": [_ITEM, _OTHER_ITEM],
    }


@dataclass(frozen=True)
class _Fact:
    """An event, and the request that it comes from."""

    call: int
    key: str | None
    stream: str
    type: str
    data: dict[str, Any]
    confirm: Sequence[Claim] = ()
    release: Sequence[Claim] = ()

    @property
    def id(self) -> UUID:
        return first_event_id(self.key or f"call-{self.call}")

    @property
    def metadata(self) -> dict[str, str]:
        return {"command_id": str(command_id(self.key or f"call-{self.call}")), "request_id": f"call-{self.call}"}


def _number(number: str, order: str) -> Sequence[Claim]:
    return [Claim("order_number", number, UUID(order))]


FACTS = (
    _Fact(1, "create", ORDER, "Order.OrderCreated", _order(ORDER, "N-1"), confirm=_number("N-1", ORDER)),
    _Fact(2, "add", ORDER, "Order.OrderItemAdded", {"id": ORDER, **_ITEM}),
    _Fact(6, "complete", ORDER, "Order.OrderCompleted", {"id": ORDER}),
    _Fact(0, None, SHIPMENT, "Shipment.ShipmentCreated", {"id": SHIPMENT, "order_id": ORDER}),
    _Fact(8, "ship", SHIPMENT, "Shipment.ShipmentCompleted", {"id": SHIPMENT}),
    _Fact(9, "second", DELETED, "Order.OrderCreated", _order(DELETED, "N-2"), confirm=_number("N-2", DELETED)),
    _Fact(11, "delete", DELETED, "Order.OrderDeleted", {"id": DELETED}, release=_number("N-2", DELETED)),
    _Fact(12, "third", LATER, "Order.OrderCreated", _order(LATER, "N-2"), confirm=_number("N-2", LATER)),
    _Fact(13, None, LATER, "Order.OrderItemAdded", {"id": LATER, **_ITEM}),
)


def calls() -> list[Call]:
    """What was asked for, and what the answers were."""

    def refused(code: str) -> dict[str, Any]:
        return {"code": code}

    def done(path_id: str, version: int, position: int) -> dict[str, Any]:
        return {"id": path_id, "version": version, "position": position}

    first, blocked = f"/orders/{ORDER}", f"/blocked-products/{PRODUCT}"
    asked: list[tuple[str, str, Any, str | None, int, Any]] = [
        ("POST", "/orders", _order(ORDER, "N-1"), "create", 201, done(ORDER, 1, 1)),
        ("POST", f"{first}/items", _ITEM, "add", 200, done(ORDER, 2, 2)),
        ("PUT", blocked, None, "block", 204, None),
        ("POST", f"{first}/complete", None, "too early", 409, refused("products-blocked")),
        ("DELETE", blocked, None, "unblock", 204, None),
        ("POST", f"{first}/complete", None, "complete", 200, done(ORDER, 3, 3)),
        ("GET", first, None, None, 200, done(ORDER, 3, 1)),
        ("POST", f"/shipments/{SHIPMENT}/complete", None, "ship", 200, done(SHIPMENT, 2, 5)),
        ("POST", "/orders", _order(DELETED, "N-2"), "second", 201, done(DELETED, 1, 6)),
        ("POST", "/orders", _order(str(UUID(int=4, version=4)), "N-2"), "loser", 409, refused("order-number-taken")),
        ("DELETE", f"/orders/{DELETED}", None, "delete", 204, None),
        ("POST", "/orders", _order(LATER, "N-2"), "third", 201, done(LATER, 1, 8)),
        ("POST", f"/orders/{LATER}/items", _ITEM, None, 200, done(LATER, 2, 9)),
        ("POST", "/orders", _order(ORDER, "N-1"), "create", 201, done(ORDER, 1, 1)),
        ("POST", "/orders", _order(LATER, "N-3"), "create", 422, refused("idempotency-key-reused")),
    ]
    return [
        Call(
            number,
            method,
            path,
            body,
            key,
            began=number,
            ended=number + 0.5,
            status=status,
            answer=answer,
            at_least=3 * (method == "GET"),
        )
        for number, (method, path, body, key, status, answer) in enumerate(asked, 1)
    ]


async def fill(url: str) -> list[str]:
    """Both stores in one database, with all that has happened, and the projections' rows of it."""
    applied = [*await eventstore.migrate.migrate(url), *await projections.migrate.migrate(url)]
    async with PostgresStore.open(url, 1) as store:
        for fact in FACTS:
            await _append(store, fact)
        async with projecting(store, url, url):
            await caught_up(store, url, within=60)
    async with connected(url) as connection:
        await connection.execute("""
            insert into subscriptions (stream_uuid, subscription_name, last_seen)
            select '$all', name, stream_version
            from unnest('{stream_linker, shipment}'::text[]) as name, streams
            where stream_id = 0
        """)
    return applied


async def _append(store: PostgresStore, fact: _Fact) -> None:
    for claim in fact.confirm:
        await store.reserve(claim, command_id(fact.key or ""), lease_seconds=60)
    cause, event = None, fact.id
    if fact.type == "Shipment.ShipmentCreated":
        cause = first_event_id("complete")
        event = uuid5(uuid5(cause, "CreateShipment"), "0")
    data, metadata = json.dumps(fact.data).encode(), json.dumps(fact.metadata).encode()
    new = NewEvent(event, fact.type, data, metadata, cause)
    await store.append(Append(fact.stream, "any", [new], confirm=fact.confirm, release=fact.release))


@dataclass
class Day:
    """The day, as a test may spoil it: in a transaction that is rolled back afterwards."""

    connection: "Connection"
    calls: list[Call] = field(default_factory=calls)
    listed: dict[UUID, tuple[str, int]] = field(
        default_factory=lambda: {UUID(ORDER): ("SHIPPED", 3), UUID(LATER): ("OPEN", 2)}
    )
    runs: list[Run] = field(
        default_factory=lambda: [
            Run(f"order-{ORDER}", "COMPLETED"),
            Run(f"order-{DELETED}", "COMPLETED"),
            Run(f"order-{LATER}", "RUNNING", failures=["WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND", TOO_SLOW]),
        ]
    )

    async def sql(self, statement: str, *arguments: object) -> None:
        """What nobody should ever do: the guards are off."""
        for table in ("events", "stream_events", "streams"):
            await self.connection.execute(f"alter table {table} disable trigger user")
        await self.connection.execute(statement, *arguments)

    async def happens(self, stream: str, kind: str, data: dict[str, Any]) -> None:
        """One more event, which nobody has asked for."""
        statement = """
            with own as (
              update streams set stream_version = stream_version + 1 where stream_uuid = $1
              returning stream_id, stream_version
            ), whole as (
              update streams set stream_version = stream_version + 1 where stream_id = 0 returning stream_version
            ), event as (
              insert into events (event_id, event_type, data, metadata)
              values (gen_random_uuid(), $2, convert_to($3, 'UTF8'), '{}') returning event_id
            )
            insert into stream_events (
              event_id, stream_id, stream_version, original_stream_id, original_stream_version
            )
            select event_id, stream_id, stream_version, stream_id, stream_version from event, own
            union all
            select event_id, 0, whole.stream_version, stream_id, own.stream_version from event, own, whole
        """
        await self.sql(statement, stream, kind, json.dumps(data))

    async def case(self) -> Case:
        """All that is known of it."""
        evidence = await gather(self.connection, self.connection)
        evidence.listed, evidence.runs = self.listed, self.runs
        return Case(self.calls, evidence)
