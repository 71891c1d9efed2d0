"""What a run is started with, and what it hands on when it continues as new."""

from datetime import datetime
from uuid import UUID

from domain.values import Value

WORKFLOW_TYPE = "Order"


def workflow_id(order_id: UUID) -> str:
    return f"order-{order_id}"


class Milestone(Value):
    """One line of what a person reads about a run in the Web UI."""

    at: datetime
    what: str
    outcome: str


class Memory(Value):
    """What a run knows of its order. A cache: the truth is in the event store."""

    status: str | None = None
    """OPEN, COMPLETED, SHIPPED or DELETED; None as long as there is no order."""
    owed: UUID | None = None
    """The OrderCompleted event that waits for its shipment."""
    unsure: bool = False
    """Something may have been done that this run doesn't know of: look it up before anything else."""
    milestones: tuple[Milestone, ...] = ()
    commands: int = 0


class OrderStart(Value):
    """A run's input. Times are part of it, so that a history can be replayed under other settings."""

    order_id: UUID
    idle_seconds: float = 24 * 3600
    """Without work for this long, the run ends; the next command starts another."""
    step_seconds: float = 15
    """How long a step is tried again when the infrastructure fails it."""
    discreet: bool = False
    """Order number and business partner are no search attributes, which Temporal has to keep in clear."""
    memory: Memory = Memory()

    @classmethod
    def reviving(
        cls, order_id: UUID, *, idle_seconds: float, step_seconds: float, discreet: bool = False
    ) -> "OrderStart":
        """A run for an order that had one before: it begins by looking the order up."""
        return cls(
            order_id=order_id,
            idle_seconds=idle_seconds,
            step_seconds=step_seconds,
            discreet=discreet,
            memory=Memory(unsure=True),
        )
