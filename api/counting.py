"""How many events are parked, for who asks every few seconds.

Counting goes through all of them, which may be millions when something is wrong: it is done in the background, and the
more seldom the longer it takes. Who asks gets what was counted last.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context

import structlog

from projections.parking import State

log = structlog.get_logger(__name__)

Counts = Mapping[str, Mapping[State, int]]


class ParkedCounts:
    """What `count` has given last."""

    QUICK_SECONDS = 0.1
    """A count that takes no longer is made whenever somebody asks."""
    SHARE = 30
    """Any other is followed by a pause of so many times what it took: one of a second is made every half a minute.

    One that has failed says nothing of how long counting takes: it is tried again after as long as it took.
    """
    WAIT_SECONDS = 0.5
    """For so long one waits for the count that is under way: while little is parked, it is always the newest."""

    def __init__(self, count: Callable[[], Awaitable[Counts]]) -> None:
        self._count = count
        self._known: Counts | None = None
        self._counting: asyncio.Task[None] | None = None
        self._due = 0.0

    async def known(self) -> Counts | None:
        """By subscriber, then state; None if nothing has been counted yet, or the stores couldn't be asked."""
        if self._counting is None and asyncio.get_running_loop().time() >= self._due:
            # In no request's context: what it finds is for all of them.
            self._counting = asyncio.create_task(self._run(), name="parked counts", context=Context())
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=self.WAIT_SECONDS)
        return self._known

    async def close(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.wait([self._counting])

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        began, share = clock(), 1
        try:
            self._known = await self._count()
            share = self.SHARE
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            self._known = None
            log.warning("parked.not_counted", reason=type(error).__name__)
        finally:
            took = clock() - began
            self._due = clock() + (share * took if took > self.QUICK_SECONDS else 0)
            self._counting = None
