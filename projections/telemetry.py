"""What a projection counts: the events of each batch, and how long ago they were appended."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

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


def taken_in(build: "Build", events: "Sequence[RecordedEvent]") -> None:
    """The events' rows, and the checkpoint behind them, are committed."""
    if not events:
        return
    EVENTS.labels(build.key).inc(len(events))
    if build.stage == "live":
        age = datetime.now(UTC) - events[0].created_at
        DELAY.labels(build.projection).observe(max(0.0, age.total_seconds()))
