"""Loading orders from a file: what a line wants, and what becomes of it at a gateway that is a dictionary."""

import asyncio
import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid4

import pytest

import loader
from domain.ids import shipment_id
from gateway_client import Failed, GatewayAway, Refused, Standing
from loader import BadLine, Load, NoLines, Plan, id_of_number, lines_of, parse
from support import eventually

ORDER = UUID("0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10")


def text(**members: Any) -> bytes:
    return json.dumps(members).encode()


# --- What a line wants


def test_a_line_gives_what_the_gateway_takes_and_nothing_else():
    line = parse(3, text(id=str(ORDER), order_number="1", business_partner="a@b.example", items=[], order_date="1996"))

    assert line.order_id == ORDER
    assert line.order == {"id": str(ORDER), "order_number": "1", "business_partner": "a@b.example", "items": []}


@pytest.mark.parametrize(
    ("members", "shipped"),
    [
        ({"shipped_date": "1996-07-16"}, True),
        ({"shipped_date": None}, False),
        ({"shipped_date": ""}, False),
        ({}, False),
    ],
)
def test_an_order_has_been_shipped_if_its_line_has_a_date_for_it(members, shipped):
    assert parse(1, text(order_number="1", **members)).shipped is shipped


@pytest.mark.parametrize("members", [{}, {"id": None}])
def test_an_order_without_an_id_gets_the_same_one_on_every_run(members):
    first, second = (parse(number, text(order_number="10248", **members)) for number in (1, 2))

    assert first.order_id == second.order_id == id_of_number("10248")
    assert first.order["id"] == str(first.order_id)
    assert id_of_number("10249") != first.order_id


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": nonsense}', "not JSON: "),
        (b'{"id": "1', "not JSON: "),
        (b"\xff\xfe", "not JSON: "),
        (b'{"quantity": NaN}', "not JSON: "),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (text(business_partner="a@b.example"), "needs an id, which is a UUID, or an order_number, which is a string"),
        (text(order_number=10248), "needs an id, which is a UUID, or an order_number, which is a string"),
        (text(id="10248", order_number="10248"), "needs an id, which is a UUID, or"),
    ],
)
def test_a_line_that_holds_no_order_says_why(line, reason):
    with pytest.raises(BadLine) as bad:
        parse(1, line)

    assert str(bad.value).startswith(reason)
    assert "\n" not in str(bad.value)


async def test_a_file_without_lines_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "_LONGEST_LINE", 1000)
    (tmp_path / "image.png").write_bytes(b"x" * 1001)

    with (tmp_path / "image.png").open("rb") as source, pytest.raises(NoLines, match="one order per line is wanted"):
        _ = [line async for line in lines_of(source)]


