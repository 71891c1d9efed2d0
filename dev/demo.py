"""`make demo`: a dozen orders over HTTP, on a stack that lives as long as the demo, and what became of them."""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any
from uuid import uuid4

import httpx2
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dev.errors import DevError
from dev.throwaway import stack

_SHIPPED = ("create", "complete", "ship")
_WITH_ANOTHER_ITEM = ("create", "add item", "complete", "ship")
_STORIES: Sequence[Sequence[str]] = (
    _SHIPPED,
    _SHIPPED,
    _WITH_ANOTHER_ITEM,
    _SHIPPED,
    ("create", "complete"),
    _SHIPPED,
    ("create", "block a product", "complete"),
    _WITH_ANOTHER_ITEM,
    _SHIPPED,
    ("create", "delete"),
    _SHIPPED,
    _SHIPPED,
)
_TOLD_IN_FULL = 2
_PARTNERS = ("ada@example.com", "grace@example.com", "barbara@example.com", "edsger@example.com")
_COLOURS = {"SHIPPED": "green", "COMPLETED": "yellow", "OPEN": "cyan", "deleted": "dim"}


@dataclass
class _Order:
    """An order, and how it went."""

    number: str
    partner: str
    items: list[dict[str, Any]]
    id: str = field(default_factory=lambda: str(uuid4()))
    shipment_id: str = ""
    steps: list[str] = field(default_factory=list)
    status: str = ""

    def request(self, step: str) -> tuple[str, str, Mapping[str, Any] | None]:
        """Method, path and body of a step."""
        match step:
            case "create":
                body = {"id": self.id, "order_number": self.number, "business_partner": self.partner}
                return "POST", "/orders", {**body, "items": self.items}
            case "add item":
                return "POST", f"/orders/{self.id}/items", _item(2.5)
            case "block a product":
                return "PUT", f"/blocked-products/{self.items[0]['product_id']}", None
            case "complete":
                return "POST", f"/orders/{self.id}/complete", None
            case "ship":
                return "POST", f"/shipments/{self.shipment_id}/complete", None
            case _:
                return "DELETE", f"/orders/{self.id}", None


class _Demo:
    """Sends orders one after the other, and measures every answer."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.orders = [
            _Order(f"SO-{1001 + n}", _PARTNERS[n % len(_PARTNERS)], [_item(n + 1) for _ in range(1 + n % 3)])
            for n in range(len(_STORIES))
        ]

    async def run(self) -> None:
        for order, story in zip(self.orders, _STORIES, strict=True):
            for step in story:
                await self._take(order, step)
            found = await self._http.get(f"/orders/{order.id}")
            order.status = found.json()["status"] if found.is_success else "deleted"

    async def _take(self, order: _Order, step: str) -> None:
        method, path, body = order.request(step)
        began = time.perf_counter()
        answer = await self._http.request(method, path, json=body)
        self.seconds[step].append(time.perf_counter() - began)
        if answer.is_success:
            order.steps.append(step)
        elif answer.status_code == 409:
            order.steps.append(f"{step}: [red]{answer.json()['code']}[/]")
        else:
            raise DevError(f"{method} {path} was answered {answer.status_code}: {answer.text}")
        if step == "complete" and answer.is_success:
            order.shipment_id = answer.json()["shipment_id"]

    async def timeline(self, order: _Order) -> list[dict[str, Any]]:
        """What happened to the order and to its shipment, in the order in which it was recorded."""
        of_order = (await self._http.get(f"/orders/{order.id}/events")).json()["items"]
        types = ["Shipment.ShipmentCreated", "Shipment.ShipmentCompleted"]
        of_shipments = (await self._http.get("/events", params={"type": types, "limit": 1000})).json()["items"]
        events = [*of_order, *(event for event in of_shipments if event["stream_id"] == order.shipment_id)]
        return sorted(events, key=lambda event: event["position"])


def _item(quantity: float) -> dict[str, Any]:
    return {"product_id": str(uuid4()), "quantity": quantity, "uom": "KG"}


async def demonstrate(console: Console) -> None:
    """Boot, drive, show. Raises DevError if the stack doesn't start, or answers what it shouldn't."""
    async with AsyncExitStack() as resources:
        began = time.monotonic()
        with console.status("Starting PostgreSQL, Temporal, a worker and the gateway ..."):
            record = await resources.enter_async_context(stack())
        console.print(f"\n[bold]PostgreSQL, Temporal, a worker and the gateway[/] after {_seconds(began)}")
        http = await resources.enter_async_context(httpx2.AsyncClient(base_url=record.api_url, timeout=60))
        demo = _Demo(http)
        began = time.monotonic()
        with console.status("Sending orders ..."):
            await demo.run()
        console.print(f"[bold]{len(demo.orders)} orders over HTTP[/], one after the other, in {_seconds(began)}\n")
        console.print(_orders(demo.orders))
        told = demo.orders[_TOLD_IN_FULL]
        console.print(f"[bold]The life of {told.number}[/]")
        console.print(_events(await demo.timeline(told)))
        console.print("[bold]What the answers took[/], the read models' view included")
        console.print(_timings(demo.seconds))
        console.print(f"[bold]Altogether[/]  {_totals(demo.orders)}\n")
        with console.status("Stopping ..."):
            await resources.aclose()
    console.print("Nothing of it is left. [bold]make dev[/] starts one that stays.")


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def _orders(orders: Sequence[_Order]) -> Table:
    table = _table("order", "partner", "items", "what was done", "status")
    for order in orders:
        items = len(order.items) + order.steps.count("add item")
        status = f"[{_COLOURS[order.status]}]{order.status}[/]"
        table.add_row(order.number, order.partner, str(items), ", ".join(order.steps), status)
    return table


def _events(events: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("after", "position", "event", "version", "")
    moments = [datetime.fromisoformat(event["created_at"]) for event in events]
    for event, moment in zip(events, moments, strict=True):
        after = f"{(moment - moments[0]).total_seconds() * 1000:.0f} ms"
        table.add_row(after, str(event["position"]), event["type"], str(event["version"]), _gist(event["data"]))
    return table


def _gist(data: Mapping[str, Any]) -> str:
    match data:
        case {"order_number": number, "items": [*items]}:
            return f"{number}, {len(items)} items"
        case {"quantity": quantity, "uom": uom}:
            return f"{quantity} {uom}"
        case _:
            return ""


def _timings(seconds: Mapping[str, Sequence[float]]) -> Table:
    table = _table("request", "times", "median", "slowest")
    for step, taken in seconds.items():
        table.add_row(step, str(len(taken)), f"{median(taken) * 1000:.0f} ms", f"{max(taken) * 1000:.0f} ms")
    return table


def _totals(orders: Sequence[_Order]) -> str:
    statuses = Counter(order.status for order in orders)
    return ", ".join(f"[{_COLOURS[status]}]{times} {status}[/]" for status, times in statuses.most_common())


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for name in columns:
        numeric = name in {"items", "after", "position", "version", "times", "median", "slowest"}
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    return table


def main() -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        # Nobody's window: lines as long as they are.
        console.width = 120
    try:
        asyncio.run(demonstrate(console))
    except DevError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
