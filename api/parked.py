"""Parked events: what a projection or a handler could not be done with. They are shown and marked here, no more."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.gateway import Gateway, Resources
from api.idempotency import once
from api.openapi import WRITES, problems
from api.parameters import Asking, Headers
from api.problems import HttpProblem
from api.route import Route
from api.schemas import Listing, ParkedEvent
from projections import parking
from projections.parking import Parked

router = APIRouter(prefix="/parked", tags=["operations"], route_class=Route)

Subscriber = Annotated[str, Path(description="A projection or a handler.", max_length=200, examples=["shipment"])]
StreamId = Annotated[str, Path(description="The stream that is held up.", max_length=1000)]


@router.get("", responses=problems())
async def list_parked(
    gateway: Resources,
    subscriber: Annotated[
        str | None,
        Query(
            description="Only those of this projection or handler.",
            min_length=1,
            max_length=200,
            json_schema_extra={"format": "printable"},
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events, at most.")] = 100,
) -> Listing[ParkedEvent]:
    """Parked events, those that somebody has to see to first."""
    return _shown(await parking.listed(gateway.parking, subscriber, limit=limit))


@router.post(
    "/{subscriber}/{stream_id}/retry",
    status_code=202,
    responses=problems(*WRITES, "parked-not-found"),
)
async def retry_parked(
    subscriber: Subscriber, stream_id: StreamId, asking: Headers, gateway: Resources
) -> Listing[ParkedEvent]:
    """Let the stream's parked events be looked at again, by a worker and soon. Gives the events that are marked so."""
    ask = partial(parking.request_retry, gateway.parking, subscriber, stream_id)
    return await _mark(gateway, asking, "RetryParked", [subscriber, stream_id], ask)


@router.post(
    "/{subscriber}/{stream_id}/discard",
    status_code=202,
    responses=problems(*WRITES, "parked-not-found"),
)
async def discard_parked(
    subscriber: Subscriber, stream_id: StreamId, asking: Headers, gateway: Resources
) -> Listing[ParkedEvent]:
    """Give up the event that holds up the stream, for good, and let those behind it be looked at."""
    ask = partial(parking.request_discard, gateway.parking, subscriber, stream_id)
    return await _mark(gateway, asking, "DiscardParked", [subscriber, stream_id], ask)


async def _mark(
    gateway: Gateway, asking: Asking, what: str, data: list[str], ask: Callable[[], Awaitable[list[Parked]]]
) -> Listing[ParkedEvent]:
    async def mark() -> bytes:
        if not (marked := await ask()):
            raise HttpProblem("parked-not-found", "Nothing of that stream is parked by that subscriber")
        return _shown(marked).model_dump_json().encode()

    return Listing[ParkedEvent].model_validate_json(await once(gateway.store, asking, what, data, mark))


def _shown(events: list[Parked]) -> Listing[ParkedEvent]:
    return Listing(items=[ParkedEvent.model_validate(event) for event in events])
