"""A worker with a real event store on a real Temporal server."""

from collections.abc import AsyncGenerator

import pytest
from temporalio.client import Client

from eventstore.postgres import PostgresStore
from ordering import Orders, working


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url) as opened:
        yield opened


@pytest.fixture
async def orders(temporal: Client, store: PostgresStore) -> AsyncGenerator[Orders]:
    async with working(temporal, store) as commands:
        yield commands
