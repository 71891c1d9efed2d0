"""Notifications of a PostgreSQL channel, on a connection of their own that is opened again whenever it is lost.

A notification is a hint that comes soon, never the truth: whoever waits for something also looks for himself
now and then.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import asyncpg
import structlog

from eventstore.appender import UNAVAILABLE
from eventstore.pool import open_connection

log = structlog.get_logger(__name__)

Tell = Callable[[str | None], None]
"""Takes a notification's payload; None means that some may have been missed."""

_HEARTBEAT = 10.0
_HEARTBEAT_TIMEOUT = 5.0


@asynccontextmanager
async def listening(url: str, channel: str, tell: Tell) -> AsyncGenerator[None]:
    """Within this block, `tell` gets the payload of each notification on `channel`.

    It gets None each time the connection is there (again). A database that is away raises nothing: it is tried again
    for ever. `tell` runs on the event loop: it must be quick, and what it raises goes to the loop's exception handler.
    """
    task = asyncio.create_task(_listen(url, channel, tell), name=f"listen {channel}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def pause_after(failures: int, *, most: float = 5.0) -> float:
    """Seconds to wait before the next attempt: longer each time, and not the same for all who failed together."""
    return min(most, 0.05 * 2 ** min(failures, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


async def wait_for_hint(hint: asyncio.Event, seconds: float) -> None:
    """Wait until the hint comes, or for so long."""
    # Not wait_for(): in Python 3.11 it swallows a cancellation that comes together with what it waits for.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await hint.wait()


async def _listen(url: str, channel: str, tell: Tell) -> NoReturn:
    failures = 0
    while True:
        try:
            async with open_connection(url) as connection:
                await connection.add_listener(channel, lambda _connection, _pid, _channel, payload: tell(str(payload)))
                if failures:
                    log.info("listener.back", channel=channel)
                failures = 0
                tell(None)
                await _until_lost(connection)
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            if not failures:
                log.warning("listener.lost", channel=channel, reason=type(error).__name__)
            failures += 1
        await asyncio.sleep(pause_after(failures))


async def _until_lost(connection: "asyncpg.Connection[asyncpg.Record]") -> NoReturn:
    """Raises when the connection is gone. A host that vanished says nothing, so it is asked from time to time."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _connection: lost.set())
    while True:
        await wait_for_hint(lost, _HEARTBEAT)
        await connection.execute("select 1", timeout=_HEARTBEAT_TIMEOUT)
