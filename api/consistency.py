"""Reading your own writes: wait, within a bound, until the read models have come to a position.

A notification is a hint that spares a wait; the positions in the table are the truth. However many wait, one task
asks for them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import Context
from dataclasses import dataclass

import structlog

from eventstore.appender import UNAVAILABLE
from projections.projection import Projection
from projections.registry import PROJECTIONS

log = structlog.get_logger(__name__)

NAMES = tuple(projection.name for projection in PROJECTIONS)


@dataclass(eq=False, slots=True)
class _Waiter:
    projections: Collection[str]
    position: int
    reached: "asyncio.Future[None]"


class Consistency:
    """What the read models are known to have seen, and who waits for more.

    `ask` gives the position of every projection by name; `projections` are those of our version.
    """

    POLL_SECONDS = 0.1
    """How long a waiter may be late if no notification comes."""

    def __init__(
        self, ask: Callable[[], Awaitable[Mapping[str, int]]], projections: Collection[Projection] = PROJECTIONS
    ) -> None:
        self._ask = ask
        self._versions = {projection.name: str(projection.version) for projection in projections}
        self._known: dict[str, int] = {}
        self._waiters: set[_Waiter] = set()
        self._polling: asyncio.Task[None] | None = None
        self._missing = False

    async def reached(self, position: int, *, projections: Collection[str] = NAMES, within: float) -> bool:
        """Whether all of `projections` have come to `position`, at the latest after `within` seconds."""
        if self._has_reached(projections, position):
            return True
        if within <= 0:
            return False
        waiter = _Waiter(projections, position, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        # In no request's context: it asks for all of them.
        self._polling = self._polling or asyncio.create_task(self._poll(), name="consistency", context=Context())
        try:
            async with asyncio.timeout(within):
                await waiter.reached
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._waiters.discard(waiter)

    def heard(self, payload: str | None) -> None:
        """A notification came: `name,version,position`; None means that some may have been missed.

        Rows that other versions have made are not those that we read.
        """
        if payload is None:
            self._known.clear()
            return
        match payload.split(","):
            case [name, version, position] if self._versions.get(name) == version and position.isdecimal():
                self._learn(name, int(position))
                self._wake()
            case _:
                pass

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])

    async def _poll(self) -> None:
        try:
            while self._waiters:
                await self._look()
                await asyncio.sleep(self.POLL_SECONDS)
        finally:
            self._polling = None

    async def _look(self) -> None:
        try:
            positions = await self._ask()
        except UNAVAILABLE as error:
            if not self._missing:
                log.warning("positions.unavailable", error=type(error).__name__)
            self._missing = True
            return
        self._missing = False
        for name, position in positions.items():
            self._learn(name, position)
        self._wake()

    def _learn(self, name: str, position: int) -> None:
        # What was asked may arrive after a notification that is newer.
        self._known[name] = max(position, self._known.get(name, 0))

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.reached.done() and self._has_reached(waiter.projections, waiter.position):
                waiter.reached.set_result(None)

    def _has_reached(self, projections: Collection[str], position: int) -> bool:
        return all(self._known.get(name, 0) >= position for name in projections)
