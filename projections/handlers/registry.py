"""The handlers that there are. A new one is a file of its own, and a line here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from eventstore.adopted import AdoptedStore
from eventstore.statements import load_statements
from eventstore.subscriptions import SILENCE
from projections import parking
from projections.handlers import aggregate_deletion, shipment, stream_linker
from projections.handlers.handler import Handler

if TYPE_CHECKING:
    from eventstore.pool import Pool

_SQL = load_statements("projections", "handlers.sql")

NAMES = (stream_linker.NAME, shipment.NAME, aggregate_deletion.NAME)


def all_handlers(store: AdoptedStore, wake: shipment.Wake, *, purge_from: "Pool | None" = None) -> Sequence[Handler]:
    """What a worker runs. `purge_from`: the read store, if streams of deleted orders are to be removed."""
    handlers = [stream_linker.stream_linker(store), shipment.watchdog(store, wake, reported=store.was_reported)]
    if purge_from is not None:
        handlers.append(aggregate_deletion.aggregate_deletion(store, purge_from))
    return handlers


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """Where a handler stands."""

    name: str
    position: int
    """In the global sequence."""
    lag: int
    """Events that it has yet to see."""
    lag_seconds: float
    """The age of the first of them; 0 if there is none."""
    owner: str | None
    """Where the session is that owns its subscription, as far as the database tells; None if nobody does,
    or its process was stopped."""
    parked: int
    """Events that were set aside, those that wait included. What was discarded doesn't count."""

    @property
    def state(self) -> str:
        """`running`, or `waiting` for a worker."""
        return "running" if self.owner else "waiting"


async def handlers_status(events: "Pool") -> list[HandlerStatus]:
    """Every handler that has ever run; `events` is the event store's pool."""
    counts = await parking.counts([events])
    return [
        HandlerStatus(
            name=row["name"],
            position=row["position"],
            lag=row["lag"],
            lag_seconds=row["lag_seconds"],
            owner=_owner(row["owner_pid"], row["owner_host"]),
            parked=sum(count for state, count in counts.get(row["name"], {}).items() if state != "discarded"),
        )
        for row in await events.fetch(_SQL["status"], NAMES, timedelta(seconds=SILENCE))
    ]


def _owner(pid: int | None, host: str | None) -> str | None:
    return f"{host or 'local'}, PostgreSQL process {pid}" if pid else None
