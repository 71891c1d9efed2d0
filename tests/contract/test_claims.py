"""Claims: a business key has one owner, by a lease at first, and for good once an append has confirmed it."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest

from eventstore.store import Claim, ClaimLost, EventStore, WrongExpectedVersion
from tests.contract.appends import APPLES, PEARS, append, event, written
from tests.support import eventually

ANN, BOB = UUID(APPLES), UUID(PEARS)
ANNS = Claim("order_number", "A-1", ANN)
BOBS = Claim("order_number", "A-1", BOB)
"""Two owners who want the same key."""

HOUR = 3600


async def reserve(store: EventStore, claim: Claim, command: UUID | None = None, lease_seconds: float = HOUR) -> str:
    return await store.reserve(claim, command or uuid4(), lease_seconds=lease_seconds)


async def confirmed(store: EventStore, claim: Claim) -> None:
    assert await reserve(store, claim) == "reserved"
    await append(store, str(claim.owner), confirm=[claim])


async def run_out(store: EventStore, claim: Claim) -> None:
    """A reservation whose lease is over."""
    assert await reserve(store, claim, lease_seconds=0) == "reserved"


# --- Reserving


async def test_a_free_key_is_reserved(store: EventStore) -> None:
    assert await reserve(store, ANNS) == "reserved"


async def test_a_reserved_key_is_leased_as_far_as_others_are_concerned(store: EventStore) -> None:
    await reserve(store, ANNS)
    assert await reserve(store, BOBS) == "leased"


async def test_a_reserved_key_is_still_reserved_when_its_owner_asks_again(store: EventStore) -> None:
    await reserve(store, ANNS)
    assert await reserve(store, ANNS) == "reserved"
    assert await reserve(store, BOBS) == "leased"


async def test_a_key_is_nobodys_for_good_while_it_is_only_reserved(store: EventStore) -> None:
    await reserve(store, ANNS)
    assert await store.claim_owner("order_number", "A-1") is None


async def test_a_key_whose_lease_has_run_out_goes_to_who_asks_next(store: EventStore) -> None:
    await reserve(store, ANNS, lease_seconds=0.05)

    async def is_bobs() -> bool:
        return await reserve(store, BOBS) == "reserved"

    await eventually(is_bobs)
    assert await reserve(store, ANNS) == "leased"


async def test_an_owner_who_asks_again_in_time_keeps_the_key(store: EventStore) -> None:
    await run_out(store, ANNS)
    assert await reserve(store, ANNS) == "reserved"
    assert await reserve(store, BOBS) == "leased"


async def test_the_same_key_of_another_kind_is_another_key(store: EventStore) -> None:
    await confirmed(store, ANNS)
    assert await reserve(store, Claim("invoice_number", "A-1", BOB)) == "reserved"
    assert await reserve(store, Claim("order_number", "A-2", BOB)) == "reserved"
    assert await reserve(store, Claim("order_number", "a-1", BOB)) == "reserved"


async def test_a_key_may_be_any_text(store: EventStore) -> None:
    key = "Nº 7 'Äpfel' 🍎 \\ \" {1,2} null"
    await confirmed(store, Claim("order_number", key, ANN))
    assert await store.claim_owner("order_number", key) == ANN


async def test_of_64_who_want_a_key_at_once_one_gets_it(store: EventStore) -> None:
    racers = [Claim("order_number", "A-1", uuid4()) for _ in range(64)]
    outcomes = await asyncio.gather(*(reserve(store, claim) for claim in racers))
    assert Counter(outcomes) == {"reserved": 1, "leased": 63}


async def test_of_64_orders_with_one_number_one_is_created(store: EventStore) -> None:
    racers = [Claim("order_number", "A-1", uuid4()) for _ in range(64)]

    async def create(claim: Claim) -> str:
        outcome = await reserve(store, claim)
        if outcome == "reserved":
            await append(store, str(claim.owner), expected="no_stream", confirm=[claim])
        return outcome

    outcomes = await asyncio.gather(*(create(claim) for claim in racers))
    assert outcomes.count("reserved") == 1
    (created,) = await store.read_all()
    assert str(await store.claim_owner("order_number", "A-1")) == created.stream_id


async def test_of_16_who_wait_for_a_lease_to_run_out_one_gets_the_key(store: EventStore) -> None:
    await run_out(store, ANNS)
    racers = [Claim("order_number", "A-1", uuid4()) for _ in range(16)]

    async def one_got_it() -> Counter[str]:
        outcomes = Counter(await asyncio.gather(*(reserve(store, claim) for claim in racers)))
        assert outcomes["reserved"] > 0
        return outcomes

    assert await eventually(one_got_it) == {"reserved": 1, "leased": 15}


# --- Confirming


async def test_an_append_confirms_a_key_for_good(store: EventStore) -> None:
    await confirmed(store, ANNS)
    assert await store.claim_owner("order_number", "A-1") == ANN
    assert await reserve(store, BOBS) == "taken"


async def test_a_key_is_confirmed_even_if_its_lease_has_run_out_as_long_as_nobody_took_it(
    store: EventStore,
) -> None:
    await run_out(store, ANNS)
    await append(store, APPLES, confirm=[ANNS])
    assert await store.claim_owner("order_number", "A-1") == ANN


async def test_a_confirmed_key_stays_confirmed_when_its_owner_asks_again(store: EventStore) -> None:
    await confirmed(store, ANNS)
    assert await reserve(store, ANNS, lease_seconds=0) == "reserved"
    assert await store.claim_owner("order_number", "A-1") == ANN
    assert await reserve(store, BOBS) == "taken"


async def test_a_confirmed_key_may_be_confirmed_again(store: EventStore) -> None:
    await confirmed(store, ANNS)
    await append(store, APPLES, confirm=[ANNS])
    assert await store.claim_owner("order_number", "A-1") == ANN


async def test_nothing_is_appended_under_a_key_that_was_never_reserved(store: EventStore) -> None:
    with pytest.raises(ClaimLost):
        await append(store, APPLES, confirm=[ANNS])
    assert await written(store) == []
    assert await reserve(store, BOBS) == "reserved"


async def test_nothing_is_appended_under_a_key_that_another_holds(store: EventStore) -> None:
    await reserve(store, BOBS)
    with pytest.raises(ClaimLost):
        await append(store, APPLES, confirm=[ANNS])
    await append(store, PEARS, confirm=[BOBS])
    with pytest.raises(ClaimLost):
        await append(store, APPLES, confirm=[ANNS])
    assert len(await written(store)) == 1


async def test_nothing_is_appended_under_a_key_that_another_took_when_the_lease_ran_out(
    store: EventStore,
) -> None:
    await reserve(store, ANNS, lease_seconds=0.05)

    async def is_bobs() -> bool:
        return await reserve(store, BOBS) == "reserved"

    await eventually(is_bobs)
    with pytest.raises(ClaimLost):
        await append(store, APPLES, confirm=[ANNS])
    assert await written(store) == []


async def test_of_several_keys_all_are_confirmed_or_none(store: EventStore) -> None:
    other = Claim("invoice_number", "I-1", ANN)
    await reserve(store, ANNS)
    with pytest.raises(ClaimLost):
        await append(store, APPLES, confirm=[ANNS, other])
    assert await store.claim_owner("order_number", "A-1") is None
    await reserve(store, other)
    await append(store, APPLES, confirm=[ANNS, other])
    assert await store.claim_owner("order_number", "A-1") == ANN
    assert await store.claim_owner("invoice_number", "I-1") == ANN


async def test_an_append_that_conflicts_confirms_nothing(store: EventStore) -> None:
    await reserve(store, ANNS)
    with pytest.raises(WrongExpectedVersion):
        await append(store, APPLES, expected=7, confirm=[ANNS])
    assert await store.claim_owner("order_number", "A-1") is None


async def test_a_lost_key_does_not_hurt_an_append_beside_it(store: EventStore) -> None:
    await reserve(store, ANNS)
    outcomes = await asyncio.gather(
        append(store, APPLES, confirm=[ANNS]), append(store, PEARS, confirm=[BOBS]), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Appended", "ClaimLost"]
    assert await store.claim_owner("order_number", "A-1") == ANN
    assert len(await written(store)) == 1


async def test_of_appends_at_once_the_second_finds_what_the_first_has_made_of_a_key(store: EventStore) -> None:
    await confirmed(store, ANNS)
    outcomes = await asyncio.gather(
        append(store, APPLES, release=[ANNS]), append(store, PEARS, confirm=[ANNS]), return_exceptions=True
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Appended", "ClaimLost"]
    assert await store.claim_owner("order_number", "A-1") is None
    assert len(await written(store)) == 2


async def test_a_repeated_append_gets_its_first_answer_though_the_key_has_gone_since(
    store: EventStore,
) -> None:
    created = event()
    await reserve(store, ANNS)
    first = await append(store, APPLES, created, confirm=[ANNS])
    await append(store, APPLES, release=[ANNS])
    again = await append(store, APPLES, created, confirm=[ANNS])
    assert (again.first_position, again.repeated) == (first.first_position, True)
    assert await store.claim_owner("order_number", "A-1") is None


# --- Giving back


async def test_an_append_gives_a_key_back(store: EventStore) -> None:
    await confirmed(store, ANNS)
    await append(store, APPLES, release=[ANNS])
    assert await store.claim_owner("order_number", "A-1") is None
    assert await reserve(store, BOBS) == "reserved"


async def test_an_append_gives_nothing_back_that_belongs_to_another(store: EventStore) -> None:
    await confirmed(store, BOBS)
    await append(store, APPLES, release=[ANNS, Claim("order_number", "free", ANN)])
    assert await store.claim_owner("order_number", "A-1") == BOB


async def test_an_append_that_conflicts_gives_nothing_back(store: EventStore) -> None:
    await confirmed(store, ANNS)
    with pytest.raises(WrongExpectedVersion):
        await append(store, APPLES, expected=7, release=[ANNS])
    assert await store.claim_owner("order_number", "A-1") == ANN


async def test_a_repeated_append_gives_back_nothing_that_was_taken_since(store: EventStore) -> None:
    deleted = event()
    await confirmed(store, ANNS)
    await append(store, APPLES, deleted, release=[ANNS])
    await confirmed(store, ANNS)
    assert (await append(store, APPLES, deleted, release=[ANNS])).repeated
    assert await store.claim_owner("order_number", "A-1") == ANN


async def test_a_command_gives_back_what_it_reserved_once(store: EventStore) -> None:
    command = uuid4()
    await reserve(store, ANNS, command)
    assert await store.release(ANNS, command)
    assert not await store.release(ANNS, command)
    assert await reserve(store, BOBS) == "reserved"


async def test_a_command_gives_nothing_back_that_another_command_reserved(store: EventStore) -> None:
    await reserve(store, ANNS, uuid4())
    assert not await store.release(ANNS, uuid4())
    assert await reserve(store, BOBS) == "leased"


async def test_a_command_gives_nothing_back_that_another_owner_reserved(store: EventStore) -> None:
    command = uuid4()
    await reserve(store, BOBS, command)
    assert not await store.release(ANNS, command)
    assert await reserve(store, ANNS) == "leased"


async def test_a_reservation_belongs_to_the_command_that_asked_last(store: EventStore) -> None:
    first, second = uuid4(), uuid4()
    await reserve(store, ANNS, first)
    await reserve(store, ANNS, second)
    assert not await store.release(ANNS, first)
    assert await store.release(ANNS, second)


async def test_a_command_gives_nothing_back_that_an_append_has_confirmed(store: EventStore) -> None:
    command = uuid4()
    await reserve(store, ANNS, command)
    await append(store, APPLES, confirm=[ANNS])
    assert not await store.release(ANNS, command)
    assert await store.claim_owner("order_number", "A-1") == ANN


async def test_a_key_that_nobody_reserved_can_not_be_given_back(store: EventStore) -> None:
    assert not await store.release(ANNS, uuid4())
