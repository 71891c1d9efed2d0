"""When a server is away: a clean answer within a bound, reads go on where they can, and nothing has to be restarted."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

import eventstore.migrate
import projections.migrate
from api.commands import Commands
from dev import temporal as temporal_server
from domain.commands import CommandRequest
from domain.order import OrderCompleted
from over_http import Story, gateway, problem
from settings import Settings
from support import eventually
from worker import running


def unavailable(answer):
    """A 503 that says when to come again."""
    assert int(answer.headers["retry-after"]) > 0
    return problem(answer, 503, "unavailable")


async def test_without_temporal_commands_are_put_off_and_reads_go_on(lonely, story):
    unavailable(await lonely.post("/orders", json=story.body))
    unavailable(await lonely.post("/orders", json=story.body, headers={"Prefer": "respond-async"}))
    assert (await lonely.get("/orders")).status_code == 200
    assert (await lonely.get("/blocked-products")).status_code == 200


@pytest.fixture
def deserted(waybill_settings):
    """Settings of a gateway whose commands nobody works on."""
    queue = f"deserted-{uuid4()}"
    return waybill_settings.model_copy(update={"task_queue": queue, "request_timeout": 1.0, "projections": False})


async def test_without_a_worker_a_command_is_put_off_and_done_once_there_is_one(deserted, story: Story):
    key = {"Idempotency-Key": str(uuid4())}

    async def create():
        return await client.post("/orders", json=story.body, headers=key)

    async def created():
        answer = await create()
        return answer if answer.status_code == 201 else None

    async with gateway(deserted) as client:
        assert "Idempotency-Key" in unavailable(await create())["detail"]
        unavailable(await create())
        async with running(deserted):
            assert await eventually(created, within=20)
    assert await story.new_events() == [story.created]


async def test_a_command_whose_run_is_ended_is_sent_again(deserted, story: Story, temporal):
    await story.given(story.created)
    run = temporal.get_workflow_handle(f"order-{story.order_id}")

    async def end_the_run() -> bool:
        with suppress(RPCError):  # it has not begun yet
            await run.terminate("as an operator might")
            return True
        return False

    async with gateway(deserted.model_copy(update={"request_timeout": 20.0})) as client:
        waiting = asyncio.create_task(client.post(f"{story.path}/complete"))
        await eventually(end_the_run)
        async with running(deserted):
            answer = await waiting
    assert answer.status_code == 200
    assert await story.new_events() == [OrderCompleted(id=story.order_id)]


async def test_an_order_takes_many_commands_at_once(story: Story):
    await story.waybill.post("/orders", json=story.body)
    item = story.body["items"][0]
    answers = await asyncio.gather(*(story.waybill.post(f"{story.path}/items", json=item) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["version"] for answer in answers) == list(range(2, 32))
    assert len((await story.waybill.get(story.path)).json()["items"]) == 31


async def test_three_gateways_together_do_not_ask_too_much_of_one_run(story: Story, waybill_settings):
    await story.waybill.post("/orders", json=story.body)
    item = story.body["items"][0]
    async with gateway(waybill_settings) as second, gateway(waybill_settings) as third:
        clients = [story.waybill, second, third] * 20
        answers = await asyncio.gather(*(client.post(f"{story.path}/items", json=item) for client in clients))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["version"] for answer in answers) == list(range(2, 62))


async def test_the_largest_order_that_may_be_is_taken(story: Story):
    item = story.body["items"][0] | {"quantity": 123456789.123}
    created = await story.waybill.post("/orders", json=story.body | {"items": [item] * 1000})
    assert created.status_code == 201
    assert len((await story.waybill.get(story.path)).json()["items"]) == 1000


async def test_more_commands_than_a_gateway_takes_are_sent_away_at_once(deserted, story: Story):
    async with gateway(deserted.model_copy(update={"max_commands": 3})) as client:
        bodies = [story.body | {"id": str(uuid4()), "order_number": str(uuid4())} for _ in range(8)]
        answers = await asyncio.gather(*(client.post("/orders", json=body) for body in bodies))
        told = sorted(answer.json()["code"] for answer in answers)
        assert told == ["too-many-requests"] * 5 + ["unavailable"] * 3
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        # Those that were waited for are let go of.
        unavailable(await client.post("/orders", json=bodies[0]))


async def test_a_temporal_server_that_dies_and_comes_back_is_found_again(waybill_settings, story, monkeypatch):
    async def start(port: int | None = None) -> WorkflowEnvironment:
        return await WorkflowEnvironment.start_local(
            port=port,
            data_converter=pydantic_data_converter,
            dev_server_existing_path=temporal_server.binary(),
            dev_server_extra_args=temporal_server.TUNING,
        )

    server = await start()
    address = server.client.service_client.config.target_host
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    async with gateway(waybill_settings.model_copy(update={"request_timeout": 0.5})) as client:

        async def ready() -> bool:
            return (await client.get("/readyz")).json()["checks"]["temporal"] == "ok"

        assert await ready()
        await server.shutdown()
        await story.given(story.created)
        unavailable(await client.post("/orders", json=story.body))
        unavailable(await client.post(f"{story.path}/complete"))
        assert not await ready()
        server = await start(int(address.rpartition(":")[2]))
        try:
            await eventually(ready)
        finally:
            await server.shutdown()


async def test_a_database_that_dies_and_comes_back_is_found_again(private_postgres):
    async with (
        private_postgres.empty(eventstore.migrate.migrate) as event_store_url,
        private_postgres.empty(projections.migrate.migrate) as read_store_url,
        gateway(Settings(event_store_url=event_store_url, read_store_url=read_store_url, pool_size=2)) as client,
    ):
        paths = ["/orders", "/events", "/blocked-products", f"/orders/{uuid4()}/events", "/projections"]
        before = [(await client.get(path)).status_code for path in paths]
        await private_postgres.kill()
        for path in paths:
            unavailable(await client.get(path))
        assert (await client.get("/livez")).status_code == 200

        async def recovered() -> bool:
            return [(await client.get(path)).status_code for path in paths] == before

        await private_postgres.start()
        assert await eventually(recovered)


async def test_without_the_event_store_the_read_models_are_read_all_the_same(private_postgres, databases):
    async with (
        private_postgres.empty(eventstore.migrate.migrate) as event_store_url,
        databases.empty(projections.migrate.migrate) as read_store_url,
        gateway(Settings(event_store_url=event_store_url, read_store_url=read_store_url, pool_size=2)) as client,
    ):
        reads = ["/orders", "/shipments", f"/orders/{uuid4()}", "/livez", "/problems", "/metrics"]
        before = [(await client.get(path)).status_code for path in reads]
        await private_postgres.kill()
        assert [(await client.get(path)).status_code for path in reads] == before
        for path in ("/events", "/blocked-products", f"/orders/{uuid4()}?version=1"):
            unavailable(await client.get(path))
        unavailable(await client.put(f"/blocked-products/{uuid4()}"))
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"] | {"temporal": ""} == {
            "event_store": "unavailable",
            "parked": "unavailable",
            "read_store": "ok",
            "temporal": "",
        }
        assert "postgresql://" not in ready.text
        await private_postgres.start()

        async def recovered() -> bool:
            return (await client.get("/events")).status_code == 200

        assert await eventually(recovered)


class Failing:
    """A Temporal client that fails in one way, as often as it is asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.asked = 0

    async def start_update_with_start_workflow(self, *_: Any, start_workflow_operation: Any, **__: Any) -> Any:
        self.asked += 1
        start_workflow_operation._workflow_handle.set_result(None)
        if isinstance(self.error, WorkflowUpdateFailedError):
            return SimpleNamespace(result=self._result)
        raise self.error

    async def _result(self) -> Any:
        raise self.error


