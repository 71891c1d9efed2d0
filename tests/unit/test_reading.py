"""Following the global sequence: what `waybill events tail` shows."""

import asyncio
from contextlib import aclosing

import pytest

import reading
from eventstore.memory import MemoryStore
from tests.contract.appends import APPLES, append, event


async def test_a_tail_looks_for_rare_events_a_stretch_at_a_time_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SPAN", 2)
    monkeypatch.setattr(reading, "_POLL_SECONDS", 3600)
    store = MemoryStore()
    await append(store, APPLES, *(event("Fruit.Picked") for _ in range(7)))
    rare = await append(store, APPLES, event("Fruit.Stolen"))
    following = reading.follow(store, asyncio.Event(), after=0, types=["Fruit.Stolen"])
    async with aclosing(following), asyncio.timeout(10):
        assert (await anext(following)).position == rare.first_position
