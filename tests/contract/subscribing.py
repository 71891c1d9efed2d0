"""Short words for what the owner of a subscription does."""

import asyncio

from eventstore.store import EventStore, RecordedEvent, Subscription
from tests.contract.appends import numbers

PATIENCE = 10
"""Seconds to wait for what has to come."""


async def taken(subscription: Subscription, count: int, *, ack: bool = True) -> list[RecordedEvent]:
    """The next `count` events at least, each batch acknowledged when it was taken."""
    seen: list[RecordedEvent] = []
    async with asyncio.timeout(PATIENCE):
        while len(seen) < count:
            batch = await anext(subscription)
            seen += batch
            if ack:
                await subscription.ack(batch[-1])
    return seen


async def run_through(store: EventStore, name: str, count: int, *, stream_id: str = "$all") -> list[int]:
    """The numbers that an owner sees who acknowledges all and leaves."""
    async with store.subscribe(name, stream_id=stream_id) as subscription:
        return numbers(await taken(subscription, count))


async def nothing_comes(subscription: Subscription) -> bool:
    """Whether there is nothing to deliver now: what is asked for would only come later."""
    asked = asyncio.ensure_future(anext(subscription))
    done, _ = await asyncio.wait([asked], timeout=0.3)
    asked.cancel()
    await asyncio.wait([asked])
    return not done
