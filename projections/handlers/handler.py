"""What an event handler declares: the events that it wants, and what it does about a batch of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from eventstore.store import RecordedEvent


@dataclass(frozen=True, slots=True)
class NotDone:
    """Why an event could not be seen to."""

    reason: str
    later: bool = True
    """It is too early for it: look at it again, after longer and longer pauses. False: somebody has to see to it."""


NotDoneYet = Mapping[int, NotDone]
"""By the events' positions; whatever is not named is done."""


@dataclass(frozen=True)
class Handler:
    """A handler on the subscription of its name, to the global sequence from its origin on."""

    name: str
    """Where it has come to is kept under it, also by the original's applications: it never changes."""
    wants: Callable[[RecordedEvent], bool]
    handle: Callable[[Sequence[RecordedEvent]], Awaitable[NotDoneYet]]
    """See to the events, which are in order. At least once: an event may come again, so its effect must be one that
    can be repeated. What it raises counts against all of them, unless it turns out by trying again, with fewer and
    fewer, against which; if the event store is away, against none."""
    ripe_after: float = 0.0
    """Seconds that an event is left alone. Those that come in the meantime are seen to with it."""
    batch: int = 1000
    """The most events at a time."""
