"""Removes the streams of deleted orders for good, once everybody has seen that they were deleted.

It is for those who must not keep data of orders that never came to be; the setting WAYBILL_PURGE_DELETED says so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import orjson
import structlog

from domain.aggregates import TYPE_OF_EVENT
from domain.order import OrderCompleted, OrderDeleted
from domain.refusals import OrderWasDeleted
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


class Purge:
    """`views` is the read store's pool."""

    def __init__(self, store: PostgresStore, views: "Pool") -> None:
        self._store = store
        self._views = views
        self._refused = False

    async def handle(self, events: Sequence[RecordedEvent]) -> NotDoneYet:
        streams = [event.stream_id for event in events]
        rows = await self._store.pool.fetch(_SQL["unseen"], streams, NAME)
        positions = [event.position for event in events]
        rows += await self._views.fetch(_SQL["unprojected"], streams, positions)
        behind = {row["stream_uuid"]: row["who"] for row in rows}
        not_done: dict[int, NotDone] = {}
        for event in events:
            if who := behind.get(event.stream_id):
                not_done[event.position] = NotDone(f"{who} has not seen all of it yet")
            elif reason := await self._purge(event):
                not_done[event.position] = reason
        return not_done

    async def _purge(self, deleted: RecordedEvent) -> NotDone | None:
        life = await self._store.pool.fetch(_SQL["life"], deleted.stream_id)
        if not life or life[-1]["event_id"] != deleted.event_id or any(row["type"] == _COMPLETED for row in life):
            log.warning(
                "deletion.passed_over", stream_id=deleted.stream_id, reason="it isn't a deleted order (any more)"
            )
            return None
        for row in life:
            if answer := _answer(row["metadata"]):
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
        NAME, wants=lambda event: event.type == _DELETED, handle=Purge(store, views).handle, ripe_after=ripe_after
    )


def _answer(metadata: bytes | None) -> Answer | None:
    """What a command is told from now on that its caller may send again; None if it had no Idempotency-Key.

    Its event is going, and without it nobody would know that it was done before.
    """
    try:
        about = orjson.loads(metadata or b"{}")
        if not about.get("fingerprint"):
            return None
        command_id, fingerprint = UUID(about["command_id"]), str(about["fingerprint"])
    except (ValueError, LookupError, AttributeError):
        return None  # Another program's event.
    refusal = OrderWasDeleted()
    outcome = {"code": refusal.code, "message": refusal.message, "details": refusal.details}
    return Answer(command_id, fingerprint, orjson.dumps(outcome))
