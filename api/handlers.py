"""How far the event handlers are."""

from fastapi import APIRouter

from api.gateway import Resources
from api.openapi import problems
from api.schemas import Handler, Listing
from projections.handlers.registry import handlers_status

router = APIRouter(tags=["operations"])


@router.get("/handlers", responses=problems())
async def list_handlers(gateway: Resources) -> Listing[Handler]:
    """Every event handler that has ever run, and how far it has come."""
    return Listing(items=[Handler.model_validate(each) for each in await handlers_status(gateway.store.pool)])
