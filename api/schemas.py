"""The shapes of requests and answers, as /docs shows them.

What a caller may send is said by the domain's own types, so that there is one set of rules and messages. Answers
are contracts with programs: a field is added, never renamed.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from domain.order import Items
from domain.refusals import Violation
from domain.values import Email, Id, OrderNumber, RecordedQuantity, Value

T = TypeVar("T")

ORDER_ID = "0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10"
SHIPMENT_ID = "90bd9a6f-8d3c-5a60-b2a6-1f3df0f6a0c5"
PRODUCT_ID = "2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01"


class OrderStatus(StrEnum):
    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    SHIPPED = "SHIPPED"


class ShipmentStatus(StrEnum):
    OPEN = "OPEN"
    COMPLETED = "COMPLETED"


# --- Requests


class NewOrder(Value):
    """An order to create. Fields that are not listed here are refused."""

    id: Id = Field(
        default_factory=uuid4,
        description="The order's id, if the caller wants to choose it.",
        examples=[ORDER_ID],
    )
    order_number: OrderNumber = Field(
        description="What people call the order. No two orders have the same; a deleted order's is free again.",
        examples=["SO-10248"],
    )
    business_partner: Email = Field(
        description="Who wants it: an e-mail address.", examples=["vinet@northwind.example"]
    )
    items: Items = Field(description="What is wanted, 1 to 1000 lines.")

    @property
    def named(self) -> bool:
        """Whether the caller chose the id."""
        return "id" in self.model_fields_set


# --- Answers to commands


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


_POSITION = Field(
    description="Where the change is in the global sequence. `GET ...?min_position=` it waits until the read model has "
    "come that far.",
    examples=[7],
)
_RUN = Field(description="The order's run in Temporal.", examples=[f"order-{ORDER_ID}"])
_RUN_URL = Field(
    description="The order's run in Temporal's Web UI.",
    examples=[f"http://127.0.0.1:8233/namespaces/default/workflows/order-{ORDER_ID}"],
)


class WrittenOrder(Answer):
    """What a command did to an order. The same command again gets the same answer."""

    id: UUID = Field(examples=[ORDER_ID])
    order_number: str = Field(examples=["SO-10248"])
    status: OrderStatus = Field(examples=["OPEN"])
    version: int = Field(description="Its version after the command, from 1.", examples=[1])
    position: int = _POSITION
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


class WrittenCompletion(WrittenOrder):
    """What completing an order did."""

    status: OrderStatus = Field(examples=["COMPLETED"])
    version: int = Field(description="Its version after the command.", examples=[2])
    shipment_id: UUID = Field(description="The shipment that the order has become.", examples=[SHIPMENT_ID])


class WrittenShipment(Answer):
    """What a command did to a shipment."""

    id: UUID = Field(examples=[SHIPMENT_ID])
    order_id: UUID = Field(examples=[ORDER_ID])
    status: ShipmentStatus = Field(examples=["COMPLETED"])
    version: int = Field(description="Its version after the command.", examples=[2])
    position: int = _POSITION
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


class Accepted(Answer):
    """The command is on its way. Where it leads is to be seen at `Location`."""

    id: UUID = Field(examples=[ORDER_ID])
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


# --- What can be read

Number = Annotated[RecordedQuantity, WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]

_CREATED = Field(description="When it began.", examples=["2026-01-31T12:00:00Z"])
_UPDATED = Field(description="When it last changed.", examples=["2026-01-31T12:00:04Z"])


class OrderItem(Answer):
    model_config = ConfigDict(from_attributes=True)

    product_id: UUID = Field(examples=[PRODUCT_ID])
    quantity: Number = Field(examples=[1.5])
    uom: str = Field(examples=["KG"])


class OrderSummary(Answer):
    """An order, without its items."""

    id: UUID = Field(examples=[ORDER_ID])
    order_number: str = Field(examples=["SO-10248"])
    business_partner: str = Field(examples=["vinet@northwind.example"])
    status: OrderStatus
    version: int = Field(examples=[2])
    shipment_id: UUID | None = Field(description="Its shipment, once it is completed.", examples=[SHIPMENT_ID])
    created_at: datetime = _CREATED
    updated_at: datetime = _UPDATED
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


class ShipmentOfOrder(Answer):
    id: UUID = Field(examples=[SHIPMENT_ID])
    status: ShipmentStatus
    version: int = Field(examples=[1])


class Order(Answer):
    """An order with its items in the order in which they were added."""

    id: UUID = Field(examples=[ORDER_ID])
    order_number: str = Field(examples=["SO-10248"])
    business_partner: str = Field(examples=["vinet@northwind.example"])
    status: OrderStatus
    version: int = Field(examples=[2])
    items: list[OrderItem]
    shipment: ShipmentOfOrder | None = Field(description="Its shipment, once it is completed.")
    created_at: datetime = _CREATED
    updated_at: datetime = _UPDATED
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


class Shipment(Answer):
    id: UUID = Field(examples=[SHIPMENT_ID])
    order_id: UUID = Field(examples=[ORDER_ID])
    status: ShipmentStatus
    version: int = Field(examples=[1])
    created_at: datetime = _CREATED
    updated_at: datetime = _UPDATED
    workflow_id: str = _RUN
    workflow_url: str = _RUN_URL


class Event(Answer):
    """An event as it was recorded. It never changes."""

    event_id: UUID
    type: str = Field(examples=["Order.OrderCreated"])
    stream_id: str = Field(description="The order or shipment that it belongs to.", examples=[ORDER_ID])
    version: int = Field(description="Its number in that stream, from 1.", examples=[1])
    position: int = Field(description="Its number in the global sequence, from 1.", examples=[7])
    data: JsonValue = Field(examples=[{"id": ORDER_ID}])
    causation_id: UUID | None = Field(description="The command, or the event, that led to it.")
    correlation_id: UUID | None = Field(description="The process that it belongs to: one per order.")
    created_at: datetime


class BlockedProduct(Answer):
    product_id: UUID = Field(examples=["55e76be0-b83e-4b3c-addd-f3d9e8835be2"])
    blocked_at: datetime


class Projection(Answer):
    """One build of a read model: a version's rows. While a new one is built, or a version has replaced another, there
    are several of one name.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["orders"])
    version: int = Field(description="Of the code that makes the rows.", examples=[1])
    stage: Literal["live", "next", "retired"] = Field(
        description="`live`: what is read; `next`: it is built, and takes that place; `retired`: another version has "
        "taken its place, and code of its own may still read it."
    )
    state: Literal["running", "waiting"] = Field(description="Whether a worker runs it, or it waits for one.")
    owner: str | None = Field(description="The process that runs it.", examples=["host:4711/5e4c9b0a"])
    position: int = Field(description="How far in the global sequence it has come.", examples=[7])
    lag: int = Field(description="Events that it has yet to see.", examples=[0])
    lag_seconds: float = Field(description="How long ago the first of them was appended.", examples=[0])
    rate: float = Field(description="Events a second, lately.", examples=[120.5])
    parked: int = Field(description="Events that are set aside (`GET /parked`).", examples=[0])
    started_at: datetime = Field(description="When it was begun.")
    progress: float = Field(description="How much of all events it has seen, from 0 to 1.", examples=[1])
    eta_seconds: float | None = Field(
        description="How long it will take to the end of the events, at this rate; null if that can't be told.",
        examples=[0],
    )


