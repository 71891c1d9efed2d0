"""Clients that are slow, silent or too many: they are cut off, and the others don't notice."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import suppress

import httpx2
import pytest

from settings import Settings
from support import eventually
from wire import Process, gateway_process, json_request, parse, request, say

PATIENCE = 2
SLOW = 300
HALVES = {
    "nothing": (b"", []),
    "an empty line": (b"\r\n", []),
    "half a line": (b"GET /liv", [408]),
    "half of the headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: ", [408]),
    "half a body": (json_request("/orders", {})[:-1], [408]),
    "half a chunk": (request("POST", "/orders", "Transfer-Encoding: chunked") + b"5\r\nab", [408]),
    "half a second request": (request("GET", "/livez") + b"GET /liv", [200, 408]),
}


@pytest.fixture(scope="module")
async def served(lonely_settings: Settings) -> AsyncGenerator[Process]:
    bounds = {"WAYBILL_RECEIVE_TIMEOUT": str(PATIENCE), "WAYBILL_MAX_CONNECTIONS": str(SLOW + 20)}
    async with gateway_process(lonely_settings, TEMPORAL_ADDRESS="127.0.0.1:1", **bounds) as process:
        yield process


async def test_who_does_not_finish_a_request_is_cut_off(served: Process):
    told = await asyncio.gather(*(say(served.address, said) for said, _ in HALVES.values()))
    statuses = {half: [answer.status for answer in answers] for half, answers in zip(HALVES, told, strict=True)}
    assert statuses == {half: expected for half, (_, expected) in HALVES.items()}
    assert {answer.code for answers in told for answer in answers if answer.status == 408} == {"request-timeout"}


async def test_who_was_in_time_is_answered_though_the_gateway_was_not(served: Process):
    reader, writer = await asyncio.open_connection(*served.address)
    whole = request("GET", "/livez", "Connection: close")
    try:
        writer.write(whole[:9])
        await writer.drain()
        # Until it has read that, and waits for the rest.
        await asyncio.sleep(PATIENCE / 4)
        served.process.send_signal(signal.SIGSTOP)
        writer.write(whole[9:])
        await writer.drain()
        await asyncio.sleep(PATIENCE)
        served.process.send_signal(signal.SIGCONT)
        (answer,) = parse(await asyncio.wait_for(reader.read(), 30))
        assert answer.status == 200
    finally:
        served.process.send_signal(signal.SIGCONT)
        writer.close()


async def drip(served: Process, said: bytes) -> bytes:
    """Send the first byte, then one more now and then, for as long as the gateway puts up with it."""
    reader, writer = await asyncio.open_connection(*served.address)
    reading = asyncio.create_task(reader.read())
    try:
        with suppress(ConnectionError):
            for at in range(len(said)):
                writer.write(said[at : at + 1])
                await writer.drain()
                await asyncio.wait([reading], timeout=0.3)
                if reading.done():
                    break
        return await reading
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_three_hundred_slow_clients_are_cut_off_and_nobody_else_notices(served: Process):
    whole = json_request("/orders", {"order_number": "x" * 1000})
    slow = [asyncio.create_task(drip(served, whole)) for _ in range(SLOW)]
    async with httpx2.AsyncClient(base_url=served.url) as client:
        while not all(each.done() for each in slow):
            assert (await client.get("/orders")).status_code == 200
            await asyncio.sleep(0.05)
        assert all([answer.status for answer in parse(each.result())] == [408] for each in slow)
        assert (await client.get("/orders")).status_code == 200


async def test_who_does_not_take_the_answers_is_cut_off(served: Process):
    reader, writer = await asyncio.open_connection(*served.address, limit=1024)
    try:
        # More than the buffers between us hold.
        writer.write(request("GET", "/openapi.json") * 200)
        await eventually(lambda: any("connection.answer_not_taken" in line for line in served.log), within=30)
        received = bytearray()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                received += data
        assert received.count(b"HTTP/1.1 200 OK") < 200
        assert not any("Traceback" in line for line in served.log)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_one_connection_too_many_is_told_to_come_again(served: Process):
    opened = [await asyncio.open_connection(*served.address) for _ in range(SLOW + 40)]
    try:
        told = await opened[-1][0].read()
        (answer,) = parse(told)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
    finally:
        for _, writer in opened:
            writer.close()
    async with httpx2.AsyncClient(base_url=served.url) as client:

        async def served_again() -> bool:
            return (await client.get("/livez")).status_code == 200

        await eventually(served_again)