def refused(kind: str, **details: Any) -> WorkflowUpdateFailedError:
    return WorkflowUpdateFailedError(ApplicationError("so it is", details, type=kind))


def rpc(status: RPCStatusCode) -> RPCError:
    return RPCError("the server's own words", status, b"")


@pytest.mark.parametrize(
    ("error", "code", "asked"),
    [
        (refused("order-number-taken"), "order-number-taken", 1),
        (refused("unavailable"), "unavailable", 1),
        (refused("AcceptedUpdateCompletedWorkflow"), "unavailable", 5),
        (rpc(RPCStatusCode.NOT_FOUND), "unavailable", 5),
        (rpc(RPCStatusCode.UNAVAILABLE), "unavailable", 1),
        (rpc(RPCStatusCode.DEADLINE_EXCEEDED), "unavailable", 1),
        (rpc(RPCStatusCode.FAILED_PRECONDITION), "unavailable", 1),
        (rpc(RPCStatusCode.RESOURCE_EXHAUSTED), "too-many-requests", 1),
        (WorkflowUpdateRPCTimeoutOrCancelledError(), "unavailable", 1),
        (RuntimeError("Failed client connect: refused"), "unavailable", 1),
    ],
    ids=lambda value: str(getattr(value, "cause", None) or getattr(value, "status", None) or value),
)
async def test_whatever_temporal_says_has_a_code(error, code, asked):
    temporal: Any = Failing(error)
    store: Any = None
    data = Story(temporal, store).body
    request = CommandRequest(command="CreateOrder", data=data, command_id=uuid4(), correlation_id=uuid4())

    with pytest.raises(Exception) as caught:
        await Commands(temporal, store, Settings()).perform(request, uuid4())
    assert getattr(caught.value, "code", None) == code
    assert temporal.asked == asked


@pytest.mark.parametrize(
    "error", [rpc(RPCStatusCode.PERMISSION_DENIED), refused("unheard-of"), RuntimeError("a mistake of ours")]
)
async def test_what_waiting_would_not_mend_is_a_fault(error):
    temporal: Any = Failing(error)
    store: Any = None
    data = Story(temporal, store).body
    request = CommandRequest(command="CreateOrder", data=data, command_id=uuid4(), correlation_id=uuid4())

    with pytest.raises(type(error)):
        await Commands(temporal, store, Settings()).perform(request, uuid4())
