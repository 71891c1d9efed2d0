"""Writes that are no commands of an order: under an Idempotency-Key they are done once, like those that are."""

from collections.abc import Awaitable, Callable

from api.parameters import Asking
from domain.ids import event_id
from domain.refusals import IdempotencyKeyReused
from eventstore.store import Answer, EventStore


async def once(
    store: EventStore, asking: Asking, what: str, data: object, effect: Callable[[], Awaitable[bytes]]
) -> bytes:
    """The outcome, a JSON object; of the first time, if the key was used for it before: somebody may have decided
    otherwise since. Raises IdempotencyKeyReused if the key was used for something else.
    """
    if not asking.keyed:
        return await effect()
    fingerprint = asking.fingerprint(what, data)
    known = await store.recall(asking.command_id, event_id(asking.command_id, 0))
    answer = known.answer
    if answer is None and known.event is None:
        # Kept after the effect: whoever dies in between does it again, which changes nothing.
        answer = await store.remember(Answer(asking.command_id, fingerprint, await effect()))
    if answer is None or answer.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return answer.outcome
