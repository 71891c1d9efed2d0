"""A build while it is ours: the lease, and the fence that every batch's transaction begins with.

It asks whether the build is still ours: an owner that was paused, and comes back after another has taken over, writes
nothing.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from eventstore.statements import load_statements
from projections.builds import Build

if TYPE_CHECKING:
    from projections.projection import Connection

_SQL = load_statements("projections", "runner.sql")


class LeaseLost(Exception):
    """Another worker has taken the projection over, or its checkpoint was moved by hand."""


class Owned:
    """A build that `owner` owns, for `lease` after each of its steps."""

    def __init__(self, connection: "Connection", build: Build, owner: str, lease: timedelta) -> None:
        self.connection = connection
        self.build = build
        self.checkpoint = 0
        """The position up to which the events have been seen."""
        self._owner = owner
        self._lease = lease
        self._pace = _Pace()

    async def learn(self) -> None:
        """Where it stands, by what is committed."""
        self.checkpoint = await self.connection.fetchval(_SQL["checkpoint"], self.build.key)

    @asynccontextmanager
    async def step(self, to: int) -> AsyncGenerator[None]:
        """A transaction that moves the checkpoint, for the rows that go with it. Raises LeaseLost."""
        async with self.connection.transaction():
            if await self.connection.fetchrow(_SQL["advance"], *self._claim(to), to) is None:
                raise LeaseLost
            yield
        self.checkpoint = to

    async def renew(self) -> None:
        """Keep it for another lease. Raises LeaseLost."""
        if await self.connection.fetchval(_SQL["renew"], *self._claim(self.checkpoint)) is None:
            raise LeaseLost

    def _claim(self, to: int) -> tuple[object, ...]:
        return self.build.key, self._owner, self._lease, self.checkpoint, self._pace.at(to)


class _Pace:
    """Events a second, lately."""

    _SECONDS = 5.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, position: int) -> float:
        now = time.monotonic()
        self._seen.append((now, position))
        while len(self._seen) > 2 and self._seen[1][0] < now - self._SECONDS:
            self._seen.popleft()
        began, first = self._seen[0]
        return (position - first) / (now - began) if now > began else 0.0
