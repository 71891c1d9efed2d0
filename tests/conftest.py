"""The servers that tests run against: real ones, started once per session, by the code that `waybill dev` uses."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import groupby
from math import ceil
from operator import attrgetter
from typing import TypeVar

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from databases import Databases, PrivateServer, private_server, session_server
from temporal_servers import temporal_server

T = TypeVar("T")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that have slow tests among the others, from the beginning.

    So that, of several processes that take a file each, hardly ever two have slow ones at once, and none has one to
    itself in the end.
    """
    slow: list[list[pytest.Item]] = []
    others: list[list[pytest.Item]] = []
    for _, group in groupby(items, attrgetter("path")):
        file = list(group)
        (slow if any(map(_is_slow, file)) else others).append(file)
    if slow:
        items[:] = [item for file in _spread(slow, others) for item in file]


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _spread(some: Sequence[T], others: Sequence[T]) -> list[T]:
    size = ceil(len(others) / len(some))
    return [each for i, one in enumerate(some) for each in (one, *others[i * size : (i + 1) * size])]


@pytest.fixture(scope="session")
async def databases() -> AsyncGenerator[Databases]:
    """The session's PostgreSQL server, for tests that want databases of their own making."""
    async with session_server() as server:
        yield server


@pytest.fixture
async def event_store_url(databases: Databases) -> AsyncGenerator[str]:
    """A migrated, empty event store."""
    from eventstore.migrate import migrate

    async with databases.empty(migrate) as url:
        yield url


@pytest.fixture
async def read_store_url(databases: Databases) -> AsyncGenerator[str]:
    """A migrated, empty read store."""
    from projections.migrate import migrate

    async with databases.empty(migrate) as url:
        yield url


@pytest.fixture
async def new_event_store(databases: Databases) -> AsyncGenerator[Callable[[], Awaitable[str]]]:
    """Makes migrated, empty event stores, as many as a test asks for (one per example of a property, say)."""
    from eventstore.migrate import migrate

    async with AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(databases.empty(migrate))


@pytest.fixture
async def private_postgres() -> AsyncGenerator[PrivateServer]:
    """A server that the test may kill: see PrivateServer. It takes a second to make."""
    async with private_server() as server:
        yield server


@pytest.fixture(scope="session")
async def temporal_environment() -> AsyncGenerator[WorkflowEnvironment]:
    async with temporal_server() as environment:
        yield environment


@pytest.fixture
def temporal(temporal_environment: WorkflowEnvironment) -> Client:
    """A client of the session's Temporal server, with Waybill's data converter."""
    return temporal_environment.client
