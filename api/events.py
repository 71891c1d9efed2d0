"""Events as they were recorded: the global sequence, and the stream of one aggregate; in pages, or live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, JsonValue

from api import pagination
from api.gateway import Gateway, Resources
from api.live import MEDIA_TYPE, LiveResponse, Wanted
from api.openapi import LIVE
from api.pagination import MAX_POSITION
from api.route import Route
from api.schemas import Event, EventPage
from eventstore.store import ALL_STREAM, SPAN, RecordedEvent

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


@dataclass(frozen=True, slots=True)
class Since:
    """Which events are asked for: those after `after`, or from now on; and whether as a live stream."""

    after: int | None
    live: bool


async def _since(
    request: Request,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_POSITION,
            description="Events after this number: a position, or a version where it is one order's events. Without "
            "it, pages begin with the first event, and a live stream with the next one.",
        ),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            pattern=r"^\d{0,18}$",
            description="Of a live stream: the last `id` that came. It goes on after that one, whatever `after` says.",
            examples=["7"],
        ),
    ] = None,
) -> Since:
    ranges = ",".join(request.headers.getlist("Accept")).lower().replace(" ", "").split(",")
    live = any(each.partition(";")[0] == MEDIA_TYPE and not each.endswith(";q=0") for each in ranges)
    if not live:
        return Since(after or 0, live=False)
    return Since(int(last_event_id) if last_event_id else after, live=True)


AskedSince = Annotated[Since, Depends(_since)]


@router.get("/events", response_model=EventPage, responses=LIVE)
async def read_events(
    *,
    request: Request,
    response: Response,
    gateway: Resources,
    since: AskedSince,
    limit: Limit = 100,
    types: Types = None,
) -> EventPage | Response:
    """The global sequence: every event once, in the order in which they were committed.

    With `Accept: text/event-stream` it goes on as it grows. With `type`, a page may have fewer events than `limit`, or
    none, though there is a `next`: it goes through 50,000 positions at most and leaves the others to that page.
    """
    if since.live:
        after = await gateway.store.stream_version(ALL_STREAM) if since.after is None else since.after
        return LiveResponse(gateway.live.listen(Wanted(types=frozenset(types) if types else None), after))
    after = since.after or 0
    if types is None:
        return event_page(request, response, await gateway.store.read_all(after=after, limit=limit + 1), limit)
    head = await gateway.store.stream_version(ALL_STREAM)
    until = after + SPAN
    found = await gateway.store.read_all(after=after, until=until, limit=limit + 1, types=types)
    return event_page(request, response, found, limit, seen=until if until < head else None)


async def live_events(gateway: Gateway, stream_id: UUID, since: Since) -> Response | None:
    """The events of one stream as they happen; None if there is no such stream."""
    newest = await gateway.store.read_stream(str(stream_id), limit=1, backwards=True)
    # One that is made of links has no events of its own to wait for.
    if not newest or UUID(newest[0].stream_id) != stream_id:
        return None
    wanted = Wanted(stream_id=newest[0].stream_id)
    return LiveResponse(gateway.live.listen(wanted, newest[0].number if since.after is None else since.after))


def as_json(recorded: RecordedEvent) -> str:
    """An event as it is in pages."""
    return _event(recorded).model_dump_json()


def event_page(
    request: Request, response: Response, found: Sequence[RecordedEvent], limit: int, seen: int | None = None
) -> EventPage:
    """The page of what was found, which is one more than `limit` if there is a next page.

    `seen` is the number up to which there are no others, if there may be more behind it.
    """
    response.headers["Vary"] = "Accept"
    page, following = pagination.cut(request, response, found, limit, lambda event: str(event.number))
    if following is None and seen is not None:
        following = pagination.link(request, response, str(seen))
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
