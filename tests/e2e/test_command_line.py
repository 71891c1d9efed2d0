"""`waybill load`, `stream show` and `events tail` against a stack that runs; each command a process of its own."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

import eventstore.migrate
from command_line import CommandLine, ended
from databases import PrivateServer
from dev.record import Record
from dev.throwaway import stack
from domain.ids import shipment_id
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from support import eventually

SHIPPED = {"shipped_date": "1996-07-16"}
NOBODY = "postgresql://waybill@127.0.0.1:1/event_store"


@pytest.fixture(scope="module")
async def record() -> AsyncGenerator[Record]:
    """A stack for all tests here, which therefore use orders of their own."""
    async with stack() as running:
        yield running


@pytest.fixture(scope="module")
def waybill(record: Record) -> CommandLine:
    return CommandLine.to(record)


@pytest.fixture
async def gateway(record: Record) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=record.api_url, timeout=30) as client:
        yield client


def an_order(**more: Any) -> dict[str, Any]:
    item = {"product_id": str(uuid4()), "quantity": 1.5, "uom": "KG"}
    return {
        "id": str(uuid4()),
        "order_number": f"CL-{uuid4().hex[:12]}",
        "business_partner": "ada@example.com",
        "items": [item],
        **more,
    }


def without_id(order: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in order.items() if name != "id"}


def file_of(directory: Path, *lines: dict[str, Any] | str) -> str:
    path = directory / "orders.jsonl"
    path.write_bytes(lines_of(*lines))
    return str(path)


def lines_of(*lines: dict[str, Any] | str) -> bytes:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()


def count(counts: dict[str, Any], *names: str) -> list[int]:
    return [counts[name] for name in names]


# --- waybill load


async def test_a_load_says_what_has_become_of_the_orders(waybill, gateway, tmp_path):
    blocked = an_order(**SHIPPED)
    await gateway.put(f"/blocked-products/{blocked['items'][0]['product_id']}")
    orders = file_of(tmp_path, an_order(**SHIPPED), an_order(), blocked)

    first = await waybill("load", orders, "--complete", "--ship")
    second = await waybill("load", orders, "--complete", "--ship")

    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    assert first.out.splitlines()[0].startswith("3 lines in ")
    assert [line.split() for line in first.out.splitlines()[1:]] == [
        ["created", "3"],
        ["already", "there", "0"],
        ["completed", "2"],
        ["shipped", "1"],
        ["refused", "1", "products-blocked"],
    ]
    assert [line.split() for line in second.out.splitlines()[1:]] == [
        ["created", "0"],
        ["already", "there", "3"],
        ["completed", "0", "and", "2", "before"],
        ["shipped", "0", "and", "1", "before"],
        ["refused", "1", "products-blocked"],
    ]


async def test_an_order_whose_product_is_blocked_no_more_is_completed_and_shipped_by_the_next_load(
    waybill, gateway, tmp_path
):
    order = an_order(**SHIPPED)
    product = order["items"][0]["product_id"]
    await gateway.put(f"/blocked-products/{product}")
    load = ("load", file_of(tmp_path, order), "--complete", "--ship", "--json")
    assert (await waybill(*load)).json["refused"] == {"products-blocked": 1}

    await gateway.delete(f"/blocked-products/{product}")

    again = (await waybill(*load)).json
    assert count(again, "already_there", "completed", "shipped") == [1, 1, 1]
    assert again["refused"] == {}


async def test_orders_without_an_id_are_found_again_by_the_next_load(waybill, gateway):
    order = without_id(an_order())

    first, second = [(await waybill("load", "-", "--json", given=lines_of(order))).json for _ in range(2)]

    assert count(first, "created", "already_there") == [1, 0]
    assert count(second, "created", "already_there") == [0, 1]
    found = await gateway.get("/orders", params={"order_number": order["order_number"]})
    assert len(found.json()["items"]) == 1


async def test_what_the_domain_refuses_is_a_result_and_its_line_is_named(waybill):
    order = an_order()
    taken = {**an_order(), "order_number": order["order_number"]}
    wrong = an_order(business_partner="nobody")

    end = await waybill("load", "-", "--json", "--concurrency", "1", given=lines_of(order, taken, wrong))

    assert end.code == 0
    assert end.json["created"] == 1
    assert end.json["refused"] == {"order-number-taken": 1, "validation-failed": 1}
    assert end.err.splitlines() == [
        "line 2: order-number-taken: Order number already exist",
        "line 3: validation-failed: /business_partner must be a valid email",
    ]


async def test_bad_lines_are_named_and_the_others_are_loaded(waybill):
    given = lines_of("order", an_order(), "[]", "", an_order(), '{"business_partner": "ada@example.com"}')

    end = await waybill("load", "-", "--json", given=given)

    assert end.code == 1
    assert count(end.json, "lines", "created", "bad_lines", "failed") == [5, 2, 3, 0]
    assert sorted(end.err.splitlines()) == [
        "line 1: not JSON: unexpected character, expected a JSON value at column 1",
        "line 3: not a JSON object",
        "line 6: needs an id, which is a UUID, or an order_number, which is a string",
    ]


async def test_a_deleted_order_is_not_created_again(waybill, gateway, tmp_path):
    order = an_order()
    load = ("load", file_of(tmp_path, order), "--complete", "--json")
    await gateway.post("/orders", json=order)
    assert (await gateway.delete(f"/orders/{order['id']}")).status_code == 204

    counts = (await waybill(*load)).json

    assert count(counts, "created", "already_there", "completed") == [0, 1, 0]
    assert counts["refused"] == {"order-deleted": 1}


async def test_control_c_ends_the_load_with_what_is_under_way_and_the_next_one_goes_on(waybill, gateway):
    orders = [an_order() for _ in range(3)]

    async def created() -> bool:
        return all([(await gateway.get(f"/orders/{order['id']}")).is_success for order in orders[:2]])

    async with waybill.running("load", "-", "--complete") as load:
        assert load.stdin
        load.stdin.write(lines_of(*orders[:2]))
        await eventually(created)
        load.send_signal(signal.SIGINT)
        # Its standard input stays open: it must not wait for more.
        assert await asyncio.wait_for(load.wait(), 20) == 130
        stopped = await ended(load)

    assert "Stopped after 2 lines, interrupted: run it again to go on" in stopped.err
    assert ["created", "2"] in [line.split() for line in stopped.out.splitlines()]
    again = await waybill("load", "-", "--complete", "--json", given=lines_of(*orders))
    assert count(again.json, "created", "already_there") == [1, 2]
    assert count(again.json, "completed", "already_completed") == [1, 2]


async def test_a_gateway_that_is_not_there_is_told_in_one_line(waybill, tmp_path):
    end = await waybill("load", file_of(tmp_path, an_order()), "--api-url", "http://127.0.0.1:1")

    assert (end.code, end.out) == (1, "")
    assert end.err.startswith("Error: no gateway at http://127.0.0.1:1 (")
    assert end.err.count("\n") == 1


# --- waybill stream show


async def test_the_stream_of_an_order_and_that_of_its_shipment_tell_what_has_happened(waybill, gateway):
    order = an_order()
    shipment = shipment_id(UUID(order["id"]))
    await gateway.post("/orders", json=order)
    await gateway.post(f"/orders/{order['id']}/items", json=order["items"][0])
    await gateway.post(f"/orders/{order['id']}/complete")
    await gateway.post(f"/shipments/{shipment}/complete")

    of_order, of_shipment = [await waybill("stream", "show", id_) for id_ in (order["id"], str(shipment))]

    lines = of_order.out.splitlines()
    assert lines[0] == f"{order['id']}  3 events"
    assert [line.split()[1] for line in lines if "position" in line] == [
        "Order.OrderCreated",
        "Order.OrderItemAdded",
        "Order.OrderCompleted",
    ]
    assert f"      order_number {order['order_number']}" in lines
    assert f"        product_id {order['items'][0]['product_id']}, quantity 1.5, uom KG" in lines
    assert "CreateOrder by anonymous" in of_order.out
    assert f"order_id {order['id']}" in of_shipment.out
    assert [line.split()[1] for line in of_shipment.out.splitlines() if "position" in line] == [
        "Shipment.ShipmentCreated",
        "Shipment.ShipmentCompleted",
    ]


async def test_a_stream_as_json_is_what_the_gateway_shows_and_the_metadata(waybill, gateway):
    order = an_order()
    await gateway.post("/orders", json=order)

    (event,) = (await waybill("stream", "show", order["id"], "--json")).events

    metadata = event.pop("metadata")
    shown = await gateway.get(f"/orders/{order['id']}/events")
    assert [event] == shown.json()["items"]
    assert metadata["command"] == "CreateOrder"
    assert metadata["workflow_id"] == f"order-{order['id']}"


@pytest.mark.parametrize("unknown", ["0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10", "orders; drop table events"])
async def test_an_unknown_stream_is_told_in_one_line(waybill, unknown):
    end = await waybill("stream", "show", unknown)

    assert (end.code, end.out, end.err) == (1, "", f"Error: there is no stream {unknown}\n")


@pytest.mark.parametrize("command", [("stream", "show", "$all"), ("events", "tail")])
async def test_an_event_store_that_is_not_there_is_told_in_one_line(command):
    end = await CommandLine({"WAYBILL_EVENT_STORE_URL": NOBODY})(*command)

    assert (end.code, end.out) == (1, "")
    assert end.err.startswith("Error: ")
    assert end.err.count("\n") == 1


# --- waybill events tail


async def test_events_are_told_from_a_position_on(waybill, gateway):
    order = an_order()
    position = (await gateway.post("/orders", json=order)).json()["position"]
    await gateway.post(f"/orders/{order['id']}/complete")

    tail = await waybill("events", "tail", "--from", str(position), "--limit", "3")

    assert tail.code == 0
    assert [(line.split()[0], line.split()[3]) for line in tail.out.splitlines()] == [
        (str(position), "Order.OrderCreated"),
        (str(position + 1), "Order.OrderCompleted"),
        (str(position + 2), "Shipment.ShipmentCreated"),
    ]
    assert f"order_number {order['order_number']}, business_partner ada@example.com, items 1" in tail.out


async def test_only_events_of_the_types_that_were_asked_for_are_told(waybill, gateway):
    order = an_order()
    position = (await gateway.post("/orders", json=order)).json()["position"]
    await gateway.post(f"/orders/{order['id']}/complete")
    types = ("--type", "Order.OrderCompleted", "--type", "Shipment.ShipmentCreated")

    tail = await waybill("events", "tail", "--json", "--from", str(position), "--limit", "2", *types)

    assert [event["type"] for event in tail.events] == ["Order.OrderCompleted", "Shipment.ShipmentCreated"]


async def test_without_a_position_it_tells_what_happens_from_now_on_until_control_c(waybill, gateway):
    before, after = an_order(), an_order()
    await gateway.post("/orders", json=before)

    async with waybill.running("events", "tail", "--json") as tail:
        assert tail.stdout
        assert tail.stderr
        assert b"Ctrl-C ends" in await asyncio.wait_for(tail.stderr.readline(), 20)
        await gateway.post("/orders", json=after)
        first = json.loads(await asyncio.wait_for(tail.stdout.readline(), 20))
        tail.send_signal(signal.SIGINT)
        end = await ended(tail)

    assert first["stream_id"] == after["id"]
    assert (end.code, end.err) == (0, "")


async def test_a_reader_that_has_seen_enough_ends_it(waybill, gateway):
    await gateway.post("/orders", json=an_order())

    async with waybill.running("events", "tail", "--from", "1") as tail:
        assert tail.stdout
        await asyncio.wait_for(tail.stdout.readline(), 20)
        tail.stdout._transport.close()
        await gateway.post("/orders", json=an_order())
        end = await asyncio.wait_for(tail.wait(), 20)
        assert b"Traceback" not in await tail.stderr.read()

    assert end == 1


async def test_it_goes_on_when_the_event_store_is_back(private_postgres: PrivateServer):
    async with (
        private_postgres.empty(eventstore.migrate.migrate) as url,
        CommandLine({"WAYBILL_EVENT_STORE_URL": url}).running("events", "tail", "--json") as tail,
    ):
        assert tail.stdout
        assert tail.stderr
        await asyncio.wait_for(tail.stderr.readline(), 20)
        await private_postgres.kill()
        await private_postgres.start()
        async with PostgresStore.open(url, 1) as store:
            await store.append(Append("a-stream", "any", [NewEvent(uuid4(), "A.Thing", b"{}")]))
        told = json.loads(await asyncio.wait_for(tail.stdout.readline(), 30))
        tail.send_signal(signal.SIGINT)
        end = await ended(tail)

    assert (told["stream_id"], told["position"]) == ("a-stream", 1)
    assert end.code == 0