@pytest.fixture
def pipe() -> Generator[tuple[BinaryIO, BinaryIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        yield source, sink


async def test_a_pipe_is_read_line_by_line_while_others_go_on(pipe):
    source, sink = pipe
    lines = lines_of(source)
    sink.write(b"one\ntw")
    assert await anext(lines) == b"one\n"
    second = asyncio.create_task(anext(lines))
    await asyncio.sleep(0)
    assert not second.done()
    sink.write(b"o\n")
    assert await second == b"two\n"
    await lines.aclose()


# --- What becomes of it


@dataclass
class Orders:
    """Where orders stand; the gateway's client, as the load sees it."""

    standings: dict[UUID, Standing] = field(default_factory=dict)
    blocked: set[UUID] = field(default_factory=set)
    trouble: dict[UUID, Exception] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    lagging: bool = False
    """Whether the read model has yet to see everything."""
    under_way: int = 0
    most_at_once: int = 0
    gate: asyncio.Event | None = None

    async def standing(self, order_id: UUID) -> Standing | None:
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        await (self.gate.wait() if self.gate else asyncio.sleep(0))
        self.under_way -= 1
        if order_id in self.trouble:
            raise self.trouble[order_id]
        return None if self.lagging else self.standings.get(order_id)

    async def create(self, order: dict[str, Any], key: str) -> bool:
        self.keys.append(key)
        if order["order_number"] == "taken":
            raise Refused("order-number-taken", "Order number already exist")
        return self._move(UUID(order["id"]), None, Standing("OPEN"))

    async def complete(self, order_id: UUID, key: str) -> UUID | None:
        self.keys.append(key)
        if order_id in self.blocked:
            raise Refused("products-blocked", "Order contains blocked products")
        shipment = shipment_id(order_id)
        return shipment if self._move(order_id, "OPEN", Standing("COMPLETED", shipment)) else None

    async def ship(self, shipment: UUID, key: str) -> bool:
        self.keys.append(key)
        order_id = next(each for each in self.standings if shipment_id(each) == shipment)
        return self._move(order_id, "COMPLETED", Standing("SHIPPED", shipment))

    def _move(self, order_id: UUID, before: str | None, after: Standing) -> bool:
        current = self.standings.get(order_id)
        if (current and current.status) != before:
            return False
        self.standings[order_id] = after
        return True


def a_load(orders: Any, tell: Callable[[str], None] = print, **plan: Any) -> Load:
    return Load(orders, Plan(**plan), tell, lambda _counts, _size: None)


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def loading(orders: Orders, tmp_path: Path) -> Callable[..., Any]:
    """Loads lines, and gives the load with what it told."""

    async def load(*lines: bytes, **plan: Any) -> tuple[Load, list[str]]:
        told: list[str] = []
        (tmp_path / "orders.jsonl").write_bytes(b"\n".join(lines))
        run = a_load(orders, told.append, **plan)
        with (tmp_path / "orders.jsonl").open("rb") as source:
            await run.run(source)
        return run, told

    return load


def order(number: int, **more: Any) -> bytes:
    return text(order_number=f"N-{number}", **more)


async def test_orders_are_only_created_unless_more_is_asked_for(orders, loading):
    run, _ = await loading(order(1, shipped_date="1996-07-16"), order(2))

    assert (run.counts.created, run.counts.completed, run.counts.shipped) == (2, 0, 0)
    assert {standing.status for standing in orders.standings.values()} == {"OPEN"}


async def test_only_orders_with_a_shipped_date_are_shipped(loading):
    run, _ = await loading(order(1, shipped_date="1996-07-16"), order(2), complete=True, ship=True)

    assert (run.counts.created, run.counts.completed, run.counts.shipped) == (2, 2, 1)


async def test_a_second_run_does_nothing_and_says_what_was_there(orders, loading):
    lines = [order(number, shipped_date="1996-07-16") for number in range(5)]
    await loading(*lines, complete=True, ship=True)
    orders.keys.clear()

    run, _ = await loading(*lines, complete=True, ship=True)

    counts = run.counts
    assert (counts.created, counts.completed, counts.shipped) == (0, 0, 0)
    assert (counts.already_there, counts.already_completed, counts.already_shipped) == (5, 5, 5)
    assert orders.keys == []


async def test_a_second_run_does_what_the_first_has_not_come_to(orders, loading):
    shipped = {"shipped_date": "1996-07-16"}
    await loading(order(1, **shipped))
    await loading(order(2, **shipped), complete=True)

    run, _ = await loading(order(1, **shipped), order(2, **shipped), order(3, **shipped), complete=True, ship=True)

    counts = run.counts
    assert (counts.created, counts.already_there) == (1, 2)
    assert (counts.completed, counts.already_completed) == (2, 1)
    assert (counts.shipped, counts.already_shipped) == (3, 0)


async def test_orders_that_are_completed_can_be_shipped_without_completing_others(loading):
    shipped = {"shipped_date": "1996-07-16"}
    await loading(order(1, **shipped), complete=True)

    run, _ = await loading(order(1, **shipped), order(2, **shipped), ship=True)

    assert (run.counts.completed, run.counts.shipped) == (0, 1)


async def test_what_the_read_model_has_not_seen_yet_is_not_done_twice(orders, loading):
    lines = [order(number, shipped_date="1996-07-16") for number in range(3)]
    await loading(*lines, complete=True, ship=True)
    orders.lagging = True

    run, _ = await loading(*lines, complete=True, ship=True)

    counts = run.counts
    assert (counts.created, counts.completed, counts.shipped) == (0, 0, 0)
    assert (counts.already_there, counts.already_completed, counts.already_shipped) == (3, 3, 3)


async def test_a_refused_completion_is_counted_and_done_once_nothing_is_in_its_way(orders, loading):
    line = order(1, shipped_date="1996-07-16")
    orders.blocked.add(id_of_number("N-1"))

    refused, told = await loading(line, complete=True, ship=True)
    assert refused.counts.refused == {"products-blocked": 1}
    assert (refused.counts.created, refused.counts.shipped) == (1, 0)
    assert told == []

    orders.blocked.clear()
    run, _ = await loading(line, complete=True, ship=True)
    assert (run.counts.completed, run.counts.shipped, run.counts.refused.total()) == (1, 1, 0)
    assert len(set(orders.keys)) == len(orders.keys)


async def test_an_order_that_may_not_be_created_is_counted_and_its_line_named(loading):
    run, told = await loading(order(1), text(order_number="taken"), complete=True)

    assert run.counts.refused == {"order-number-taken": 1}
    assert (run.counts.created, run.counts.completed) == (1, 1)
    assert told == ["line 2: order-number-taken: Order number already exist"]


async def test_a_bad_line_is_named_and_the_others_go_on(loading):
    run, told = await loading(b"nonsense", b"", order(1), b"   ", b"[]")

    assert (run.counts.created, run.counts.bad_lines, run.counts.lines) == (1, 2, 3)
    assert [message.partition(":")[0] for message in sorted(told)] == ["line 1", "line 5"]


async def test_a_line_that_fails_is_named_and_the_others_go_on(orders, loading):
    orders.trouble[id_of_number("N-1")] = Failed("POST /orders was answered 500 internal-error")

    run, told = await loading(order(1), order(2))

    assert (run.counts.created, run.counts.failed) == (1, 1)
    assert told == ["line 1: POST /orders was answered 500 internal-error"]


async def test_the_load_stops_when_the_gateway_is_away(orders, loading):
    orders.trouble[id_of_number("N-5")] = GatewayAway("the gateway has done nothing for 60 s")

    with pytest.raises(GatewayAway):
        await loading(*map(order, range(100)), concurrency=2)

    assert len(orders.standings) < 10


async def test_the_same_order_on_two_lines_is_one_order(loading):
    run, _ = await loading(*[text(id=str(ORDER), order_number="1")] * 2, complete=True)

    assert (run.counts.created, run.counts.already_there) == (1, 1)
    assert (run.counts.completed, run.counts.already_completed) == (1, 1)


async def test_no_more_orders_are_under_way_than_asked_for(orders, loading):
    await loading(*map(order, range(50)), concurrency=3)

    assert orders.most_at_once == 3


async def test_an_end_lets_what_is_under_way_come_to_its_end_and_begins_nothing_else(orders, tmp_path):
    orders.gate = asyncio.Event()
    run = a_load(orders, concurrency=4)
    (tmp_path / "orders.jsonl").write_bytes(b"\n".join(map(order, range(100))))
    with (tmp_path / "orders.jsonl").open("rb") as source:
        running = asyncio.create_task(run.run(source))
        await eventually(lambda: orders.under_way == 4)

        run.end()
        orders.gate.set()
        await running

    assert run.counts.created == run.counts.lines == len(orders.standings) == 4
    assert run.cut_short


async def test_a_load_that_is_through_was_not_cut_short(loading):
    run, _ = await loading(order(1))
    run.end()

    assert not run.cut_short


def test_the_keys_of_two_runs_differ():
    line = parse(1, text(id=str(uuid4())))
    first, second = (a_load(Orders())._key(line, "create") for _ in range(2))

    assert first != second
