"""Races on a real stack: what is sent several times is done once, and what only one may have one gets.

WAYBILL_TEST_KEYED and WAYBILL_TEST_RACES say how many; what runs by default is small enough for every run.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from dev.record import Record
from dev.throwaway import ANY_PORTS, DevProcess, temporary_directory
from support import eventually

KEYED = int(os.environ.get("WAYBILL_TEST_KEYED", "60"))
RACES = int(os.environ.get("WAYBILL_TEST_RACES", "15"))
# As many at a time as keep the servers busy.
RACES_AT_ONCE = 4
RACERS = 64
COPIES = 3
# What says that nothing became of the request, or that it is not known: it is sent again.
_AGAIN = frozenset({408, 429, 502, 503, 504})

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def dev() -> AsyncGenerator[DevProcess]:
    with temporary_directory() as path:
        dev = await DevProcess.start(path / "data", path / "log", *ANY_PORTS, "--workers", "2")
        try:
            await dev.ready()
            yield dev
        finally:
            await dev.stop()


@pytest.fixture
async def http(dev: DevProcess) -> AsyncGenerator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=record_of(dev).api_url, timeout=60, limits=limits) as client:
        yield client


def record_of(dev: DevProcess) -> Record:
    record = Record.read(dev.data_dir)
    assert record is not None
    return record


def an_item() -> dict[str, Any]:
    return {"product_id": str(uuid4()), "quantity": 1.5, "uom": "KG"}


def an_order(number: str) -> dict[str, Any]:
    return {"order_number": number, "business_partner": "ada@example.com", "items": [an_item()]}


async def insist(http: httpx2.AsyncClient, path: str, body: Any, key: str) -> tuple[int, Any, str | None, str | None]:
    """The final answer: status, document, ETag and Location."""
    while True:
        with suppress(httpx2.TransportError):
            answer = await http.post(path, json=body, headers={"Idempotency-Key": key})
            if answer.status_code not in _AGAIN:
                return answer.status_code, answer.json(), answer.headers.get("ETag"), answer.headers.get("Location")
        await asyncio.sleep(0.1)


async def kill_again_and_again(dev: DevProcess, kills: list[str]) -> None:
    """The gateway and the workers in turn, each as soon as all are there again."""

    def pid(victim: str) -> int:
        pids = record_of(dev).pids
        return pids.api if victim == "api" else pids.workers[int(victim)]

    while True:
        for victim in ("api", "0", "1"):
            killed = pid(victim)
            os.kill(killed, signal.SIGKILL)
            kills.append(victim)
            await eventually(lambda victim=victim, killed=killed: pid(victim) != killed, within=120)
            await asyncio.sleep(0.5)


async def test_requests_sent_three_times_at_once_have_one_effect_and_one_answer_whatever_is_killed(dev, http):
    """Half of them create an order whose id nobody named, half add an item, which twice would be two."""
    kills: list[str] = []
    killer = asyncio.create_task(kill_again_and_again(dev, kills))
    busy = asyncio.Semaphore(20)

    async def three_times(path: str, body: Any) -> Any:
        key = str(uuid4())
        answers = await asyncio.gather(*(insist(http, path, body, key) for _ in range(COPIES)))
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    async def one_order(n: int) -> tuple[str, int]:
        async with busy:
            status, created, _, location = await three_times("/orders", an_order(f"KEYED-{n}-{uuid4().hex[:8]}"))
            assert (status, location) == (201, f"/orders/{created['id']}")
            status, added, tag, _ = await three_times(f"{location}/items", an_item())
            assert (status, added["version"], tag) == (200, 2, '"2"')
            return created["id"], added["position"]

    try:
        done = await asyncio.gather(*(one_order(n) for n in range((KEYED + 1) // 2)))
    finally:
        killer.cancel()
        await asyncio.wait([killer])
    assert killer.cancelled(), killer.exception()
    assert kills, "nothing was killed meanwhile"

    connection = await asyncpg.connect(record_of(dev).event_store_url)
    try:
        streams = await connection.fetch(
            "select stream_uuid, stream_version from streams where stream_uuid = any($1)", [order for order, _ in done]
        )
        created = await connection.fetchval(
            "select count(*) from events where event_type = 'Order.OrderCreated' "
            "and convert_from(data, 'UTF8')::json->>'order_number' like 'KEYED-%'"
        )
    finally:
        await connection.close()
    assert {row["stream_uuid"]: row["stream_version"] for row in streams} == {order: 2 for order, _ in done}
    assert created == len(done)


async def test_of_many_who_want_one_order_number_at_once_one_gets_it(dev, http):
    async def healthy() -> bool:
        with suppress(httpx2.TransportError):
            return (await http.get("/readyz")).status_code == 200
        return False

    await eventually(healthy, within=120)

    async def race() -> None:
        number = f"RACE-{uuid4().hex[:8]}"
        bodies = [{"id": str(uuid4()), **an_order(number)} for _ in range(RACERS)]
        answers = await asyncio.gather(*(insist(http, "/orders", body, str(uuid4())) for body in bodies))
        told = Counter((status, answer.get("code")) for status, answer, _, _ in answers)
        listed = (await http.get("/orders", params={"order_number": number})).json()["items"]
        owner = [
            answer for body, answer in zip(bodies, answers, strict=True) if listed and body["id"] == listed[0]["id"]
        ]
        assert told == {(201, None): 1, (409, "order-number-taken"): RACERS - 1}, (told, listed, owner)
        assert [status for status, *_ in owner] == [201]

    lanes = asyncio.Semaphore(RACES_AT_ONCE)

    async def in_turn() -> None:
        async with lanes:
            await race()

    await asyncio.gather(*(in_turn() for _ in range(RACES)))
