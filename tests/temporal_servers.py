"""Temporal for the tests: the development server that `waybill dev` runs, in memory, on a free port."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from dev import temporal

CONTINUE_SOON = "limit.historyCount.suggestContinueAsNew=50"
"""Dynamic config that makes a run continue as new after a handful of commands instead of after hundreds."""


@asynccontextmanager
async def temporal_server(*dynamic_config: str, identity: str | None = None) -> AsyncGenerator[WorkflowEnvironment]:
    """A server with Waybill's search attributes, and a client with Waybill's data converter that goes by `identity`."""
    options = [part for value in dynamic_config for part in ("--dynamic-config-value", value)]
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        identity=identity,
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in temporal.SEARCH_ATTRIBUTES],
        dev_server_existing_path=temporal.binary(),
        dev_server_extra_args=[*temporal.TUNING, *options],
    ) as environment:
        yield environment
