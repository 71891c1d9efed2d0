"""The gateway under test: the app itself, in this process, on real stores, with a real Temporal and a real worker."""

from collections.abc import AsyncGenerator, Generator
from uuid import uuid4

import httpx2
import pytest
from databases import Databases
from over_http import Story, gateway
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

import eventstore.migrate
import projections.migrate
from eventstore.postgres import PostgresStore
from settings import Settings
from worker import running


@pytest.fixture
def at_temporal(temporal: Client) -> Generator[None]:
    """The environment that leads to the session's Temporal server."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
        environment.setenv("TEMPORAL_NAMESPACE", temporal.namespace)
        yield


@pytest.fixture
def settings(event_store_url: str, read_store_url: str) -> Settings:
    """Empty stores of this test's own, and a task queue that nobody works on."""
    return Settings(
        event_store_url=event_store_url,
        read_store_url=read_store_url,
        pool_size=2,
        task_queue=f"nobody-{uuid4()}",
        consistency_timeout=0.2,
    )


@pytest.fixture
async def lonely(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[httpx2.AsyncClient]:
    """A gateway on empty stores, without a Temporal server."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    async with gateway(settings) as client:
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
