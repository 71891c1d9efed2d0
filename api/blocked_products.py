"""The list of products that must not be sold: what completing an order consults."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path

from api.gateway import Gateway, Resources
from api.openapi import WRITES, problems
from api.parameters import Asking, Headers
from api.route import Route
from api.schemas import BlockedProduct, Listing
from domain.ids import event_id
from domain.refusals import IdempotencyKeyReused
from domain.values import Id
from eventstore.store import Answer

router = APIRouter(prefix="/blocked-products", tags=["blocked products"], route_class=Route)

ProductId = Annotated[Id, Path(description="The product's id.")]


@router.get("", responses=problems())
async def list_blocked_products(gateway: Resources) -> Listing[BlockedProduct]:
    """All blocked products, by id."""
    blocked = await gateway.store.blocked_products()
    return Listing(items=[BlockedProduct(product_id=each.product_id, blocked_at=each.blocked_at) for each in blocked])


@router.put("/{product_id}", status_code=204, responses=problems(*WRITES))
async def block_product(product_id: ProductId, asking: Headers, gateway: Resources) -> None:
    """Block a product: orders that contain it can't be completed any more. It may be blocked already."""
    await _change(gateway, asking, "BlockProduct", product_id, gateway.store.block_product)


@router.delete("/{product_id}", status_code=204, responses=problems(*WRITES))
async def unblock_product(product_id: ProductId, asking: Headers, gateway: Resources) -> None:
    """Let a product be sold again. It may not have been blocked."""
    await _change(gateway, asking, "UnblockProduct", product_id, gateway.store.unblock_product)


async def _change(
    gateway: Gateway, asking: Asking, what: str, product_id: UUID, effect: Callable[..., Awaitable[bool]]
) -> None:
    """Under a key, the change is one transaction with its answer: repeated, it undoes nothing decided since."""
    if not asking.keyed:
        await effect(product_id)
        return
    fingerprint = asking.fingerprint(what, {"product_id": str(product_id)})
    first_event = event_id(asking.command_id, 0)
    known = await gateway.store.recall(asking.command_id, first_event)
    if known.event is None and known.answer is None:
        await effect(product_id, once=Answer(asking.command_id, fingerprint, b"{}"))
        # Another request under the same key may have been first.
        known = await gateway.store.recall(asking.command_id, first_event)
    if known.answer is None or known.answer.fingerprint != fingerprint:
        raise IdempotencyKeyReused
