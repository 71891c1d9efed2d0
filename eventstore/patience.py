"""Waits for PostgreSQL where a process starts before that is there, or while it is being started again."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

import structlog

from eventstore.listener import pause_after
from eventstore.pool import UNAVAILABLE

T = TypeVar("T")

log = structlog.get_logger(__name__)


@asynccontextmanager
async def patiently(opening: Callable[[], AbstractAsyncContextManager[T]], within: float) -> AsyncGenerator[T]:
    """What `opening()` opens. While PostgreSQL is away it is tried again, for so many seconds; the log says so once.

    Raises ConnectionError if it is away for longer.
    """
    async with AsyncExitStack() as stack:
        yield await _opened(stack, opening, within)


def give_up(waiting: asyncio.Timeout) -> None:
    """Let the block of `waiting` end now, with TimeoutError, if somebody is still in it."""
    with suppress(RuntimeError):
        waiting.reschedule(asyncio.get_running_loop().time())


async def _opened(stack: AsyncExitStack, opening: Callable[[], AbstractAsyncContextManager[T]], within: float) -> T:
    clock = asyncio.get_running_loop().time
    deadline, failures = clock() + within, 0
    while True:
        try:
            opened = await stack.enter_async_context(opening())
        except UNAVAILABLE as error:
            # asyncpg's complaints about wrong arguments are interface errors, too.
            if isinstance(error, ValueError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            if clock() >= deadline:
                raise ConnectionError(reason) from error
            if not failures:
                log.warning("database.awaited", within=within, reason=reason)
            failures += 1
        else:
            if failures:
                log.info("database.there", failures=failures)
            return opened
        await asyncio.sleep(pause_after(failures))
