"""The gateway under test: the app itself, in this process, on real stores, with a real Temporal and a real worker."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx2
import pytest
from temporalio.testing import WorkflowEnvironment

import eventstore.migrate
import projections.migrate
from databases import Databases
from eventstore.postgres import PostgresStore
from over_http import Story, gateway
from settings import Settings
from worker import running


@pytest.fixture(scope="session")
async def lonely_settings(databases: Databases) -> AsyncGenerator[Settings]:
    """Stores that no worker knows of, and a task queue that nobody works on."""
    async with (
        databases.empty(eventstore.migrate.migrate) as event_store_url,
        databases.empty(projections.migrate.migrate) as read_store_url,
    ):
        yield Settings(
            event_store_url=event_store_url,
            read_store_url=read_store_url,
            task_queue=f"nobody-{uuid4()}",
            consistency_timeout=0.2,
            request_timeout=2,
        )


@pytest.fixture(scope="session")
async def lonely(lonely_settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """A gateway without a Temporal server, on read models that are filled by hand."""
    async with AsyncExitStack() as stack:
        # Only while it starts: others read the environment, too.
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
            client = await stack.enter_async_context(gateway(lonely_settings))
        yield client


@pytest.fixture(scope="session")
async def waybill_settings(databases: Databases, temporal_environment: WorkflowEnvironment) -> AsyncGenerator[Settings]:
    """The settings of the session's Waybill. Its worker runs as long as this lasts."""
    client = temporal_environment.client
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
        environment.setenv("TEMPORAL_NAMESPACE", client.namespace)
        async with (
            databases.empty(eventstore.migrate.migrate) as event_store_url,
            databases.empty(projections.migrate.migrate) as read_store_url,
        ):
            settings = Settings(
                event_store_url=event_store_url,
                read_store_url=read_store_url,
                task_queue=f"api-{uuid4()}",
                consistency_timeout=10,
            )
            async with running(settings):
                yield settings


@pytest.fixture(scope="session")
async def waybill(waybill_settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """A whole Waybill: gateway, Temporal, worker, both stores. Tests share it, and so never assume that it is empty."""
    async with gateway(waybill_settings) as client:
        yield client


@pytest.fixture(scope="session")
async def store(waybill_settings: Settings) -> AsyncGenerator[PostgresStore]:
    """The event store of the session's Waybill."""
    async with PostgresStore.open(waybill_settings.event_store_url, 2) as store:
        yield store


@pytest.fixture
def story(waybill: httpx2.AsyncClient, store: PostgresStore) -> Story:
    """An order that nobody has created yet."""
    return Story(waybill, store)
