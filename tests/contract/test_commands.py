"""What is kept of commands beside their events: their answers, and the products that must not be sold."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

from eventstore.store import Answer, EventStore, Recollection
from tests.contract.appends import APPLES, PEARS, append, event

BLOCKED_FROM_THE_START = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")
FIGS = UUID("00000000-0000-4000-8000-000000000001")
PLUMS = UUID("ffffffff-ffff-4fff-bfff-ffffffffffff")

# --- Answers


async def test_nothing_is_known_of_a_command_that_never_came(store: EventStore) -> None:
    assert await store.recall(uuid4(), uuid4()) == Recollection(None, None)


async def test_a_command_is_recalled_by_the_event_that_it_made(store: EventStore) -> None:
    made = event()
    await append(store, PEARS)
    await append(store, APPLES, event(), made)
    _, read = await store.read_stream(APPLES)
    assert await store.recall(uuid4(), made.event_id) == Recollection(read, None)


async def test_a_command_is_recalled_by_the_answer_that_was_kept_instead(store: EventStore) -> None:
    answer = Answer(uuid4(), "fingerprint", '{"code": "products-blocked", "by": "Äpfel"}'.encode())
    assert await store.remember(answer) == answer
    assert await store.recall(answer.command_id, uuid4()) == Recollection(None, answer)
    assert await store.recall(uuid4(), answer.command_id) == Recollection(None, None)


async def test_a_command_may_be_recalled_by_both(store: EventStore) -> None:
    answer = await store.remember(Answer(uuid4(), "fingerprint", b"{}"))
    await append(store, APPLES, made := event())
    (read,) = await store.read_stream(APPLES)
    assert await store.recall(answer.command_id, made.event_id) == Recollection(read, answer)


async def test_the_first_answer_to_a_command_is_kept_for_ever(store: EventStore) -> None:
    command = uuid4()
    first = Answer(command, "one request", b'{"code": "order-already-completed"}')
    second = Answer(command, "another request", b"{}")
    assert await store.remember(first) == first
    assert await store.remember(second) == first
    assert (await store.recall(command, uuid4())).answer == first


async def test_of_answers_that_come_at_once_one_is_kept_and_told_to_all(store: EventStore) -> None:
    command = uuid4()
    answers = [Answer(command, f"request {number}", b"{}") for number in range(16)]
    kept = await asyncio.gather(*(store.remember(answer) for answer in answers))
    assert len(set(kept)) == 1
    assert (await store.recall(command, uuid4())).answer == kept[0]


# --- Blocked products


async def blocked(store: EventStore, among: list[UUID] | None = None) -> list[UUID]:
    return [each.product_id for each in await store.blocked_products(among)]


async def test_a_new_store_blocks_the_product_that_the_original_system_blocked(store: EventStore) -> None:
    assert await blocked(store) == [BLOCKED_FROM_THE_START]


async def test_a_product_is_blocked_once(store: EventStore) -> None:
    assert await store.block_product(PLUMS)
    since = await store.blocked_products()
    assert not await store.block_product(PLUMS)
    assert await store.blocked_products() == since


async def test_a_product_is_unblocked_once(store: EventStore) -> None:
    assert await store.unblock_product(BLOCKED_FROM_THE_START)
    assert not await store.unblock_product(BLOCKED_FROM_THE_START)
    assert not await store.unblock_product(PLUMS)
    assert await blocked(store) == []


async def test_a_product_may_be_blocked_again(store: EventStore) -> None:
    await store.unblock_product(BLOCKED_FROM_THE_START)
    assert await store.block_product(BLOCKED_FROM_THE_START)
    assert await blocked(store) == [BLOCKED_FROM_THE_START]


async def test_what_is_done_once_is_done_with_its_answer_or_not_at_all(store: EventStore) -> None:
    once = Answer(uuid4(), "block plums", b"{}")
    assert await store.block_product(PLUMS, once=once)
    assert (await store.recall(once.command_id, uuid4())).answer == once
    await store.unblock_product(PLUMS)
    assert not await store.block_product(PLUMS, once=once)
    assert PLUMS not in await blocked(store)

    other = Answer(once.command_id, "unblock what is blocked from the start", b"{}")
    assert not await store.unblock_product(BLOCKED_FROM_THE_START, once=other)
    assert BLOCKED_FROM_THE_START in await blocked(store)
    assert (await store.recall(once.command_id, uuid4())).answer == once
    assert await store.unblock_product(BLOCKED_FROM_THE_START, once=Answer(uuid4(), "unblock", b"{}"))


async def test_of_those_that_come_at_once_under_one_command_one_is_done(store: EventStore) -> None:
    command = uuid4()
    products = [uuid4() for _ in range(16)]
    done = await asyncio.gather(
        *(store.block_product(product, once=Answer(command, str(product), b"{}")) for product in products)
    )
    kept = (await store.recall(command, uuid4())).answer
    assert kept
    assert [str(product) for product, news in zip(products, done, strict=True) if news] == [kept.fingerprint]
    assert await blocked(store, products) == [UUID(kept.fingerprint)]


async def test_blocked_products_are_listed_by_id(store: EventStore) -> None:
    for product in (PLUMS, FIGS):
        await store.block_product(product)
    assert await blocked(store) == [FIGS, BLOCKED_FROM_THE_START, PLUMS]


async def test_blocked_products_are_looked_up_among_those_of_an_order(store: EventStore) -> None:
    await store.block_product(PLUMS)
    assert await blocked(store, [PLUMS, FIGS, PLUMS]) == [PLUMS]
    assert await blocked(store, [FIGS]) == []
    assert await blocked(store, []) == []


async def test_a_product_is_blocked_since_a_moment(store: EventStore) -> None:
    await store.block_product(FIGS)
    answer = await append(store, APPLES)
    figs, from_the_start = await store.blocked_products()
    assert from_the_start.blocked_at <= figs.blocked_at <= answer.created_at
    assert figs.blocked_at.utcoffset() == timedelta(0)
