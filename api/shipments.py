"""The routes of shipments. A shipment's commands go to the run of its order."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api import pagination
from api.gateway import Gateway, Resources
from api.openapi import WRITES, accepted, answers, problems
from api.pagination import After, Limit
from api.parameters import CONSISTENCY, Headers, IfMatch, IfNoneMatch, MinPosition, ShipmentId
from api.preconditions import entity_tag, is_current
from api.route import Route
from api.schemas import Page, Shipment, ShipmentStatus, WrittenShipment
from domain.refusals import ShipmentNotFound
from domain.shipment import CompleteShipment
from domain.values import Id
from projections.shipments import ShipmentRow

router = APIRouter(prefix="/shipments", tags=["shipments"], route_class=Route)


@router.post(
    "/{shipment_id}/complete",
    response_model=WrittenShipment,
    responses=answers(200, "ETag", CONSISTENCY)
    | accepted()
    | problems(
        *WRITES, "shipment-not-found", "shipment-already-completed", "history-unreadable", "precondition-failed"
    ),
)
async def complete_shipment(
    shipment_id: ShipmentId, asking: Headers, gateway: Resources, response: Response, if_match: IfMatch = None
) -> WrittenShipment | Response:
    """Say that a shipment has gone out. Its order is then `SHIPPED`."""
    known = await gateway.read_store.shipment(shipment_id)
    order_id = known.order_id if known else await gateway.commands.order_of(shipment_id)
    expected = await gateway.expected_version(if_match, shipment_id)
    request = asking.to(CompleteShipment(id=shipment_id), order_id, expected)
    if asking.asynchronous:
        return await gateway.submit(request, order_id, f"/shipments/{shipment_id}")
    receipt = await gateway.perform(request, order_id, response)
    response.headers["ETag"] = entity_tag(receipt.version)
    shown = receipt.model_dump(include={"id", "order_id", "status", "version", "position"})
    return WrittenShipment(**shown, **gateway.run_of(order_id))


@router.get("", responses=answers(200, "Link", CONSISTENCY))
async def list_shipments(
    *,
    request: Request,
    response: Response,
    gateway: Resources,
    status: ShipmentStatus | None = None,
    order_id: Annotated[Id | None, Query(description="The shipment of this order.")] = None,
    limit: Limit = 50,
    after: After = None,
    min_position: MinPosition = 0,
) -> Page[Shipment]:
    """Shipments, newest first. Every filter narrows the list."""
    await gateway.settle(response, min_position, ["shipments"])
    before = pagination.decode(after)
    found = await gateway.read_store.shipments(before=before, status=status, order_id=order_id, limit=limit)
    items = [_shipment(gateway, row) for row in found.rows]
    return Page(items=items, next=pagination.following(request, response, found.end))


@router.get(
    "/{shipment_id}",
    response_model=Shipment,
    responses=answers(200, "ETag", CONSISTENCY)
    | {304: {"description": "It is what `If-None-Match` says.", **answers(304, "ETag")[304]}}
    | problems("shipment-not-found"),
)
async def read_shipment(
    shipment_id: ShipmentId,
    gateway: Resources,
    response: Response,
    min_position: MinPosition = 0,
    if_none_match: IfNoneMatch = None,
) -> Shipment | Response:
    """A shipment as it is."""
    await gateway.settle(response, min_position, ["shipments"])
    row = await gateway.read_store.shipment(shipment_id)
    if row is None:
        raise ShipmentNotFound
    tag = entity_tag(row.version)
    response.headers["ETag"] = tag
    if is_current(if_none_match, tag):
        return Response(status_code=304, headers=dict(response.headers))
    return _shipment(gateway, row)


def _shipment(gateway: Gateway, row: ShipmentRow) -> Shipment:
    return Shipment(
        id=row.id,
        order_id=row.order_id,
        status=ShipmentStatus(row.status),
        version=row.version,
        created_at=row.inserted_at,
        updated_at=row.updated_at,
        **gateway.run_of(row.order_id),
    )
