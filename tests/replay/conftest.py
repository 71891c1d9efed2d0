"""A worker with a real event store on a real Temporal server."""

from collections.abc import AsyncGenerator

import pytest
from temporalio.client import Client

from eventstore.postgres import PostgresStore
from ordering import Orders, working


@pytest.fixture
async def orders(temporal: Client, event_store_url: str) -> AsyncGenerator[Orders]:
    async with PostgresStore.open(event_store_url) as store, working(temporal, store) as commands:
        yield commands
