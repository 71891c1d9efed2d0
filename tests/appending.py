"""What tests of group commit share: appends that are under way, and what holds them up."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from prometheus_client import REGISTRY

from eventstore.postgres import PostgresStore
from eventstore.store import (
    Appended,
    NewEvent,
)
from tests.contract.appends import append
from tests.support import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PATIENCE = 20


@asynccontextmanager
async def held_up(other: Connection) -> AsyncGenerator[None]:
    """Within this block, no append of anybody gets beyond the global sequence."""
    async with other.transaction():
        await other.execute("select from public.streams where stream_id = 0 for update")
        yield


@asynccontextmanager
async def locked(other: Connection, *streams: str) -> AsyncGenerator[None]:
    """Within this block, somebody's open transaction holds these streams."""
    async with other.transaction():
        await other.execute("select from public.streams where stream_uuid = any ($1) for update", streams)
        yield


async def set_aside(store: PostgresStore, count: int = 1) -> None:
    """Wait until so many appends are out of the others' way."""
    await eventually(lambda: len(store.appender._aside) == count, within=PATIENCE)


async def waiting_backend(other: Connection) -> int:
    """The session whose append is held up."""

    async def found() -> int:
        waits = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        # In one transaction, it would go on telling what it has told first.
        await other.execute("select pg_stat_clear_snapshot()")
        return await other.fetchval(waits) or 0

    return await eventually(found)


async def settled(*tasks: "asyncio.Future[Any]") -> list[object]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


def begun(store: PostgresStore, stream: str, *new: NewEvent, **options: Any) -> "asyncio.Future[Appended]":
    return asyncio.ensure_future(append(store, stream, *new, **options))


def counted(outcome: str) -> float:
    """How many appends have had this outcome in this process."""
    return REGISTRY.get_sample_value("waybill_appends_total", {"outcome": outcome}) or 0
