"""Connections to PostgreSQL, opened in one way for both databases."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

# A server that answers nothing at all must not hold a caller for ever.
_CONNECT_TIMEOUT = 5
_STATEMENT_TIMEOUT = 30


@asynccontextmanager
async def open_pool(url: str, size: int, **settings: str) -> AsyncGenerator["Pool"]:
    """At most `size` connections, the first opened at once. `settings` are PostgreSQL's, for every connection."""
    creating = asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        timeout=_CONNECT_TIMEOUT,
        command_timeout=_STATEMENT_TIMEOUT,
        reset=_leave_session,
        server_settings={"application_name": "waybill", "jit": "off", **settings},
    )
    try:
        pool = await creating
    except OSError as error:
        raise ConnectionError(f"no PostgreSQL at {_place(url)}: {error.strerror or error}") from error
    async with pool:
        yield pool


@asynccontextmanager
async def open_connection(url: str, **settings: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """One connection, for who keeps it: a listener, a projection. `settings` are PostgreSQL's."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        url,
        timeout=_CONNECT_TIMEOUT,
        command_timeout=_STATEMENT_TIMEOUT,
        server_settings={"application_name": "waybill", "jit": "off", **settings},
    )
    try:
        yield connection
    finally:
        # The block's own error counts, not that a connection which is gone can't say goodbye.
        with suppress(Exception):
            await connection.close(timeout=_CONNECT_TIMEOUT)


def _place(url: str) -> str:
    """The URL without its password, and without what else it may hold."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "its default socket")
    return f"{host}, database {parts.path.strip('/')} (see WAYBILL_EVENT_STORE_URL and WAYBILL_READ_STORE_URL)"


async def _leave_session(_connection: "Connection") -> None:
    """Nothing to reset: statements here change no session. asyncpg's own reset is one round trip per release."""
