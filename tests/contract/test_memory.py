"""What only the store in memory can show: it takes the time from outside."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from eventstore.memory import MemoryStore
from eventstore.store import Claim
from tests.contract.appends import APPLES, append

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


async def test_time_stands_still_in_the_store_when_a_clock_is_set_back() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    await append(store, APPLES)
    clock.now = NOON - timedelta(hours=1)
    await append(store, APPLES)
    clock.now = NOON + timedelta(hours=1)
    await append(store, APPLES)
    times = [each.created_at for each in await store.read_all()]
    assert times == [NOON, NOON, NOON + timedelta(hours=1)]


async def test_a_lease_lasts_to_its_last_moment() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    anns, bobs = (Claim("order_number", "A-1", UUID(int=owner)) for owner in (1, 2))
    assert await store.reserve(anns, uuid4(), lease_seconds=10) == "reserved"
    clock.now = NOON + timedelta(seconds=10)
    assert await store.reserve(bobs, uuid4(), lease_seconds=10) == "leased"
    clock.now += timedelta(microseconds=1)
    assert await store.reserve(bobs, uuid4(), lease_seconds=10) == "reserved"
