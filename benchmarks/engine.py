"""What the lifecycles are compared with: a bare workflow, and the pipeline as one would write it first.

No asyncpg in here: the sandbox imports a workflow's module anew, and a C extension doesn't survive that.
"""

from datetime import timedelta

from temporalio import activity, workflow


@workflow.defn(name="Bare")
class Bare:
    """Three updates and the end: what the engine itself costs."""

    def __init__(self) -> None:
        self._updates = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self._updates == 3)
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.update(name="command")
    async def command(self, data: dict[str, str]) -> dict[str, str]:
        self._updates += 1
        return data


@activity.defn
async def step(data: dict[str, str]) -> dict[str, str]:
    """A step that does nothing: only its way through the server is measured."""
    return data


@workflow.defn(name="Naive")
class Naive:
    """Three commands of four regular activities each."""

    def __init__(self) -> None:
        self._updates = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: self._updates == 3)
        await workflow.wait_condition(workflow.all_handlers_finished)

    @workflow.update(name="command")
    async def command(self, data: dict[str, str]) -> dict[str, str]:
        for _ in range(4):
            data = await workflow.execute_activity(step, data, start_to_close_timeout=timedelta(seconds=10))
        self._updates += 1
        return data
