"""What is parked is asked for every few seconds, and may be millions of events."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from api.counting import Counts, ParkedCounts
from over_http import gateway
from settings import Settings
from support import eventually

ONE: Counts = {"orders": {"failed": 1}}
TWO: Counts = {"orders": {"failed": 2}}


class Stores:
    """Stores that answer when the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: asyncio.Queue[Counts | Exception] = asyncio.Queue()

    async def count(self) -> Counts:
        self.asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture
async def parked(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ParkedCounts]:
    monkeypatch.setattr(ParkedCounts, "WAIT_SECONDS", 0.01)
    counts = ParkedCounts(stores.count)
    yield counts
    await counts.close()


async def test_however_many_ask_it_is_counted_once_and_nobody_waits_for_long(stores: Stores, parked: ParkedCounts):
    assert await asyncio.gather(*(parked.known() for _ in range(20))) == [None] * 20
    stores.answers.put_nowait(ONE)

    async def is_known() -> bool:
        return await parked.known() == ONE

    await eventually(is_known)
    assert stores.asked == 1


async def test_a_count_that_took_long_is_not_made_again_for_a_while(
    stores: Stores, parked: ParkedCounts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ParkedCounts, "QUICK_SECONDS", 0)
    monkeypatch.setattr(ParkedCounts, "SHARE", 1e9)
    await parked.known()
    stores.answers.put_nowait(ONE)
    assert await parked.known() == ONE
    stores.answers.put_nowait(TWO)
    assert [await parked.known() for _ in range(20)] == [ONE] * 20
    assert stores.asked == 1


async def test_what_was_counted_last_is_told_while_it_is_counted_again(
    stores: Stores, parked: ParkedCounts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ParkedCounts, "QUICK_SECONDS", 60)
    stores.answers.put_nowait(ONE)
    assert await parked.known() == ONE
    assert await parked.known() == ONE
    stores.answers.put_nowait(TWO)
    assert await parked.known() == TWO


async def test_what_can_not_be_counted_is_not_known(
    stores: Stores, parked: ParkedCounts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ParkedCounts, "QUICK_SECONDS", 60)
    stores.answers.put_nowait(ONE)
    assert await parked.known() == ONE
    stores.answers.put_nowait(ConnectionError("host secret.example"))
    with capture_logs() as log:
        assert await parked.known() is None
    assert log == [{"event": "parked.not_counted", "reason": "ConnectionError", "log_level": "warning"}]


async def test_a_count_that_took_long_to_fail_is_soon_made_again(
    stores: Stores, parked: ParkedCounts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ParkedCounts, "QUICK_SECONDS", 0)
    monkeypatch.setattr(ParkedCounts, "SHARE", 1e9)
    stores.answers.put_nowait(ConnectionError())
    stores.answers.put_nowait(ONE)

    async def is_known() -> bool:
        return await parked.known() == ONE

    await eventually(is_known)
    assert stores.asked == 2


async def test_stores_in_which_nothing_can_be_counted_in_time_count_as_reached(
    lonely_settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    async def never(*_: object) -> Counts:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr("api.app.counts", never)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    async with gateway(lonely_settings) as client:
        told = (await client.get("/metrics")).text
    assert "waybill_stores_reached 1.0" in told
    assert "waybill_projection_lag_events{" in told
