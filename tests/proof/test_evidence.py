"""What Temporal tells of runs that went wrong."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from proof.evidence import Run, runs
from support import eventually
from temporal_servers import temporal_server


@workflow.defn(name="Order")
class Failing:
    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a mistake in the code")


@pytest.fixture
async def temporal_of_its_own() -> AsyncGenerator[Client]:
    async with temporal_server() as environment:
        yield environment.client


async def test_runs_that_fail_are_stuck_or_were_terminated_are_told_from_others(temporal_of_its_own):
    client = temporal_of_its_own

    async def start(name: str, queue: str) -> Any:
        return await client.start_workflow("Order", id=f"order-{name}", task_queue=queue)

    await (await start("terminated", "nobody")).terminate()
    await start("waiting", "nobody")
    async with Worker(client, task_queue="failing", workflows=[Failing], workflow_runner=UnsandboxedWorkflowRunner()):
        failing = await start("failing", "failing")

        async def has_failed() -> bool:
            return any(
                [
                    event.HasField("workflow_task_failed_event_attributes")
                    async for event in failing.fetch_history_events()
                ]
            )

        await eventually(has_failed, within=30)
    found = await runs(client, 3, within=0.1)

    assert sorted(found, key=lambda run: run.workflow_id) == [
        Run(
            "order-failing",
            "RUNNING",
            stuck=True,
            failures=("WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE",),
        ),
        Run("order-terminated", "TERMINATED"),
        Run("order-waiting", "RUNNING", stuck=True),
    ]
