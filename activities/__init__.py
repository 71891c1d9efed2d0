"""The steps of the pipeline as activities: what a command does outside of the workflow, each step idempotent."""

from collections.abc import Callable, Sequence
from typing import Any

from activities.enrich_command import EnrichCommand
from activities.execute_and_append import ExecuteAndAppend
from activities.recall_order import RecallOrder
from activities.release_uniqueness import ReleaseUniqueness
from activities.reserve_uniqueness import ReserveUniqueness
from activities.validate_command import ValidateCommand
from eventstore.store import EventStore

__all__ = [
    "EnrichCommand",
    "ExecuteAndAppend",
    "RecallOrder",
    "ReleaseUniqueness",
    "ReserveUniqueness",
    "ValidateCommand",
    "all_activities",
]


def all_activities(
    store: EventStore, *, claim_lease: float, snapshot_interval: Callable[[str], int]
) -> Sequence[Callable[..., Any]]:
    """Every activity that a worker registers."""
    return [
        ValidateCommand(store).run,
        EnrichCommand(store).run,
        ReserveUniqueness(store, claim_lease).run,
        ExecuteAndAppend(store, snapshot_interval).run,
        ReleaseUniqueness(store).run,
        RecallOrder(store).run,
    ]
