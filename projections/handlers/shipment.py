"""The watchdog: every completed order gets its shipment, whatever became of its run.

As a rule the run creates it within the same command. Where it hasn't after a while (somebody has terminated the run,
another program has completed the order, the database was adopted), the run is woken or started anew. It is the run that
creates the shipment: its id derives from the order's, so there is never a second one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from domain.aggregates import ORDER, TYPE_OF_EVENT
from domain.ids import shipment_id
from domain.order import Completed, OrderCompleted, OrderCreated
from eventstore.codec import UndecodableEvent
from eventstore.postgres import PostgresStore
from eventstore.repository import fold, read_whole
from eventstore.statements import load_statements
from eventstore.store import RecordedEvent, StreamDeleted
from projections.handlers.handler import Handler, NotDone, NotDoneYet

log = structlog.get_logger(__name__)

NAME = "shipment"
Wake = Callable[[UUID, str, str], Awaitable[None]]
"""Wake the run of an order, or start one, that looks up what it owes. Takes the order's id, number and partner; raises
ConnectionError or TimeoutError, after a bounded time, if Temporal is away or refuses us."""

_SQL = load_statements("projections", "handlers.sql")
_RIPE_AFTER = 5.0
_AT_ONCE = 32
_AWAY = "Temporal can't be reached, or refuses us"


class Watchdog:
    """Looks which orders have no shipment yet, and wakes their runs."""

    def __init__(self, store: PostgresStore, wake: Wake, reported: Callable[[RecordedEvent], bool]) -> None:
        self._store = store
        self._wake = wake
        self._reported = reported

    async def handle(self, events: Sequence[RecordedEvent]) -> NotDoneYet:
        # Of several completions of an order (adopted ones may be repeated) the first.
        orders = {order_id: event for event in reversed(events) if (order_id := _order_id(event))}
        streams = [str(shipment_id(order_id)) for order_id in orders]
        rows = await self._store.pool.fetch(_SQL["unshipped"], list(orders), streams)
        gate, away = asyncio.Semaphore(_AT_ONCE), asyncio.Event()

        async def see_to(completed: RecordedEvent) -> NotDone | None:
            async with gate:
                return await self._see_to(completed, away)

        unshipped = [orders[row["order_id"]] for row in rows]
        outcomes = await asyncio.gather(*map(see_to, unshipped), return_exceptions=True)
        not_done: dict[int, NotDone] = {}
        for completed, outcome in zip(unshipped, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome:
                not_done[completed.position] = outcome
        return not_done

    async def _see_to(self, completed: RecordedEvent, away: asyncio.Event) -> NotDone | None:
        try:
            order = await self._order(completed.stream_id)
        except UndecodableEvent as undecodable:
            return NotDone(f"the order can't be read: {undecodable}", later=False)
        if isinstance(order, str):
            _pass_over(completed, order)
            return None
        if away.is_set():
            return NotDone(_AWAY)
        try:
            await self._wake(UUID(completed.stream_id), order.order_number, order.business_partner)
        except (ConnectionError, TimeoutError) as error:
            # Seen once, it is seen for all: each attempt takes its time.
            away.set()
            log.warning("shipment.temporal_away", reason=str(error))
            return NotDone(_AWAY)
        except Exception as error:  # noqa: BLE001 - this order's run can't be started; others' may
            return NotDone(f"its run can't be started: {type(error).__name__}: {error}", later=False)
        log.info("shipment.run_woken", stream_id=completed.stream_id)
        return NotDone("its run was woken to create the shipment")

    async def _order(self, stream_id: str) -> Completed | str:
        """The order, or why it gets no shipment. Raises UndecodableEvent."""
        try:
            history = await read_whole(self._store, stream_id)
        except StreamDeleted:
            return "its stream is closed"
        if not any(event.type == _CREATED for event in history):
            return "it never existed, or was purged"
        try:
            state = fold(ORDER, history)
        except UndecodableEvent as undecodable:
            if self._reported(undecodable.event):
                return f"it can't be read, as was told at adoption: {undecodable}"
            raise
        return state if isinstance(state, Completed) else "it isn't completed any more"


_CREATED = TYPE_OF_EVENT[OrderCreated]
_COMPLETED = TYPE_OF_EVENT[OrderCompleted]


def nothing_reported(_event: RecordedEvent) -> bool:
    return False


def watchdog(
    store: PostgresStore,
    wake: Wake,
    *,
    reported: Callable[[RecordedEvent], bool] = nothing_reported,
    ripe_after: float = _RIPE_AFTER,
) -> Handler:
    """`reported` says whether it was told at adoption that an event can't be read."""
    dog = Watchdog(store, wake, reported)
    return Handler(NAME, wants=lambda event: event.type == _COMPLETED, handle=dog.handle, ripe_after=ripe_after)


def _order_id(completed: RecordedEvent) -> UUID | None:
    try:
        # Adopted streams may be named in any form of a UUID.
        return UUID(completed.stream_id)
    except ValueError:
        _pass_over(completed, "its stream's name is no UUID")
        return None


def _pass_over(completed: RecordedEvent, reason: str) -> None:
    log.warning("shipment.passed_over", stream_id=completed.stream_id, reason=reason)
