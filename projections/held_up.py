"""The streams of a build whose events wait behind one that couldn't be applied, and what that means for a batch.

The table of parked events is the truth. Its owner, who alone parks, knows it by heart; others only mark rows, and the
owner looks for marks.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from eventstore.codec import UndecodableEvent, known_types
from eventstore.statements import load_statements
from eventstore.store import RecordedEvent
from projections import parking
from projections.faults import describe
from projections.parking import Parked, Parking
from projections.projection import Happened, Projection

if TYPE_CHECKING:
    from projections.projection import Connection

log = structlog.get_logger(__name__)

UNDECODABLE = Counter(
    "waybill_projection_undecodable_events",
    "Events that a projection left out, because their data isn't what their type says, as was known at adoption.",
    ["projection"],
)
PARKED = Counter("waybill_projection_parked_events", "Events that a projection could not apply.", ["projection"])
HELD_UP = Gauge(
    "waybill_projection_held_up_streams",
    "Streams of whose events some are parked, as the owner of the projection's build knows. Who owns none has none.",
    ["build"],
)

_SQL = load_statements("projections", "runner.sql")
_UNKNOWN = "nobody here knows its type"


class HeldUp:
    """`reported` says whether it was told at adoption that an event can't be read."""

    def __init__(
        self,
        connection: "Connection",
        projection: Projection,
        build: str,
        reported: Callable[[RecordedEvent], bool],
    ) -> None:
        self._connection = connection
        self._projection = projection
        self._build = build
        self._reported = reported
        self._log = log.bind(projection=build)
        self._streams: dict[str, str] = {}
        """By the usual form of their names."""
        self._discarded: set[int] = set()
        self._discards: int | None = None
        """How many events were given up when the table was last looked through; None: look through it."""

    async def learn(self) -> None:
        """What the table says. What was parked by code that didn't know its type may be known to this one."""
        await self._connection.execute(_SQL["known_now"], self._build, _UNKNOWN, list(known_types()))
        discarded = await self._connection.fetch(_SQL["discarded"], self._build)
        self._discarded = {row["position"] for row in discarded}
        await self.learn_streams()
        self._discards = None

    def forget(self) -> None:
        """Another is to know from here on."""
        HELD_UP.remove(self._build)

    # --- A batch

    def sort(
        self, events: Sequence[RecordedEvent], fault: Exception | None, known: Mapping[int, Parked]
    ) -> tuple[Sequence[Happened], Sequence[Parking]]:
        """What of the events is to be applied, and what to be parked.

        With a `fault`, what could be applied is parked for that. `known` are those that are parked already.
        """
        batch: list[Happened] = []
        parked: list[Parking] = []
        held = ChainMap[str, str]({}, self._streams)

        def park(event: RecordedEvent, state: parking.State, reason: str = "") -> None:
            before = known.get(event.position)
            attempts = (before.attempts if before else 0) + (state == "failed")
            parked.append(Parking(event, state, reason, attempts))
            held[usual_name(event.stream_id)] = event.stream_id

        for event in events:
            if event.position in self._discarded:
                continue
            if held and usual_name(event.stream_id) in held:
                park(event, "behind")
                continue
            try:
                happened = self._understand(event)
            except UndecodableEvent as undecodable:
                if self._reported(event):
                    self._leave_out(undecodable)
                else:
                    park(event, "failed", undecodable.why)
                continue
            if held and (ahead := self._ahead_of(happened, held)):
                park(event, "behind", ahead)
            elif fault:
                park(event, "failed", describe(fault))
            else:
                batch += happened
        return batch, parked

    def _understand(self, event: RecordedEvent) -> Sequence[Happened]:
        """What it means. Raises UndecodableEvent, also where nobody knows the type: it may mean anything."""
        happened = self._projection.understand(event)
        if not happened and event.type not in known_types():
            raise UndecodableEvent(event, _UNKNOWN)
        return happened

    def _ahead_of(self, happened: Sequence[Happened], held: Mapping[str, str]) -> str | None:
        """The stream that the events have to wait for."""
        return next(
            (held[name] for each in happened for name in self._projection.depends_on(each) if name in held), None
        )

    def _leave_out(self, undecodable: UndecodableEvent) -> None:
        UNDECODABLE.labels(self._projection.name).inc()
        self._log.error("projection.undecodable", position=undecodable.event.position, reason=str(undecodable))

    def hold(self, parked: Sequence[Parking], traceback: Exception | None) -> None:
        """The events are parked from now on. `traceback`: of the failure, for the log."""
        for each in parked:
            self._streams[usual_name(each.event.stream_id)] = each.event.stream_id
            if each.state == "failed":
                PARKED.labels(self._projection.name).inc()
                self._log.error(
                    "projection.parked",
                    position=each.event.position,
                    stream=each.event.stream_id,
                    type=each.event.type,
                    reason=each.reason,
                    exc_info=traceback,
                )
        self._tell()

    # --- Looking again

    async def due(self, limit: int) -> Sequence[Parked]:
        """The events that are to be looked at again, at most `limit`. Their streams are not held up meanwhile.

        Asking costs next to nothing while nobody has marked any.
        """
        if not self._streams:
            return ()
        marked = await self._connection.fetchrow(_SQL["marked"], self._build)
        assert marked
        if not marked["to_retry"] and marked["discarded"] == self._discards:
            return ()
        await parking.unblock(self._connection, self._build)
        due = await parking.due(self._connection, self._build, limit)
        if due:
            # What is done with may let others go on.
            self._discards = None
            for parked in due:
                self._streams.pop(usual_name(parked.stream_id), None)
        else:
            self._discards = marked["discarded"]
            await self.learn_streams()
        return due

    async def learn_streams(self) -> None:
        """Which are held up, by the table: also when events that were `due` have been looked at."""
        self._streams = {usual_name(name): name for name in await parking.held_up(self._connection, self._build)}
        self._tell()

    def _tell(self) -> None:
        HELD_UP.labels(self._build).set(len(self._streams))


def usual_name(stream_id: str) -> str:
    """A stream's name; if it is an id, then in the id's usual form: adopted ones may have it in another."""
    try:
        return str(UUID(stream_id))
    except ValueError:
        return stream_id