class Handler(Answer):
    """What follows from events outside of the read models."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["shipment"])
    state: Literal["running", "waiting"] = Field(description="Whether a worker runs it, or it waits for one.")
    owner: str | None = Field(
        description="Where its session with the database is, as far as that tells.",
        examples=["10.0.0.7, PostgreSQL process 4711"],
    )
    position: int = Field(description="How far in the global sequence it has come.", examples=[7])
    lag: int = Field(description="Events that it has yet to see.", examples=[0])
    lag_seconds: float = Field(description="How long ago the first of them was appended.", examples=[0])
    parked: int = Field(description="Events that are set aside or wait (`GET /parked`).", examples=[0])


class ParkedEvent(Answer):
    model_config = ConfigDict(from_attributes=True)

    subscriber: str = Field(description="The projection or the handler that has parked it.", examples=["shipment"])
    position: int = Field(description="The event's number in the global sequence.", examples=[7])
    stream_id: str = Field(description="Later events of it wait behind this one.", examples=[ORDER_ID])
    event_id: UUID
    event_type: str = Field(examples=["Order.OrderCompleted"])
    state: Literal["failed", "behind", "retry", "waiting", "discarded"] = Field(
        description="`failed`: for somebody to see to; `behind`: an earlier event holds it up; `retry`: to be looked "
        "at now; `waiting`: too early for it; `discarded`: given up, it holds up nothing."
    )
    reason: str = Field(description="What was wrong the last time.")
    attempts: int = Field(description="How often it was looked at.", examples=[5])
    retry_at: datetime | None = Field(description="When it is looked at by itself; null: when somebody says so.")
    parked_at: datetime


class Page(Answer, Generic[T]):
    items: list[T]
    next: str | None = Field(description="What `after` has to be for the next page; null on the last one.")


class EventPage(Answer):
    items: list[Event]
    next: int | None = Field(description="What `after` has to be for the next page; null on the last one.")


class Listing(Answer, Generic[T]):
    items: list[T]


# --- What the gateway says of itself


class Alive(Answer):
    status: Literal["ok"] = "ok"


Check = Literal["ok", "unavailable", "building", "parked"]


class Readiness(Answer):
    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="`degraded`: it works, but for orders whose events are parked."
    )
    checks: dict[str, Check] = Field(
        description="`building`: the read model's rows are not those of this version yet; `parked`: the projection or "
        "handler could not be done with some events (`GET /parked`)."
    )


class ProblemPage(Answer):
    """What a problem is, and what helps."""

    type: str = Field(examples=["/problems/validation-failed"])
    code: str = Field(examples=["validation-failed"])
    status: int = Field(examples=[422])
    title: str = Field(examples=["Validation failed"])
    help: str = Field(examples=["The request can be read, but breaks rules."])


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `detail` is for people. Some codes have members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`/problems/<code>`", examples=["/problems/validation-failed"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["validation-failed"])
    errors: list[Violation] | None = Field(
        default=None, description="Every broken rule (`validation-failed`); a pointer is RFC 6901, into the body."
    )
    product_ids: list[UUID] | None = Field(default=None, description="Which are blocked (`products-blocked`).")
    version: int | None = Field(default=None, description="The version it is at (`precondition-failed`).")
    request_id: str | None = Field(default=None, description="What the log has it under (`internal-error`).")
