"""Several processes on one database: each has a store of its own, and only PostgreSQL stands between them."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from itertools import pairwise
from uuid import uuid4

import pytest

from eventstore.postgres import PostgresStore
from eventstore.store import Appended, Claim, EventStore, WrongExpectedVersion
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers

ROUNDS = 10


@pytest.fixture
async def stores(event_store_url: str) -> AsyncGenerator[list[EventStore]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(event_store_url, pool_size=2)) for _ in range(4)]


async def test_4_processes_may_all_create_a_stream_if_they_expect_nothing(stores: list[EventStore]) -> None:
    for turn in range(ROUNDS):
        answers = await asyncio.gather(*(append(store, f"stream-{turn}") for store in stores))
        assert sorted(answer.first_version for answer in answers) == [1, 2, 3, 4]


async def test_of_4_processes_one_creates_the_stream(stores: list[EventStore]) -> None:
    for turn in range(ROUNDS):
        attempts = (append(store, f"stream-{turn}", expected="no_stream") for store in stores)
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {Appended: 1, WrongExpectedVersion: 3}


async def test_of_4_processes_one_finds_the_version_that_it_expects(stores: list[EventStore]) -> None:
    for version in range(ROUNDS):
        attempts = (append(store, APPLES, expected=version) for store in stores)
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {Appended: 1, WrongExpectedVersion: 3}
    assert await stores[0].stream_version(APPLES) == ROUNDS


async def test_an_append_that_4_processes_send_is_written_once(stores: list[EventStore]) -> None:
    for turn in range(ROUNDS):
        two = events(2)
        answers = await asyncio.gather(*(append(store, APPLES, *two) for store in stores))
        assert {answer.first_version for answer in answers} == {2 * turn + 1}
        assert Counter(answer.repeated for answer in answers) == {False: 1, True: 3}
    assert numbers(await stores[0].read_all()) == list(range(1, 2 * ROUNDS + 1))


async def test_an_event_that_processes_send_to_different_streams_is_written_to_one(
    stores: list[EventStore],
) -> None:
    for turn in range(ROUNDS):
        shared = event()
        streams = [(store, f"stream-{turn}-{number}") for number, store in enumerate(stores)]
        attempts = (append(store, stream, shared) for store, stream in streams)
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert Counter(type(outcome).__name__ for outcome in outcomes) == {"Appended": 1, "DuplicateEvent": 3}


async def test_the_global_sequence_is_one_whoever_writes_it(stores: list[EventStore]) -> None:
    streams = (APPLES, PEARS, "plums")
    appends = [(store, streams[turn % 3], events(1 + turn % 2)) for turn in range(20) for store in stores]
    answers = await asyncio.gather(*(append(store, stream, *new) for store, stream, new in appends))
    everything = await stores[0].read_all()
    assert numbers(everything) == list(range(1, sum(len(new) for _, _, new in appends) + 1))
    assert all(earlier.created_at <= later.created_at for earlier, later in pairwise(everything))
    for (_, stream, new), answer in zip(appends, answers, strict=True):
        placed = everything[answer.first_position - 1 :][: len(new)]
        assert ids(placed) == ids(new)
        assert [each.version for each in placed] == [answer.first_version + n for n in range(len(new))]
        assert {each.stream_id for each in placed} == {stream}


async def test_who_has_read_a_position_has_seen_everything_before_it(stores: list[EventStore]) -> None:
    writer, reader, *others = stores
    writing = asyncio.gather(
        *(append(store, str(uuid4()), *events(3)) for _ in range(30) for store in (writer, *others))
    )
    seen: list[int] = []
    while not writing.done():
        seen += numbers(await reader.read_all(after=seen[-1] if seen else 0))
    await writing
    seen += numbers(await reader.read_all(after=seen[-1] if seen else 0))
    assert seen == list(range(1, 271))


async def test_of_64_racers_in_4_processes_one_gets_the_key(stores: list[EventStore]) -> None:
    racers = [(store, Claim("order_number", "A-1", uuid4())) for _ in range(16) for store in stores]

    async def create(store: EventStore, claim: Claim) -> str:
        outcome = await store.reserve(claim, uuid4(), lease_seconds=3600)
        if outcome == "reserved":
            await append(store, str(claim.owner), expected="no_stream", confirm=[claim])
        return outcome

    outcomes = await asyncio.gather(*(create(store, claim) for store, claim in racers))
    assert outcomes.count("reserved") == 1
    (created,) = await stores[0].read_all()
    assert str(await stores[0].claim_owner("order_number", "A-1")) == created.stream_id


async def test_an_append_and_a_takeover_never_both_win_a_key_whose_lease_has_run_out(
    stores: list[EventStore],
) -> None:
    confirming, taking, *_ = stores
    for turn in range(ROUNDS):
        anns, bobs = (Claim("order_number", f"A-{turn}", uuid4()) for _ in range(2))
        await confirming.reserve(anns, uuid4(), lease_seconds=0)
        confirmed, taken = await asyncio.gather(
            append(confirming, str(anns.owner), confirm=[anns]),
            taking.reserve(bobs, uuid4(), lease_seconds=3600),
            return_exceptions=True,
        )
        assert (isinstance(confirmed, Appended), taken) in {(True, "taken"), (False, "reserved")}
