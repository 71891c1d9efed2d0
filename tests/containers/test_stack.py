"""The stack in containers is used, killed, cut off and stopped."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from containers.compose import PATIENCE, Stack, docker, inspect, running_stack
from support import eventually

SERVICES = ("postgres", "temporal", "api", "worker")

pytestmark = pytest.mark.slow
each_service = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(scope="module")
async def running() -> AsyncGenerator[Stack]:
    async with running_stack() as stack:
        yield stack


@pytest.fixture
async def stack(running: Stack) -> Stack:
    """Complete and healthy, whatever the test before has left. The one-shot service isn't run again."""
    await running.up("--no-deps", *SERVICES)
    return running


async def test_an_order_goes_to_shipment_for_who_has_a_key(stack: Stack) -> None:
    await stack.ship(await stack.new_order())
    assert (await stack.http.get("/orders", headers={"Authorization": "Bearer nobody"})).status_code == 401


@pytest.mark.parametrize("service", ["api", "worker"])
async def test_its_processes_can_do_nothing_to_their_container(stack: Stack, service: str) -> None:
    said = await inspect(stack.container(service))
    assert said["Config"]["User"] == "10001:10001"
    assert said["HostConfig"]["ReadonlyRootfs"]
    assert said["HostConfig"]["CapDrop"] == ["ALL"]


@each_service
async def test_a_service_that_dies_comes_back_and_the_order_goes_on(stack: Stack, service: str) -> None:
    order = await stack.new_order()
    before = (await inspect(stack.container(service)))["RestartCount"]
    await stack.crash(service)
    await stack.ship(order)

    async def restarted() -> bool:
        return (await inspect(stack.container(service)))["RestartCount"] > before

    await eventually(restarted, within=PATIENCE, every=0.5)
    await stack.healthy(service)


async def test_what_one_worker_leaves_behind_the_other_does(stack: Stack) -> None:
    order = await stack.new_order()
    await docker("kill", stack.container("worker"))
    await stack.ship(order)
    assert not (await stack.state("worker"))["Running"]


async def test_orders_go_on_when_postgresql_can_be_reached_again(stack: Stack) -> None:
    order = await stack.new_order()
    network, postgres = f"{stack.project}_default", stack.container("postgres")
    await docker("network", "disconnect", network, postgres)
    try:
        shipping = asyncio.create_task(stack.ship(order))

        async def not_ready() -> bool:
            return (await stack.http.get("/readyz")).status_code == 503

        await eventually(not_ready, within=PATIENCE, every=0.5)
        assert not shipping.done()
    finally:
        await docker("network", "connect", "--alias", "postgres", network, postgres)
    await shipping


@each_service
async def test_a_service_that_is_told_to_stop_ends_in_order_within_its_time(stack: Stack, service: str) -> None:
    """After stop_grace_period Docker kills it, and the code is 137."""
    await stack.ship(await stack.new_order())
    await stack.compose("stop", service)
    state = await stack.state(service)
    assert (state["Running"], state["ExitCode"]) == (False, 0)
