"""Parked events: what a projection or a handler could not be done with, kept until it is.

Its subscriber goes on, but not in that stream: later events of it wait behind the parked one. Projections keep theirs
in the read store, handlers in the event store. Who asks for a retry or discards only marks rows; the work is the
subscriber's.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias
from uuid import UUID

from eventstore.statements import load_statements
from eventstore.store import RecordedEvent

if TYPE_CHECKING:
    from eventstore.pool import Connection, Pool
    from eventstore.subscriptions import Session

Place: TypeAlias = "Pool | Connection | Session"
"""Where there are parked events: the event store's database, or the read store's."""

State = Literal["failed", "behind", "retry", "waiting", "discarded"]
"""`failed`: for somebody to see to; `behind`: an earlier event holds it up; `retry`: to be looked at now;
`waiting`: too early for it; `discarded`: given up, it holds up nothing."""

_SQL = load_statements("projections", "parking.sql")
_LONGEST_REASON = 1000
_URGENCY = ("failed", "retry", "waiting", "behind", "discarded")


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked event, as it is kept."""

    subscriber: str
    position: int
    stream_id: str
    event_id: UUID
    event_type: str
    state: State
    reason: str
    attempts: int
    retry_at: datetime | None
    """When it is looked at by itself; None: when somebody says so."""
    parked_at: datetime
    discarded_at: datetime | None
    """When somebody gave it up; None: it isn't."""


@dataclass(frozen=True, slots=True)
class Parking:
    """An event to park, or to park for longer."""

    event: RecordedEvent
    state: State
    reason: str = ""
    attempts: int = 0
    """How often it was looked at."""
    retry_in: float | None = None
    """Seconds until it is looked at by itself."""


# --- For a subscriber


async def park(place: Place, subscriber: str, events: Sequence[Parking]) -> None:
    """Keep the events. What has been discarded meanwhile stays so; what has a reason to be parked keeps it."""
    rows = [
        (
            parking.event.position,
            parking.event.stream_id,
            parking.event.event_id,
            parking.event.type,
            parking.state,
            _storable(parking.reason),
            parking.attempts,
            parking.retry_in,
        )
        for parking in events
    ]
    if rows:
        await place.execute(_SQL["park"], subscriber, *map(list, zip(*rows, strict=True)))


async def done(place: Place, subscriber: str, positions: Sequence[int]) -> None:
    """Forget the events. Those that stood behind them, in the same streams, are due then."""
    if positions:
        await place.execute(_SQL["done"], subscriber, positions)


async def held_up(place: Place, subscriber: str, among: Collection[str] | None = None) -> set[str]:
    """The streams whose next events have to be parked, too: as `behind`. Only those `among` some, if given."""
    return {row["stream_id"] for row in await place.fetch(_SQL["held_up"], subscriber, among)}


async def due(place: Place, subscriber: str, limit: int) -> list[Parked]:
    """What is to be looked at now, at most `limit` events in order: of a stream that is due all, from the first on.

    Asking costs next to nothing while nothing is due, however much waits.
    """
    return [Parked(*row) for row in await place.fetch(_SQL["due"], subscriber, limit)]


async def discards(place: Place, subscriber: str) -> int:
    """How many events were given up: what was parked behind one of them just then has to be told (`unblock`)."""
    (row,) = await place.fetch(_SQL["discards"], subscriber)
    return row["count"]


async def unblock(place: Place, subscriber: str) -> None:
    """Let events be due that nothing holds up any more. It looks at all that stand behind others."""
    await place.execute(_SQL["unblock"], subscriber)


# --- For whoever looks after them, wherever they are


async def listed(places: Sequence[Place], subscriber: str | None = None, *, limit: int) -> list[Parked]:
    """At most `limit` parked events, those that somebody has to see to first."""
    found = await _everywhere(places, "listed", subscriber, limit)
    return sorted(found, key=lambda each: (_URGENCY.index(each.state), each.subscriber, each.position))[:limit]


async def still_parked(places: Sequence[Place], events: Sequence[Parked]) -> list[Parked]:
    """What is there of these events by now."""
    return await _everywhere(
        places, "among", [event.subscriber for event in events], [event.position for event in events]
    )


async def request_retry(places: Sequence[Place], subscriber: str | None, stream_id: str | None) -> list[Parked]:
    """Let the events be looked at again; gives those that are marked now. None: whatever the subscriber, or stream."""
    return await _everywhere(places, "request_retry", subscriber, stream_id)


async def request_discard(places: Sequence[Place], subscriber: str | None, stream_id: str) -> list[Parked]:
    """Give up the event that holds up the stream, and let those behind it be looked at; gives all of these."""
    return await _everywhere(places, "request_discard", subscriber, stream_id)


async def counts(places: Sequence[Place]) -> Mapping[str, Mapping[State, int]]:
    """How many parked events each subscriber has, by their state; who has none isn't named."""
    found: dict[str, dict[State, int]] = {}
    for place in places:
        for row in await place.fetch(_SQL["counts"]):
            found.setdefault(row["subscriber"], {})[row["state"]] = row["count"]
    return found


async def _everywhere(places: Sequence[Place], statement: str, *arguments: object) -> list[Parked]:
    """What the statement gives in each database, asked once also where both stores are one: a mark counts once."""
    asked: set[tuple[object, ...]] = set()
    found: list[Parked] = []
    for place in places:
        (identity,) = await place.fetch(_SQL["identity"])
        if tuple(identity) not in asked:
            asked.add(tuple(identity))
            found += [Parked(*row) for row in await place.fetch(_SQL[statement], *arguments)]
    return found


def _storable(reason: str) -> str:
    """In one line, and without what a text in PostgreSQL can't hold."""
    line = " ".join(reason.replace("\0", "").split())
    return line.encode(errors="replace").decode()[:_LONGEST_REASON]
