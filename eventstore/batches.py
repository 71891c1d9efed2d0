"""Events of any number in bounded memory: a page after the other, read when it is wanted, or before."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from eventstore.store import ALL_STREAM, EventStore, RecordedEvent

_AT_A_TIME = 2


class Read(Protocol):
    """`store.read_all`, or `partial(store.read_stream, stream_id)`."""

    async def __call__(self, *, after: int, limit: int) -> list[RecordedEvent]: ...


async def in_batches(read: Read, *, after: int = 0, size: int = 1000) -> AsyncGenerator[list[RecordedEvent]]:
    """What `read` can read, `size` events at a time."""
    while page := await read(after=after, limit=size):
        yield page
        if len(page) < size:
            break
        after = page[-1].number


async def in_ranges(
    store: EventStore,
    *,
    after: int = 0,
    until: int | None = None,
    size: int = 2000,
    types: Sequence[str] | None = None,
) -> AsyncGenerator[tuple[int, list[RecordedEvent]]]:
    """The global sequence from a position to another, its present end as a rule, `size` positions at a time.

    Gives each range's last position and what is in it: nothing, perhaps, where all is of other types or removed. As
    positions are dense, nobody needs to have seen a range to ask for the next: two are read at a time, before they are
    wanted, each on a connection. Finding events is the server's work and most of what a page costs. Raises what
    `read_all` does. Who leaves before the end closes it (contextlib.aclosing).
    """
    if until is None:
        until = await store.stream_version(ALL_STREAM)
    ahead: deque[tuple[int, asyncio.Task[list[RecordedEvent]]]] = deque()
    try:
        while ahead or after < until:
            while len(ahead) < _AT_A_TIME and after < until:
                end = min(after + size, until)
                reading = store.read_all(after=after, until=end, limit=size, types=types)
                ahead.append((end, asyncio.ensure_future(reading)))
                after = end
            end, page = ahead.popleft()
            yield end, await page
    finally:
        left = [page for _, page in ahead]
        for page in left:
            page.cancel()
        await asyncio.gather(*left, return_exceptions=True)
