"""How a worker runs the order process: what it registers, and the bounds it keeps."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.common import VersioningBehavior
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    PollerBehaviorAutoscaling,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkerDeploymentConfig,
    WorkerDeploymentVersion,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.telemetry import observed
from workflows.order import OrderWorkflow

# The sandbox loads a workflow's modules anew for each run. What is pure or only names things is shared instead.
_SHARED = ("domain", "activities", "eventstore", "workflows.messages", "workflows.pipeline", "pydantic", "orjson")

_ATTEMPTS_THAT_HANG = 3
"""So many attempts of a step that hang fit into its time."""


def workflow_runner(*, sandboxed: bool) -> WorkflowRunner:
    """How workflow code runs: in the sandbox that catches non-deterministic calls, or without it.

    Tests and replays run in the sandbox. A worker doesn't: the code is the same, and the sandbox costs it a
    third of its throughput (docs/decisions/0002-local-activities.md).
    """
    if not sandboxed:
        return UnsandboxedWorkflowRunner()
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*_SHARED))


def order_worker(
    client: Client,
    activities: Sequence[Callable[..., Any]],
    *,
    task_queue: str,
    max_workflow_tasks: int = 100,
    max_steps: int = 200,
    max_cached_workflows: int = 2000,
    shutdown_timeout: float = 10,
    version: tuple[str, str] | None = None,
    sandboxed: bool = False,
) -> Worker:
    """A worker for orders; shutdown_timeout in seconds, version a deployment's name and a build id."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[OrderWorkflow],
        activities=activities,
        workflow_runner=workflow_runner(sandboxed=sandboxed),
        interceptors=[_Steps()],
        max_cached_workflows=max_cached_workflows,
        max_concurrent_workflow_tasks=max_workflow_tasks,
        max_concurrent_local_activities=max_steps,
        # Pollers follow the load: an idle worker holds few long polls, a busy one enough of them.
        workflow_task_poller_behavior=PollerBehaviorAutoscaling(minimum=2, initial=5, maximum=20),
        # Every step is local: there is nothing to poll for.
        no_remote_activities=True,
        # How long an order waits for a worker that has died with its run in memory.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
        graceful_shutdown_timeout=timedelta(seconds=shutdown_timeout),
        deployment_config=WorkerDeploymentConfig(
            WorkerDeploymentVersion(*version),
            use_worker_versioning=True,
            # A run ends on the code that it began on (docs/deploys.md). It is said here, because who isn't versioned
            # must not say it.
            default_versioning_behavior=VersioningBehavior.PINNED,
        )
        if version
        else None,
    )


class _Steps(Interceptor):
    """Observes every attempt of a step, and gives one that hangs up early enough for another one.

    start_to_close_timeout isn't up to it: in the SDK the timer of an attempt that has failed runs on and hits a later
    attempt, whatever that is doing.
    """

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002 - the SDK's name for it
    ) -> ActivityInboundInterceptor:
        return _Step(next)


class _Step(ActivityInboundInterceptor):
    async def execute_activity(
        self,
        input: ExecuteActivityInput,  # noqa: A002 - the SDK's name for it
    ) -> Any:
        time = activity.info().schedule_to_close_timeout
        assert time is not None
        with observed(*input.args[:1]):
            async with asyncio.timeout(time.total_seconds() / _ATTEMPTS_THAT_HANG):
                return await self.next.execute_activity(input)
