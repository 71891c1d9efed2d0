"""How batches of projections and handlers are seen from outside: counted, and traced as part of what led to them."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

import tracing

if TYPE_CHECKING:
    from eventstore.store import RecordedEvent
    from projections.builds import Build

EVENTS = Counter("waybill_projection_events", "Events that a build has taken in, parked ones included.", ["build"])
DELAY = Histogram(
    "waybill_projection_delay_seconds",
    "From an event's commit, by the database's clock, to that of its batch in the live read model: the oldest one's.",
    ["projection"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
)

# Who catches up with the events of a day has nothing to add to that day's traces.
_TRACED_SECONDS = 60.0
# Of a batch: a span costs the worker's event loop up to a tenth of a millisecond, and 2,048 wait to be sent at most.
_TRACED_EVENTS = 100
_KEY = b'"traceparent":"'
_LENGTH = 55


def taken_in(build: "Build", events: "Sequence[RecordedEvent]", parked: Collection[int], began: int) -> None:
    """The events' rows, and the checkpoint behind them, are committed.

    `parked` are the positions of those without rows; `began` is when they were begun with, in nanoseconds since 1970.
    """
    if not events:
        return
    EVENTS.labels(build.key).inc(len(events))
    if build.stage != "live":
        return
    now = time.time()
    DELAY.labels(build.projection).observe(max(0.0, now - events[0].created_at.timestamp()))
    _trace(f"project {build.projection}", events, dict.fromkeys(parked, "parked"), "projected", began)


def seen_to(handler: str, events: "Sequence[RecordedEvent]", parked: Mapping[int, str], began: int) -> None:
    """A handler is done with the events, but for those that are `parked`: by their positions, in what state."""
    _trace(f"handle {handler}", events, parked, "done", began)


def _trace(name: str, events: "Sequence[RecordedEvent]", parked: Mapping[int, str], otherwise: str, began: int) -> None:
    if not tracing.is_on():
        return
    now = time.time()
    for event in events[:_TRACED_EVENTS]:
        if now - event.created_at.timestamp() >= _TRACED_SECONDS:
            continue
        about = {
            "waybill.event": event.type,
            "waybill.outcome": parked.get(event.position, otherwise),
            "waybill.batch.events": len(events),
        }
        place = traceparent_of(event.metadata)
        tracing.following(name, place, kind="CONSUMER", at=began, attributes=about).end()


def traceparent_of(metadata: bytes | None) -> str:
    """Empty if there is none. Found, not parsed: that is cheap, and another program's metadata may be anything."""
    before, _, rest = (metadata or b"").partition(_KEY)
    return rest[:_LENGTH].decode("latin-1") if before else ""
