"""Changed workflow code is deployed over open runs, by real workers that run a changed copy of Waybill."""

import shutil
import tomllib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from command_line import CommandLine
from eventstore.postgres import PostgresStore
from ordering import Orders
from support import eventually
from worker_processes import worker_process
from workflows.messages import OrderStart, workflow_id

ROOT = Path(__file__).parents[2]
DECISION = "if request.command in ENRICHED:"
FORBIDDEN = 'if request.command in ENRICHED or request.command == "CreateOrder":'
"""Creations are enriched, too: a step that runs which are open have not taken."""
PATCHED = DECISION.replace(":", ' or (request.command == "CreateOrder" and workflow.patched("creation-is-enriched")):')

Environment = Mapping[str, str]


@pytest.fixture
def environment(event_store_url: str, read_store_url: str, temporal: Client) -> dict[str, str]:
    return {
        "WAYBILL_EVENT_STORE_URL": event_store_url,
        "WAYBILL_READ_STORE_URL": read_store_url,
        "WAYBILL_TASK_QUEUE": f"deploy-{uuid4()}",
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
    }


@pytest.fixture
async def orders(environment: Environment, temporal: Client) -> AsyncGenerator[Orders]:
    async with PostgresStore.open(environment["WAYBILL_EVENT_STORE_URL"]) as store:
        yield Orders(temporal, store, environment["WAYBILL_TASK_QUEUE"])


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str], Environment]:
    """Gives what makes a process run a copy of this code in which the pipeline decides in another way."""
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    def copy(decision: str) -> Environment:
        place = tmp_path / uuid4().hex
        place.mkdir()
        for part in package["only-include"]:
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, place / part)
        pipeline = place / "workflows" / "pipeline.py"
        assert pipeline.read_text().count(DECISION) == 1
        pipeline.write_text(pipeline.read_text().replace(DECISION, decision))
        return {"PYTHONPATH": str(place)}

    return copy


async def steps(orders: Orders, order_id: UUID) -> list[str]:
    """The steps that the order's latest run has taken."""
    history = await orders.client.get_workflow_handle(workflow_id(order_id)).fetch_history()
    markers = [event.marker_recorded_event_attributes for event in history.events]
    local = [marker for marker in markers if marker.marker_name == "core_local_activity"]
    told = [marker.details["data"].payloads[0].data for marker in local]
    names = ("ValidateCommand", "EnrichCommand", "ReserveUniqueness", "ExecuteAndAppend", "RecallOrder")
    return [next(name for name in names if name.encode() in data) for data in told]


async def test_a_patched_workflow_goes_on_with_open_runs_and_replay_finds_one_that_would_not(
    environment, orders, changed, tmp_path
):
    old_order, new_order = uuid4(), uuid4()
    async with worker_process(environment) as worker:
        await worker.said("worker.ready")
        await orders.create(old_order)
        worker.stop()
        assert await worker.ended() == 0
    patched = environment | changed(PATCHED)

    # Before the deploy.
    open_runs = str(tmp_path / "open-runs")
    queue = f"TaskQueue = '{environment['WAYBILL_TASK_QUEUE']}'"

    async def exported() -> bool:
        export = await CommandLine(environment)("history", "export", "--open", "--query", queue, open_runs)
        return export.err == "exported: 1\n"

    await eventually(exported)
    forbidden = await CommandLine(environment | changed(FORBIDDEN))("history", "replay", open_runs)
    assert forbidden.code == 1
    assert forbidden.out.startswith(f"{workflow_id(old_order)}.")
    assert "FAILED" in forbidden.out
    allowed = await CommandLine(patched)("history", "replay", open_runs)
    assert (allowed.code, allowed.out.splitlines()[-1]) == (0, "replayed: 1, failed: 0")

    # The deploy.
    async with worker_process(patched) as worker:
        await worker.said("worker.ready")
        await orders.complete(old_order)
        await orders.ship(old_order)
        await orders.create(new_order)
        worker.stop()
        assert await worker.ended() == 0
    create, enriched_create = ["ValidateCommand", "ReserveUniqueness"], ["ValidateCommand", "EnrichCommand"]
    assert (await steps(orders, old_order))[:2] == create
    assert (await steps(orders, new_order))[:2] == enriched_create


async def test_a_versioned_deploy_leaves_open_runs_to_the_code_that_they_began_on(environment, orders, changed):
    name = f"waybill-{uuid4().hex[:8]}"
    pinned, abandoned, new = uuid4(), uuid4(), uuid4()

    async def becomes_current(build: str) -> bool:
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=orders.client.namespace, deployment_name=name, build_id=build
        )
        try:
            await orders.client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError as not_yet:
            raise AssertionError(str(not_yet)) from None
        return True

    versioned = environment | {"WAYBILL_DEPLOYMENT_NAME": name}
    old, new_code = versioned | {"WAYBILL_BUILD_ID": "1"}, versioned | changed(FORBIDDEN) | {"WAYBILL_BUILD_ID": "2"}
    async with worker_process(old) as first, worker_process(new_code) as second:
        await first.said("worker.ready", version=[name, "1"])
        await eventually(lambda: becomes_current("1"), within=30)
        for order_id in (pinned, abandoned):
            await orders.create(order_id)

        await second.said("worker.ready", version=[name, "2"])
        await eventually(lambda: becomes_current("2"), within=30)
        await orders.create(new)
        assert "EnrichCommand" in await steps(orders, new)
        await orders.complete(pinned)
        await orders.ship(pinned)
        assert (await steps(orders, pinned))[:2] == ["ValidateCommand", "ReserveUniqueness"]

        # Who doesn't want to wait until the last old run has ended: a run is a cache.
        first.stop()
        assert await first.ended() == 0
        await orders.client.get_workflow_handle(workflow_id(abandoned)).terminate()
        orders.start = lambda order_id: OrderStart.reviving(order_id, idle_seconds=3600, step_seconds=15)
        await orders.complete(abandoned)
        await orders.ship(abandoned)
        assert await orders.types(abandoned) == ["OrderCreated", "OrderCompleted"]
        second.stop()
        assert await second.ended() == 0
