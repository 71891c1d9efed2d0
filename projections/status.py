"""What operators want to know of the projections: which builds there are, how far each is, how fast, and whose."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore

if TYPE_CHECKING:
    from eventstore.pool import Connection, Pool

_SQL = load_statements("projections", "status.sql")


@dataclass(frozen=True, slots=True)
class BuildStatus:
    """A build of a projection, as it stands."""

    name: str
    """The projection's."""
    version: int
    stage: str
    build: str
    position: int
    lag: int
    """Positions between it and the end of the events."""
    lag_seconds: float
    """How long ago the first event was appended that it hasn't seen; 0 if there is none."""
    rate: float
    """Events a second, lately."""
    owner: str | None
    """The worker that follows the events for it; None if nobody does."""
    parked: int
    """Events that were set aside, and those behind them. What was discarded doesn't count."""
    started_at: datetime

    @property
    def state(self) -> str:
        """`running`, or `waiting` for somebody to run it."""
        return "running" if self.owner else "waiting"

    @property
    def progress(self) -> float:
        """How much of the events it has seen, from 0 to 1."""
        return self.position / (self.position + self.lag) if self.lag else 1.0

    @property
    def eta_seconds(self) -> float | None:
        """How long it will take to the end of the events; None if that can't be told."""
        if not self.lag:
            return 0.0
        return self.lag / self.rate if self.rate and self.owner else None


async def status(
    read_store: "Pool | Connection", store: EventStore, *, count_parked: bool = True
) -> Sequence[BuildStatus]:
    """All builds: by the name of their projection, the live one first. Without counting, their `parked` is 0."""
    # Before the end of the events: a build is never ahead of that.
    rows = await read_store.fetch(_SQL["builds"], count_parked)
    head = await store.stream_version(ALL_STREAM)
    ages = {position: await _age_of_next(store, position) for position in {row["position"] for row in rows}}
    return [
        BuildStatus(
            name=row["projection"],
            version=row["version"],
            stage=row["stage"],
            build=row["build"],
            position=row["position"],
            lag=max(0, head - row["position"]),
            lag_seconds=ages[row["position"]],
            rate=row["rate"],
            owner=row["owner"],
            parked=row["parked"],
            started_at=row["started_at"],
        )
        for row in rows
    ]


async def _age_of_next(store: EventStore, position: int) -> float:
    following = await store.read_all(after=position, limit=1)
    if not following:
        return 0.0
    return max(0.0, (datetime.now(UTC) - following[0].created_at).total_seconds())
