"""The routes of orders.

Commands go to the order's run; questions to the read model or, about the past, to the events.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, TypeVar, cast
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel
from pydantic_core import to_json

from activities.validate_command import with_taken_number
from api import pagination
from api.events import AskedSince, event_page, live_events
from api.events import Limit as EventLimit
from api.gateway import Gateway, Resources
from api.history import Then, order_as_of, order_at_version
from api.openapi import LIVE, WRITES, accepted, answers, problems
from api.pagination import MAX_POSITION, After, Limit
from api.parameters import CONSISTENCY, Headers, IfMatch, IfNoneMatch, MinPosition, OrderId
from api.preconditions import entity_tag, is_current
from api.route import Route
from api.schemas import (
    ORDER_ID,
    PRODUCT_ID,
    EventPage,
    NewOrder,
    Order,
    OrderStatus,
    OrderSummary,
    Page,
    ShipmentStatus,
    WrittenCompletion,
    WrittenOrder,
)
from domain.commands import Receipt
from domain.ids import order_id_for, shipment_id
from domain.order import AddOrderItem, CompleteOrder, CreateOrder, DeleteOrder
from domain.refusals import OrderNotFound, ValidationFailed, Violation
from domain.values import Email, Id, Item, OrderNumber, json_number
from eventstore.appender import UNAVAILABLE
from projections import queries
from projections.orders import ItemRow, OrderRow


class _OrderRoute(Route):
    async def refusal(
        self, request: Request, model: type[BaseModel] | None, invalid: RequestValidationError
    ) -> ValidationFailed:
        failed = await super().refusal(request, model, invalid)
        if model is NewOrder and isinstance(invalid.body, dict):
            gateway: Gateway = request.app.state.gateway
            # Without the store, the caller hears of the rest at least.
            with suppress(*UNAVAILABLE):
                return await with_taken_number(gateway.store, cast("dict[str, Any]", invalid.body), failed)
        return failed


router = APIRouter(prefix="/orders", tags=["orders"], route_class=_OrderRoute)

W = TypeVar("W", WrittenOrder, WrittenCompletion)

_ITEM = {"product_id": PRODUCT_ID, "quantity": 1.5, "uom": "KG"}
_ORDER = {"order_number": "SO-10248", "business_partner": "vinet@northwind.example", "items": [_ITEM]}
_NEW_ORDER = Body(
    openapi_examples={
        "an order": {"value": _ORDER},
        "an order whose id the caller chooses": {"value": {"id": ORDER_ID, **_ORDER}},
    }
)
_NEW_ITEM = Body(openapi_examples={"an item": {"value": _ITEM}})
_TO_OPEN_ORDER = (
    *WRITES,
    "order-not-found",
    "order-already-completed",
    "order-deleted",
    "history-unreadable",
    "precondition-failed",
)

# --- Commands


@router.post(
    "",
    status_code=201,
    response_model=WrittenOrder,
    responses=answers(201, "ETag", "Location", CONSISTENCY)
    | accepted()
    | problems(*WRITES, "order-already-created", "order-number-taken", "order-deleted", "history-unreadable"),
)
async def create_order(
    new: Annotated[NewOrder, _NEW_ORDER], asking: Headers, gateway: Resources, response: Response
) -> WrittenOrder | Response:
    """Create an order. Its number is its own until it is deleted."""
    order_id = new.id if new.named else order_id_for(asking.command_id)
    command = CreateOrder(
        id=order_id, order_number=new.order_number, business_partner=new.business_partner, items=new.items
    )
    request = asking.to(command, order_id)
    location = f"/orders/{order_id}"
    if asking.asynchronous:
        return await gateway.submit(request, order_id, location)
    receipt = await gateway.perform(request, order_id, response)
    response.headers["Location"] = location
    return _written(WrittenOrder, gateway, receipt, response)


@router.post(
    "/{order_id}/items",
    response_model=WrittenOrder,
    responses=answers(200, "ETag", CONSISTENCY) | accepted() | problems(*_TO_OPEN_ORDER),
)
async def add_order_item(
    *,
    order_id: OrderId,
    item: Annotated[Item, _NEW_ITEM],
    asking: Headers,
    gateway: Resources,
    response: Response,
    if_match: IfMatch = None,
) -> WrittenOrder | Response:
    """Add a line to an open order."""
    expected = await gateway.expected_version(if_match, order_id)
    command = AddOrderItem(id=order_id, product_id=item.product_id, quantity=item.quantity, uom=item.uom)
    request = asking.to(command, order_id, expected)
    if asking.asynchronous:
        return await gateway.submit(request, order_id, f"/orders/{order_id}")
    receipt = await gateway.perform(request, order_id, response)
    return _written(WrittenOrder, gateway, receipt, response)


@router.post(
    "/{order_id}/complete",
    response_model=WrittenCompletion,
    responses=answers(200, "ETag", CONSISTENCY) | accepted() | problems(*_TO_OPEN_ORDER, "products-blocked"),
)
async def complete_order(
    order_id: OrderId, asking: Headers, gateway: Resources, response: Response, if_match: IfMatch = None
) -> WrittenCompletion | Response:
    """Complete an open order: it becomes a shipment, unless one of its products is blocked."""
    expected = await gateway.expected_version(if_match, order_id)
    request = asking.to(CompleteOrder(id=order_id), order_id, expected)
    if asking.asynchronous:
        return await gateway.submit(request, order_id, f"/orders/{order_id}")
    receipt = await gateway.perform(request, order_id, response)
    return _written(WrittenCompletion, gateway, receipt, response)


@router.delete(
    "/{order_id}",
    status_code=204,
    response_model=None,
    responses=answers(204, CONSISTENCY) | accepted() | problems(*_TO_OPEN_ORDER),
)
async def delete_order(
    order_id: OrderId, asking: Headers, gateway: Resources, response: Response, if_match: IfMatch = None
) -> Response | None:
    """Delete an open order. Its number is free again; its events stay."""
    expected = await gateway.expected_version(if_match, order_id)
    request = asking.to(DeleteOrder(id=order_id), order_id, expected)
    if asking.asynchronous:
        return await gateway.submit(request, order_id, f"/orders/{order_id}")
    await gateway.perform(request, order_id, response)
    return None


# --- Questions


@router.get("", responses=answers(200, "Link", CONSISTENCY))
async def list_orders(
    *,
    request: Request,
    response: Response,
    gateway: Resources,
    status: OrderStatus | None = None,
    business_partner: Email | None = None,
    order_number: OrderNumber | None = None,
    product_id: Annotated[Id | None, Query(description="Orders with an item of this product.")] = None,
    limit: Limit = 50,
    after: After = None,
    min_position: MinPosition = 0,
) -> Page[OrderSummary]:
    """Orders without their items, newest first. Every filter narrows the list.

    A page of a product's orders may be shorter than its limit: `next` says whether more follow.
    """
    await gateway.settle(response, min_position, ["orders"])
    found = await gateway.read_store.orders(
        before=pagination.decode(after),
        status=status,
        business_partner=business_partner,
        order_number=order_number,
        product_id=product_id,
        limit=limit,
    )
    items = [_summary(gateway, row) for row in found.rows]
    return Page(items=items, next=pagination.following(request, response, found.end))


@router.get(
    "/{order_id}",
    response_model=Order,
    responses=answers(200, "ETag", CONSISTENCY)
    | {304: {"description": "It is what `If-None-Match` says.", **answers(304, "ETag")[304]}}
    | problems("order-not-found", "history-unreadable"),
)
async def read_order(
    *,
    order_id: OrderId,
    request: Request,
    response: Response,
    version: Annotated[int | None, Query(ge=1, le=MAX_POSITION, description="The order as it was then.")] = None,
    as_of: Annotated[
        AwareDatetime | None,
        Query(description="The order as it was at this moment.", examples=["2026-01-31T12:00:00Z"]),
    ] = None,
    min_position: MinPosition = 0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """An order with its items and its shipment: as it is, or, folded from its events, as it was."""
    if version is not None and as_of is not None:
        detail = "can't be asked for together with version"
        raise ValidationFailed.because([Violation(pointer="/as_of", code="ambiguous", detail=detail)])
    # What is read most is spared a dependency: solving one takes as long as finding the order's row.
    gateway: Gateway = request.app.state.gateway
    await gateway.settle(response, min_position, ["orders"])
    if version is None and as_of is None:
        found = await gateway.read_store.order(order_id)
    else:
        found = await _order_then(gateway, order_id, version, as_of)
    if found is None:
        raise OrderNotFound
    row, items = found
    tag = entity_tag(row.version, row.shipment_version)
    response.headers["ETag"] = tag
    if is_current(if_none_match, tag):
        return Response(status_code=304, headers=dict(response.headers))
    return Response(_order(gateway, row, items), headers=dict(response.headers), media_type="application/json")


@router.get(
    "/{order_id}/events",
    response_model=EventPage,
    responses=LIVE | problems("order-not-found"),
)
async def read_order_events(
    *,
    request: Request,
    order_id: OrderId,
    gateway: Resources,
    response: Response,
    since: AskedSince,
    limit: EventLimit = 1000,
) -> EventPage | Response:
    """The order's timeline, also of a deleted one. Its shipment has a stream of its own.

    With `Accept: text/event-stream` it goes on as it grows.
    """
    if since.live:
        live = await live_events(gateway, order_id, since)
        if live is None:
            raise OrderNotFound
        return live
    found = await gateway.store.read_stream(str(order_id), after=since.after or 0, limit=limit + 1)
    if not found and not await gateway.store.stream_version(str(order_id)):
        raise OrderNotFound
    return event_page(request, response, found, limit)


async def _order_then(gateway: Gateway, order_id: UUID, version: int | None, moment: datetime | None) -> Then | None:
    # A shipment of ours has an id that derives from the order's; one of an adopted store has not.
    shipment = await gateway.read_store.shipment_of(order_id) or shipment_id(order_id)
    if version is not None:
        return await order_at_version(gateway.store, order_id, shipment, version)
    assert moment is not None
    return await order_as_of(gateway.store, order_id, shipment, moment)


# --- How they are shown


def _written(kind: type[W], gateway: Gateway, receipt: Receipt, response: Response) -> W:
    # A completed order has its shipment from the same command on, and that at its first version, unless it is late.
    shipped = receipt.shipment_id is not None and receipt.settled_position >= 0
    response.headers["ETag"] = entity_tag(receipt.version, 1 if shipped else None)
    shown = receipt.model_dump(include=set(kind.model_fields))
    return kind(**shown, **gateway.run_of(receipt.order_id))


def _summary(gateway: Gateway, row: OrderRow) -> OrderSummary:
    return OrderSummary(**_facts(row), shipment_id=row.shipment_id, **gateway.run_of(row.id))


def _order(gateway: Gateway, row: OrderRow, items: Sequence[queries.Item | ItemRow]) -> bytes:
    """An `Order` in JSON. Making one first would take as long as everything else that is done for an answer."""
    shipment = None
    if row.shipment_id and row.shipment_version:
        status = ShipmentStatus.COMPLETED if row.status == OrderStatus.SHIPPED else ShipmentStatus.OPEN
        shipment = {"id": row.shipment_id, "status": status, "version": row.shipment_version}
    facts, run = _facts(row), gateway.run_of(row.id)
    lines = [{"product_id": item.product_id, "quantity": json_number(item.quantity), "uom": item.uom} for item in items]
    return to_json({**facts, "items": lines, "shipment": shipment, **run})


def _facts(row: OrderRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "order_number": row.order_number,
        "business_partner": row.business_partner,
        "status": row.status,
        "version": row.version,
        "created_at": row.inserted_at,
        "updated_at": row.updated_at,
    }
