"""When a server is away: a clean answer within a bound, reads go on where they can, and nothing has to be restarted."""

import asyncio
import time
from uuid import uuid4

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

import eventstore.migrate
import projections.migrate
from dev import temporal as temporal_server
from eventstore.postgres import PostgresStore
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
    return waybill_settings.model_copy(update={"task_queue": f"deserted-{uuid4()}", "request_timeout": 1.0})


async def test_without_a_worker_a_command_is_put_off_and_done_once_there_is_one(deserted, story):
    key = {"Idempotency-Key": str(uuid4())}
    async with gateway(deserted) as client:
        t=time.time()
        for _ in range(2):
            answer = await client.post("/orders", json=story.body, headers=key)
            assert "Idempotency-Key" in unavailable(answer)["detail"]
        print(time.time()-t)
        async with running(deserted.model_copy(update={"projections": False})):
            done = await eventually(lambda: _done(client, story, key))
    assert done.status_code == 201
    assert await story.new_events() == [story.created]


async def _done(client, story, key):
    answer = await client.post("/orders", json=story.body, headers=key)
    return answer if answer.status_code != 503 else None


async def test_a_command_whose_run_is_ended_is_sent_again(deserted, story, temporal):
    patient = deserted.model_copy(update={"request_timeout": 20.0})
    await story.given(story.created)
    async with gateway(patient) as client:
        waiting = asyncio.create_task(client.post(f"{story.path}/complete"))
        run = temporal.get_workflow_handle(f"order-{story.order_id}")

        async def ended():
            try:
                await run.terminate("as an operator might")
            except Exception as e:
                assert False
            return True
        await eventually(ended)
        t=time.time()
        async with running(deserted.model_copy(update={"projections": False})):
            answer = await waiting
        print(time.time()-t, answer.status_code, answer.text)
    assert answer.status_code == 200


async def test_more_commands_at_once_than_a_run_takes(story):
    await story.waybill.post("/orders", json=story.body)
    item = story.body["items"][0]
    t=time.time()
    answers = await asyncio.gather(*(story.waybill.post(f"{story.path}/items", json=item) for _ in range(40)))
    print(time.time()-t, sorted(a.status_code for a in answers))
    assert {answer.status_code for answer in answers} <= {200, 429}


async def test_temporal_dies_and_comes_back(waybill_settings, story, monkeypatch):
    env = await WorkflowEnvironment.start_local(data_converter=pydantic_data_converter, dev_server_existing_path=temporal_server.binary(), dev_server_extra_args=temporal_server.TUNING)
    monkeypatch.setenv("TEMPORAL_ADDRESS", env.client.service_client.config.target_host)
    s=waybill_settings.model_copy(update={"request_timeout": 5.0})
    async with gateway(s) as client:
        print(await client.get("/readyz"))
        await env.shutdown()
        for _ in range(2):
            t=time.time()
            a=await client.post("/orders", json=story.body)
            print(a.status_code,a.text,time.time()-t)
        await story.given(story.created)
        t=time.time()
        a=await client.post(story.path+"/complete")
        print(a.status_code,a.text,time.time()-t)
        t=time.time()
        a=await client.get("/readyz")
        print(a.status_code,a.text,time.time()-t)


async def test_postgres_dies_and_comes_back(private_postgres):
    async with private_postgres.empty(eventstore.migrate.migrate) as e, private_postgres.empty(projections.migrate.migrate) as r:
        async with gateway(Settings(event_store_url=e, read_store_url=r, pool_size=2)) as client:
            assert (await client.get("/orders")).status_code == 200
            assert (await client.get("/events")).status_code == 200
            await private_postgres.kill()
            for p in ("/orders","/events","/blocked-products",f"/orders/{uuid4()}","/readyz", "/projections", "/orders?min_position=5"):
                t=time.time()
                a=await client.get(p)
                print(p,a.status_code,a.text[:100],time.time()-t)
            await private_postgres.start()
            t=time.time()
            for p in ("/orders","/events"):
                async def back():
                    return (await client.get(p)).status_code == 200
                await eventually(back)
            print(time.time()-t)
