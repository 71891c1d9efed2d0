"""Events as they were recorded: the global sequence, and the stream of one aggregate."""

from collections.abc import Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, JsonValue

from api import pagination
from api.gateway import Resources
from api.openapi import answers
from api.pagination import MAX_POSITION
from api.route import Route
from api.schemas import Event, EventPage
from eventstore.store import RecordedEvent

router = APIRouter(tags=["events"], route_class=Route)

Limit = Annotated[int, Query(ge=1, le=1000, description="Events on a page.")]
Types = Annotated[
    list[Annotated[str, Field(min_length=1, json_schema_extra={"format": "printable"})]] | None,
    Query(
        alias="type",
        max_length=100,
        description="Only events of this type; may be given more than once.",
        examples=[["Order.OrderCreated"]],
    ),
]


@router.get("/events", responses=answers(200, "Link"))
async def read_events(
    *,
    request: Request,
    response: Response,
    gateway: Resources,
    after: Annotated[int, Query(ge=0, le=MAX_POSITION, description="Events after this position.")] = 0,
    limit: Limit = 100,
    types: Types = None,
) -> EventPage:
    """The global sequence: every event once, in the order in which they were committed."""
    found = await gateway.store.read_all(after=after, limit=limit + 1, types=types)
    return event_page(request, response, found, limit)


def event_page(request: Request, response: Response, found: Sequence[RecordedEvent], limit: int) -> EventPage:
    """The page of what was found, which is one more than `limit` if there is a next page."""
    page, following = pagination.cut(request, response, found, limit, lambda event: str(event.number))
    return EventPage(items=[_event(recorded) for recorded in page], next=int(following) if following else None)


def _event(recorded: RecordedEvent) -> Event:
    return Event(
        event_id=recorded.event_id,
        type=recorded.type,
        stream_id=recorded.stream_id,
        version=recorded.version,
        position=recorded.position,
        data=_shown(recorded.data),
        causation_id=recorded.causation_id,
        correlation_id=recorded.correlation_id,
        created_at=recorded.created_at,
    )


def _shown(data: bytes) -> JsonValue:
    """The data as they are; what another program wrote may be no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode(errors="replace")
