"""`waybill dev` as a user runs it: a process of its own, told by signals, asked over its addresses."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import psutil
import pytest

from dev.record import Record
from dev.throwaway import ANY_PORTS, DevProcess, temporary_directory
from support import eventually

GIB = 1 << 30


@pytest.fixture
async def directory() -> AsyncGenerator[Path]:
    with temporary_directory() as path:
        yield path


@pytest.fixture
async def waybill_dev(directory: Path) -> AsyncGenerator[Callable[..., Any]]:
    """Starts `waybill dev` on one data directory; what still runs at the end of the test is stopped."""
    async with AsyncExitStack() as started:

        async def start(*options: str, **environment: str) -> DevProcess:
            dev = await DevProcess.start(
                directory / "data", directory / "log", *ANY_PORTS, *options, environment=environment
            )
            started.push_async_callback(dev.stop)
            return dev

        yield start


@pytest.fixture(scope="module")
async def running() -> AsyncGenerator[DevProcess]:
    """One stack for the tests that leave it as they found it."""
    with temporary_directory() as path:
        dev = await DevProcess.start(path / "data", path / "log", *ANY_PORTS, "--workers", "2")
        try:
            await dev.ready()
            yield dev
        finally:
            await dev.stop()


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=30) as client:
        yield client


def record_of(dev: DevProcess) -> Record:
    record = Record.read(dev.data_dir)
    assert record is not None
    return record


def family_of(dev: DevProcess) -> list[psutil.Process]:
    """`waybill dev` and everything below it, PostgreSQL's own processes too."""
    parent = psutil.Process(dev.process.pid)
    return [parent, *parent.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without what has ended and only waits for its parent to notice."""
    return [each for each in processes if lives(each)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        # Just now.
        return False


def is_free(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def output_of(line: str) -> str:
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout


def an_order() -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "order_number": f"WB-{uuid4().hex[:8]}",
        "business_partner": "ada@example.com",
        "items": [{"product_id": str(uuid4()), "quantity": 1.5, "uom": "KG"}],
    }


async def test_the_record_leads_to_every_part_of_the_stack(running, http):
    record = record_of(running)

    assert (await http.get(f"{record.api_url}/readyz")).status_code == 200
    assert (await http.get(f"{record.api_url}/docs")).status_code == 200
    assert (await http.get(record.temporal_ui_url)).status_code == 200
    assert not is_free(record.temporal_address)
    assert (record.namespace, record.task_queue) == ("default", "waybill")
    for url, table in ((record.event_store_url, "events"), (record.read_store_url, "orders")):
        connection = await asyncpg.connect(url)
        assert await connection.fetchval(f"select count(*) from {table}") >= 0
        await connection.close()
    pids = [record.pids.postgres, record.pids.temporal, record.pids.api, *record.pids.workers]
    assert len(set(pids)) == 5
    assert all(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_printed_commands_work_as_they_are_printed(running):
    lines = [line.strip() for line in running.log.read_text().splitlines() if line.startswith("  curl ")]

    answers = [await asyncio.to_thread(output_of, line) for line in lines]

    assert [re.findall(r'"status": ?"([A-Z]+)"', answer)[0] for answer in answers] == ["OPEN", "COMPLETED", "COMPLETED"]


async def test_all_processes_together_stay_below_a_gibibyte(running):
    # What several of them share counts once: PostgreSQL's buffers, the interpreter's code.
    assert sum(process.memory_full_info().pss for process in family_of(running)) < GIB


async def test_a_second_one_on_the_same_data_is_refused_in_one_line(running):
    second = await DevProcess.start(running.data_dir, running.data_dir.parent / "second.log", *ANY_PORTS)

    assert await second.process.wait() == 1
    assert re.fullmatch(
        r"Error: another `waybill dev` uses /\S+: stop it, or name another directory with --data-dir\n",
        second.log.read_text(),
    )
    assert record_of(running)


async def test_a_taken_port_is_named_with_its_option_in_one_line(waybill_dev):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dev = await waybill_dev("--temporal-ui-port", str(port))

        assert await dev.process.wait() == 1
    assert dev.log.read_text() == (
        f"Error: port {port} is taken (Address already in use): "
        "choose another with --temporal-ui-port (0 = any free one)\n"
    )


@pytest.mark.parametrize("name", ["WAYBILL_TEMPORAL_BIN", "WAYBILL_POSTGRES_BIN"])
async def test_a_missing_binary_is_told_in_one_line(waybill_dev, name):
    dev = await waybill_dev(**{name: "/nowhere"})

    assert await dev.process.wait() == 1
    assert re.fullmatch(rf"Error: {name}: .*/nowhere.*\n", dev.log.read_text())


async def test_a_setting_that_does_not_exist_is_told_in_one_line(waybill_dev):
    dev = await waybill_dev(WAYBILL_SNAPSHOTS="3")

    assert await dev.process.wait() == 1
    assert dev.log.read_text() == "Error: WAYBILL_SNAPSHOTS is not a setting: did you mean WAYBILL_SNAPSHOT_EVERY?\n"


@pytest.mark.parametrize("options", [(), ("--fresh",)])
async def test_a_directory_that_is_not_its_own_is_left_alone(directory, waybill_dev, options):
    precious = directory / "data" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")

    dev = await waybill_dev(*options)

    assert await dev.process.wait() == 1
    assert "holds files that are not Waybill's" in dev.log.read_text()
    assert list((directory / "data").iterdir()) == [precious]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["api", "worker", "temporal", "postgres"])
async def test_a_child_that_is_killed_is_started_again_and_orders_go_on(running, http, victim):
    before = record_of(running).pids
    pids = {**before.model_dump(), "worker": before.workers[0]}

    os.kill(pids[victim], signal.SIGKILL)

    async def replaced() -> bool:
        after = record_of(running).pids
        return after != before and pids[victim] not in (after.postgres, after.temporal, after.api, *after.workers)

    async def taken() -> bool:
        try:
            answer = await http.post(f"{record_of(running).api_url}/orders", json=an_order())
        except httpx2.TransportError:
            return False
        return answer.status_code == 201

    await eventually(replaced, within=30)
    await eventually(taken, within=60)


@pytest.mark.slow
async def test_a_stop_leaves_no_process_and_no_port_but_the_data_and_a_fresh_start_not_even_that(waybill_dev, http):
    dev = await waybill_dev()
    record = await dev.ready()
    order = an_order()
    assert (await http.post(f"{record.api_url}/orders", json=order)).status_code == 201
    processes = family_of(dev)
    assert len(processes) > 5

    dev.process.send_signal(signal.SIGTERM)

    assert await dev.process.wait() == 0
    assert living(processes) == []
    assert all(map(is_free, (record.api_url, record.temporal_address, record.temporal_ui_url)))
    assert Record.read(dev.data_dir) is None

    dev = await waybill_dev()
    record = await dev.ready()
    found = await http.get(f"{record.api_url}/orders/{order['id']}")
    assert found.json()["order_number"] == order["order_number"]
    completed = await http.post(f"{record.api_url}/orders/{order['id']}/complete")
    assert completed.status_code == 200
    assert await dev.stop() == 0

    record = await (await waybill_dev("--fresh")).ready()
    assert (await http.get(f"{record.api_url}/orders/{order['id']}")).status_code == 404
    assert (await http.post(f"{record.api_url}/orders", json=order)).status_code == 201


@pytest.mark.slow
async def test_killed_it_leaves_no_process_and_the_next_start_has_the_data(waybill_dev, http):
    dev = await waybill_dev()
    record = await dev.ready()
    order = an_order()
    assert (await http.post(f"{record.api_url}/orders", json=order)).status_code == 201
    processes = family_of(dev)

    dev.process.kill()

    await eventually(lambda: not living(processes), within=20)
    again = await (await waybill_dev()).ready()
    assert (await http.get(f"{again.api_url}/orders/{order['id']}")).status_code == 200


async def test_control_c_while_it_starts_stops_what_has_started(waybill_dev):
    dev = await waybill_dev()
    await eventually(lambda: "postgres  |" in dev.log.read_text())
    processes = family_of(dev)

    dev.process.send_signal(signal.SIGINT)

    assert await dev.process.wait() == 0
    assert living(processes) == []
