"""What a step tells the workflow when it doesn't succeed.

A refusal is final and no fault of the worker: Temporal neither retries it nor counts it as an error. Anything else
that a step raises is taken for a fault of the infrastructure, and retried within a bound.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import orjson
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from domain.aggregates import COMMANDS, ORDER
from domain.commands import CommandRequest, Receipt
from domain.refusals import (
    HistoryUnreadable,
    IdempotencyKeyReused,
    OrderNotFound,
    OrderWasDeleted,
    Refusal,
    ShipmentNotFound,
)
from eventstore.codec import UndecodableEvent
from eventstore.store import Answer, EventStore, StreamDeleted

ORDER_MOVED = "order-moved"
"""The order isn't as it was when the command was enriched: enrich again."""
CLAIM_LOST = "claim-lost"
"""The reservation ran out and another took the key: reserve again."""
CLAIM_LEASED = "claim-leased"
"""Another order has reserved the key, but not confirmed it: ask again."""

# What isn't there yet may come, and the gateway says so without asking a run; another's key is not this request's.
_NOT_KEPT = (IdempotencyKeyReused, OrderNotFound, ShipmentNotFound)


def refused(refusal: Refusal) -> ApplicationError:
    """The refusal as a failure that crosses activities, updates and the wire."""
    return benign(refusal.message, refusal.code, refusal.details)


def benign(message: str, code: str, *details: object, retry: bool = False) -> ApplicationError:
    return ApplicationError(
        message, *details, type=code, non_retryable=not retry, category=ApplicationErrorCategory.BENIGN
    )


@asynccontextmanager
async def refusing(store: EventStore, request: CommandRequest) -> AsyncGenerator[None]:
    """Turns the domain's refusals into the workflow's, and keeps those that the caller may ask for again."""
    try:
        yield
    except UndecodableEvent as undecodable:
        # Never stepped over, never tried again, and not kept as the answer: code that can read the event may come.
        raise refused(HistoryUnreadable(str(undecodable))) from None
    except StreamDeleted:
        aggregate, _ = COMMANDS[request.command]
        raise refused(OrderWasDeleted() if aggregate is ORDER else ShipmentNotFound()) from None
    except Refusal as refusal:
        if request.keyed and not isinstance(refusal, _NOT_KEPT):
            refusal = await _remember(store, request, refusal)
        raise refused(refusal) from None


async def _remember(store: EventStore, request: CommandRequest, refusal: Refusal) -> Refusal:
    outcome = orjson.dumps({"code": refusal.code, "message": refusal.message, "details": refusal.details})
    kept = await store.remember(Answer(request.command_id, request.fingerprint, outcome))
    try:
        recalled(request, kept)
    except Refusal as first:
        return first
    return refusal


def recalled(request: CommandRequest, answer: Answer) -> Receipt:
    """The receipt that was kept for this command. Raises the refusal, if that was its answer; IdempotencyKeyReused, if
    it was the answer to another request.
    """
    if answer.fingerprint != request.fingerprint:
        raise IdempotencyKeyReused
    outcome = orjson.loads(answer.outcome)
    if "receipt" in outcome:
        return Receipt.model_validate_json(orjson.dumps(outcome["receipt"]))
    raise Refusal.of(**outcome)


def require_same_request(request: CommandRequest, metadata: bytes | None) -> None:
    """Raises IdempotencyKeyReused if the event with this metadata answers another request."""
    if request.keyed and orjson.loads(metadata or b"{}").get("fingerprint") != request.fingerprint:
        raise IdempotencyKeyReused
