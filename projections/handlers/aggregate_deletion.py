"""Removes the streams of deleted orders for good, once everybody has seen that they were deleted.

It is for those who must not keep data of orders that never came to be; the setting WAYBILL_PURGE_DELETED says so.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import orjson
import structlog

from domain.aggregates import TYPE_OF_EVENT, status_after
from domain.commands import Receipt
from domain.order import OrderCompleted, OrderCreated, OrderDeleted
from eventstore.codec import UndecodableEvent, decode
from eventstore.postgres import PostgresStore
from eventstore.statements import load_statements
from eventstore.store import Answer, RecordedEvent, StreamNotFound, WrongExpectedVersion
from projections.handlers.handler import Handler, NotDone, NotDoneYet

if TYPE_CHECKING:
    from eventstore.pool import Pool

log = structlog.get_logger(__name__)

NAME = "aggregate_deletion"

_SQL = load_statements("projections", "handlers.sql")
_DELETED = TYPE_OF_EVENT[OrderDeleted]
_COMPLETED = TYPE_OF_EVENT[OrderCompleted]
# As a rule everybody has seen it by then.
_RIPE_AFTER = 10.0
# While a batch is purged, no subscription and no build of a read model can begin.
_BATCH = 50

PURGING = {"idle_in_transaction_session_timeout": "15min"}
"""For connections to the read store: a process that was stopped keeps builds from beginning no longer than that."""


class Purge:
    """`views` is the read store's pool."""

    def __init__(self, store: PostgresStore, views: "Pool") -> None:
        self._store = store
        self._views = views
        self._refused = False

    async def handle(self, events: Sequence[RecordedEvent]) -> NotDoneYet:
        streams = [event.stream_id for event in events]
        not_done: dict[int, NotDone] = {}
        async with (
            # Who begins in between, a subscription or a build, would see the orders come and not go.
            self._store.no_subscription_begins() as subscriptions,
            self._views.acquire() as views,
            views.transaction(),
        ):
            await views.execute(_SQL["no_build_begins"])
            rows = await self._store.pool.fetch(_SQL["unseen"], streams, NAME)
            rows += await views.fetch(_SQL["unprojected"], streams, [event.position for event in events])
            behind = {row["stream_uuid"]: row["who"] for row in rows}
            for event in events:
                if who := behind.get(event.stream_id):
                    not_done[event.position] = NotDone(f"{who} has not seen all of it yet")
                    continue
                # It fails where a lock was lost meanwhile. Otherwise it is held on to: none of them is silent for long.
                await subscriptions.execute("select")
                await views.execute("select")
                if reason := await self._purge(event):
                    not_done[event.position] = reason
        return not_done

    async def _purge(self, deleted: RecordedEvent) -> NotDone | None:
        life = await self._store.pool.fetch(_SQL["life"], deleted.stream_id)
        if not life or life[-1]["event_id"] != deleted.event_id or any(row["type"] == _COMPLETED for row in life):
            log.warning(
                "deletion.passed_over", stream_id=deleted.stream_id, reason="it isn't a deleted order (any more)"
            )
            return None
        for answer in _answers(await self._store.find_events([row["event_id"] for row in life])):
            await self._store.remember(answer)
        try:
            await self._store.delete_stream(deleted.stream_id, expected=deleted.version, hard=True)
        except (StreamNotFound, WrongExpectedVersion):
            # Somebody was faster; in the second case, with a new event, which is looked at when it comes.
            return None
        except asyncpg.InsufficientPrivilegeError:
            if not self._refused:
                log.warning("deletion.refused", hint="the worker's login has to be a member of waybill_owner")
            self._refused = True
            return NotDone("the worker's login may not purge: make it a member of waybill_owner")
        log.info("deletion.purged", stream_id=deleted.stream_id)
        return None


def aggregate_deletion(store: PostgresStore, views: "Pool", *, ripe_after: float = _RIPE_AFTER) -> Handler:
    return Handler(
        NAME,
        wants=lambda event: event.type == _DELETED,
        handle=Purge(store, views).handle,
        ripe_after=ripe_after,
        batch=_BATCH,
    )


def _answers(life: Sequence[RecordedEvent]) -> Iterator[Answer]:
    """What the commands with an Idempotency-Key had for an answer: what says so now, their events, is going."""
    order_number: str | None = None
    for recorded in life:
        try:
            (event,) = decode(recorded)
            about = orjson.loads(recorded.metadata or b"{}")
            command_id, fingerprint = UUID(about["command_id"]), str(about["fingerprint"])
        except (UndecodableEvent, ValueError, LookupError, TypeError, AttributeError):
            continue  # Another program's event.
        if isinstance(event, OrderCreated):
            order_number = event.order_number
        if not fingerprint:
            continue
        receipt = Receipt(
            id=event.id,
            order_id=event.id,
            order_number=order_number,
            status=status_after(event),
            version=recorded.version,
            position=recorded.position,
            event_id=recorded.event_id,
        )
        yield Answer(command_id, fingerprint, orjson.dumps({"receipt": receipt.model_dump(mode="json")}))
