"""Every test here runs against both stores: what they must do is the same."""

from collections.abc import AsyncGenerator

import pytest

from eventstore.memory import MemoryStore
from eventstore.postgres import PostgresStore
from eventstore.store import EventStore


@pytest.fixture
def memory_store() -> EventStore:
    return MemoryStore()


@pytest.fixture
async def postgres_store(event_store_url: str) -> AsyncGenerator[EventStore]:
    async with PostgresStore.open(event_store_url) as store:
        yield store


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> EventStore:
    """A new and empty event store."""
    return request.getfixturevalue(f"{request.param}_store")
