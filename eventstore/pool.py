"""Connections to PostgreSQL, opened in one way for both databases."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import asyncpg

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery
    from asyncpg.pool import PoolConnectionProxy

    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

UNAVAILABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    TimeoutError,
)
"""What asyncpg raises while the server is away, restarting, being killed, or a standby."""

# A server that answers nothing at all must not hold a caller for ever.
_CONNECT_TIMEOUT = 5
STATEMENT_TIMEOUT = 30
"""Seconds after which a statement is given up."""
# What lies between may have forgotten a connection that said nothing for longer; it is also what pools allow.
_LONGEST_IDLE = 300


@asynccontextmanager
async def open_pool(url: str, size: int, **settings: str) -> AsyncGenerator["Pool"]:
    """At most `size` connections, the first opened at once. `settings` are PostgreSQL's, for every connection.

    Raises ConnectionError while PostgreSQL is away.
    """
    creating = asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        timeout=_CONNECT_TIMEOUT,
        command_timeout=STATEMENT_TIMEOUT,
        init=_part_with_standbys,
        reset=_leave_session,
        server_settings={"application_name": "waybill", "jit": "off", **settings},
    )
    try:
        pool = await creating
    except UNAVAILABLE as error:
        # asyncpg's complaints about wrong arguments are interface errors, too.
        if isinstance(error, ValueError):
            raise
        raise ConnectionError(f"no PostgreSQL at {_place(url)}: {_reason(error)}") from error
    async with pool:
        yield pool


class Line:
    """One connection of somebody's own, opened when it is needed, and again after it was lost.

    Without a pool's bookkeeping, which is half of what a short statement costs its client. One statement at a time.
    """

    def __init__(self, url: str, **settings: str) -> None:
        self._url = url
        self._settings = settings
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._used = 0.0

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """The statement's rows. Raises what asyncpg does; the next call has a new connection then, if it needs one."""
        now = asyncio.get_running_loop().time()
        if self._connection and (self._connection.is_closed() or now - self._used > _LONGEST_IDLE):
            await self.close()
        if self._connection is None:
            self._connection = await _connect(self._url, **self._settings)
        self._used = now
        try:
            return await self._connection.fetch(statement, *arguments)
        except BaseException as error:
            # The server's own word says that it is there. It may be one that takes no writes (see _part_with_standbys).
            if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await _close(connection)


@asynccontextmanager
async def open_connection(url: str, **settings: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """One connection, for who keeps it: a listener, a projection. `settings` are PostgreSQL's."""
    connection = await _connect(url, **settings)
    await _part_with_standbys(connection)
    try:
        yield connection
    finally:
        await _close(connection)


async def _connect(url: str, **settings: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        url,
        timeout=_CONNECT_TIMEOUT,
        command_timeout=STATEMENT_TIMEOUT,
        server_settings={"application_name": "waybill", "jit": "off", **settings},
    )


async def _part_with_standbys(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """After a failover a connection may lead to a server that takes no writes: who needs one gets another then."""

    def look(query: "LoggedQuery") -> None:
        if isinstance(query.exception, asyncpg.ReadOnlySQLTransactionError):
            connection.terminate()

    connection.add_query_logger(look)


async def _close(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    # What went before counts, not that a connection which is gone can't say goodbye.
    with suppress(Exception):
        await connection.close(timeout=_CONNECT_TIMEOUT)


def _reason(error: Exception) -> str:
    told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(told.split())


def _place(url: str) -> str:
    """The URL without its password, and without what else it may hold."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "its default socket")
    return f"{host}, database {parts.path.strip('/')} (see WAYBILL_EVENT_STORE_URL and WAYBILL_READ_STORE_URL)"


async def _leave_session(_connection: "Connection") -> None:
    """Nothing to reset: statements here change no session. asyncpg's own reset is one round trip per release."""
