"""The gateway over HTTP: given events, when a request, then an answer and new events."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx2

from api.app import create_app
from domain.aggregates import Event
from domain.order import OrderCreated
from domain.values import RecordedItem
from eventstore.codec import decode, encode
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, NewEvent
from settings import Settings

PRODUCT = UUID("2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01")


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a gateway that runs with these settings."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://waybill.test") as client:
            yield client


@dataclass
class Story:
    """Given events, when a request, then an answer and new events."""

    waybill: httpx2.AsyncClient
    store: PostgresStore
    order_id: UUID = field(default_factory=uuid4)
    number: str = field(default_factory=lambda: f"SO-{uuid4().hex[:12]}")
    _versions: dict[UUID, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"/orders/{self.order_id}"

    @property
    def created(self) -> OrderCreated:
        return OrderCreated(
            id=self.order_id,
            order_number=self.number,
            business_partner="vinet@northwind.example",
            items=(RecordedItem(product_id=PRODUCT, quantity=1.5, uom="KG"),),  # pyright: ignore[reportArgumentType]
        )

    @property
    def body(self) -> dict[str, Any]:
        """What creates the story's order."""
        item = {"product_id": str(PRODUCT), "quantity": 1.5, "uom": "KG"}
        return {
            "id": str(self.order_id),
            "order_number": self.number,
            "business_partner": "vinet@northwind.example",
            "items": [item],
        }

    async def given(self, *events: Event) -> "Story":
        """These events have happened; what they claim, they hold."""
        for event in events:
            claims = [Claim("order_number", event.order_number, event.id)] if isinstance(event, OrderCreated) else []
            for claim in claims:
                await self.store.reserve(claim, uuid4(), lease_seconds=60)
            kind, data = encode(event)
            new = NewEvent(uuid4(), kind, data, b"{}", uuid4(), self.order_id)
            await self.store.append(Append(str(event.id), "any", [new], confirm=claims))
            self._versions[event.id] = self._versions.get(event.id, 0) + 1
        return self

    async def new_events(self, stream_id: UUID | None = None) -> list[Event]:
        """What has happened in the order's stream, or in another one, since."""
        stream_id = stream_id or self.order_id
        recorded = await self.store.read_stream(str(stream_id), after=self._versions.get(stream_id, 0))
        return [event for each in recorded for event in decode(each)]


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that the answer has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/problems/{code}")
    assert body["title"]
    assert body["detail"]
    return body


def violations(answer: httpx2.Response) -> list[tuple[str, str]]:
    """Pointer and message of every broken rule."""
    return [(each["pointer"], each["detail"]) for each in problem(answer, 422, "validation-failed")["errors"]]
