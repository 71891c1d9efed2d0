"""Subscriptions: every event, in order, to one owner at a time, who goes on where the last one has stopped."""

import asyncio

import pytest

from eventstore.store import EventStore, RecordedEvent, Start, StreamDeleted, SubscriptionLost
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers
from tests.contract.subscribing import PATIENCE, nothing_comes, run_through, taken
from tests.support import eventually

# --- Where it starts


async def test_a_subscription_from_the_origin_sees_what_was_there_and_what_comes(store: EventStore) -> None:
    await append(store, APPLES, *(there := events(3)))
    async with store.subscribe("counter") as subscription:
        assert ids(await taken(subscription, 3)) == ids(there)
        await append(store, PEARS, *(new := events(2)))
        assert ids(await taken(subscription, 2)) == ids(new)


async def test_a_subscription_from_the_current_end_sees_what_comes(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    async with store.subscribe("counter", start="current") as subscription:
        assert subscription.checkpoint == 3
        assert await nothing_comes(subscription)
        await append(store, APPLES, *events(2))
        assert numbers(await taken(subscription, 2)) == [4, 5]


async def test_a_subscription_from_a_number_sees_what_comes_after_it(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    async with store.subscribe("counter", start=2) as subscription:
        assert numbers(await taken(subscription, 1)) == [3]


async def test_a_subscription_may_start_after_a_number_that_is_yet_to_come(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    async with store.subscribe("counter", start=4) as subscription:
        assert await nothing_comes(subscription)
        await append(store, APPLES, *events(2))
        assert numbers(await taken(subscription, 1)) == [5]


async def test_a_start_below_0_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="0 or a greater"):
        async with store.subscribe("counter", start=-1):
            pass


# --- Where it goes on


@pytest.mark.parametrize("start", ["origin", "current", 1])
async def test_a_subscription_goes_on_at_its_checkpoint_wherever_it_would_start(
    store: EventStore, start: Start
) -> None:
    await append(store, APPLES, *events(5))
    async with store.subscribe("counter", batch=3) as subscription:
        assert numbers(await taken(subscription, 1)) == [1, 2, 3]
    async with store.subscribe("counter", start=start) as subscription:
        assert subscription.checkpoint == 3
        assert numbers(await taken(subscription, 1)) == [4, 5]


async def test_a_subscription_that_acknowledged_nothing_stays_where_it_started(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", start="current") as subscription:
        assert subscription.checkpoint == 2
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", start="current") as subscription:
        assert numbers(await taken(subscription, 2)) == [3, 4]


async def test_what_was_not_acknowledged_comes_again(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    async with store.subscribe("counter") as subscription:
        seen = await taken(subscription, 5, ack=False)
        await subscription.ack(seen[1])
        assert subscription.checkpoint == 2
    async with store.subscribe("counter") as subscription:
        assert numbers(await taken(subscription, 3)) == [3, 4, 5]


async def test_an_owner_is_not_told_again_of_what_it_has_not_acknowledged_yet(store: EventStore) -> None:
    await append(store, APPLES, *events(4))
    async with store.subscribe("counter", batch=2) as subscription:
        assert numbers(await taken(subscription, 4, ack=False)) == [1, 2, 3, 4]
        assert subscription.checkpoint == 0


async def test_a_checkpoint_only_moves_forward(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    async with store.subscribe("counter") as subscription:
        seen = await taken(subscription, 5, ack=False)
        for acknowledged in (seen[3], seen[1], seen[3], seen[0]):
            await subscription.ack(acknowledged)
            assert subscription.checkpoint == 4
    async with store.subscribe("counter") as subscription:
        assert numbers(await taken(subscription, 1)) == [5]


async def test_what_was_not_delivered_can_not_be_acknowledged(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", batch=1) as subscription:
        with pytest.raises(ValueError, match="not delivered"):
            await subscription.ack((await store.read_all())[0])
        await taken(subscription, 1, ack=False)
        with pytest.raises(ValueError, match="not delivered"):
            await subscription.ack((await store.read_all())[1])
        assert subscription.checkpoint == 0


async def test_batches_are_as_large_as_was_asked_for(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    async with store.subscribe("counter", batch=2) as subscription:
        assert [len(await taken(subscription, 1)) for _ in range(3)] == [2, 2, 1]


# --- What it sees


async def test_every_event_is_seen_once_and_in_order_while_appends_go_on(store: EventStore) -> None:
    async def write(stream: str) -> None:
        for count in range(1, 11):
            await append(store, stream, *events(count % 3 + 1))

    await write(APPLES)
    writing = asyncio.gather(*(write(f"stream-{number}") for number in range(4)))
    async with store.subscribe("counter", batch=7) as subscription:
        seen = numbers(await taken(subscription, 20 * 5))
    await writing
    assert seen == list(range(1, 101))


async def test_a_subscription_that_waits_is_told_of_an_append(store: EventStore) -> None:
    async with store.subscribe("counter") as subscription:
        waiting = asyncio.ensure_future(taken(subscription, 1))
        await asyncio.sleep(0)
        await append(store, APPLES, one := event())
        assert ids(await waiting) == ids([one])


async def test_a_wait_that_is_cancelled_loses_nothing(store: EventStore) -> None:
    async with store.subscribe("counter") as subscription:
        assert await nothing_comes(subscription)
        await append(store, APPLES, *events(2))
        assert numbers(await taken(subscription, 2)) == [1, 2]


async def test_a_subscription_to_a_stream_sees_that_stream_by_its_versions(store: EventStore) -> None:
    await append(store, PEARS, *events(3))
    await append(store, APPLES, *events(2))
    await append(store, PEARS)
    async with store.subscribe("counter", stream_id=APPLES) as subscription:
        assert [(each.number, each.position) for each in await taken(subscription, 2)] == [(1, 4), (2, 5)]
        assert subscription.checkpoint == 2
        await append(store, PEARS)
        await append(store, APPLES)
        assert [(each.number, each.position) for each in await taken(subscription, 1)] == [(3, 8)]


async def test_a_subscription_to_a_stream_may_start_at_its_end(store: EventStore) -> None:
    await append(store, PEARS, *events(3))
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", stream_id=APPLES, start="current") as subscription:
        assert subscription.checkpoint == 2


async def test_a_subscription_to_a_stream_of_links_sees_what_is_linked(store: EventStore) -> None:
    await append(store, APPLES, *(three := events(3)))
    await store.link("basket", ids(three[1:]))
    async with store.subscribe("counter", stream_id="basket") as subscription:
        assert [(each.number, each.version) for each in await taken(subscription, 2)] == [(1, 2), (2, 3)]
        await store.link("basket", ids(three[:1]))
        assert [(each.number, each.version) for each in await taken(subscription, 1)] == [(3, 1)]


async def test_a_stream_may_be_subscribed_to_before_it_exists(store: EventStore) -> None:
    for start in ("origin", "current"):
        async with store.subscribe(start, stream_id=APPLES, start=start) as subscription:
            assert await nothing_comes(subscription)
    await append(store, APPLES, *events(2))
    assert await run_through(store, "origin", 2, stream_id=APPLES) == [1, 2]
    assert await run_through(store, "current", 2, stream_id=APPLES) == [1, 2]


async def test_subscriptions_of_different_names_or_streams_know_nothing_of_each_other(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with (
        store.subscribe("counter") as one,
        store.subscribe("linker") as two,
        store.subscribe("counter", stream_id=APPLES) as three,
    ):
        for subscription in (one, two, three):
            assert numbers(await taken(subscription, 2)) == [1, 2]
        await append(store, PEARS)
        assert numbers(await taken(two, 1)) == [3]
        assert (one.checkpoint, two.checkpoint, three.checkpoint) == (2, 3, 2)


# --- What is deleted under it


async def test_a_subscription_steps_over_the_gaps_of_a_hard_delete(store: EventStore) -> None:
    for stream in (PEARS, APPLES, PEARS, APPLES, APPLES):
        await append(store, stream)
    async with store.subscribe("counter", batch=1) as subscription:
        assert numbers(await taken(subscription, 1)) == [1]
        await store.delete_stream(APPLES, hard=True)
        assert numbers(await taken(subscription, 1)) == [3]
        await append(store, PEARS)
        assert numbers(await taken(subscription, 1)) == [6]


async def test_an_event_that_is_gone_since_it_was_delivered_can_be_acknowledged(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter") as subscription:
        seen = await taken(subscription, 2, ack=False)
        await store.delete_stream(APPLES, hard=True)
        await subscription.ack(seen[-1])
        assert subscription.checkpoint == 2


async def test_a_subscription_to_a_deleted_stream_says_so(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", stream_id=APPLES, batch=1) as subscription:
        await taken(subscription, 1)
        await store.delete_stream(APPLES)
        with pytest.raises(StreamDeleted):
            await taken(subscription, 1)


async def test_a_subscription_that_waits_hears_that_its_stream_was_deleted(store: EventStore) -> None:
    await append(store, APPLES)
    async with store.subscribe("counter", stream_id=APPLES) as subscription:
        await taken(subscription, 1)
        waiting = asyncio.ensure_future(taken(subscription, 1))
        await asyncio.sleep(0)
        await store.delete_stream(APPLES)
        with pytest.raises(StreamDeleted):
            await waiting


async def test_a_subscription_to_links_steps_over_events_that_were_removed_for_good(store: EventStore) -> None:
    for stream in (PEARS, APPLES, PEARS, APPLES):
        await append(store, stream)
    await store.link("basket", ids(await store.read_all()))
    async with store.subscribe("counter", stream_id="basket", batch=1) as subscription:
        assert numbers(await taken(subscription, 1)) == [1]
        await store.delete_stream(APPLES, hard=True)
        assert numbers(await taken(subscription, 1)) == [3]
        await append(store, PEARS, last := event())
        await store.link("basket", [last.event_id])
        assert ids(await taken(subscription, 1)) == ids([last])


async def test_what_stays_is_seen_once_and_in_order_while_streams_are_removed_for_good(store: EventStore) -> None:
    doomed = [f"stream-{number}" for number in range(8)]
    for stream in doomed:
        await append(store, stream, *events(3))
        await append(store, PEARS, *events(2))

    async def remove() -> None:
        for stream in doomed:
            await store.delete_stream(stream, hard=True)
            await append(store, PEARS)

    async with store.subscribe("counter", batch=4) as subscription:
        removing = asyncio.ensure_future(remove())
        seen: list[RecordedEvent] = []
        while sum(each.stream_id == PEARS for each in seen) < 3 * len(doomed):
            seen += await taken(subscription, 1)
        await removing
        assert await nothing_comes(subscription)
    assert numbers(seen) == sorted(set(numbers(seen)))
    assert [each.version for each in seen if each.stream_id == PEARS] == list(range(1, 3 * len(doomed) + 1))


async def test_a_subscription_to_the_global_sequence_sees_events_of_deleted_streams(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await store.delete_stream(APPLES)
    assert await run_through(store, "counter", 2) == [1, 2]


async def test_a_subscription_ends_with_the_stream_that_is_removed_for_good(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter", stream_id=APPLES) as subscription:
        seen = await taken(subscription, 2, ack=False)
        await store.delete_stream(APPLES, hard=True)
        with pytest.raises(SubscriptionLost):
            await subscription.ack(seen[-1])
    # A new stream of that name has nothing to do with the checkpoint in the old one.
    await append(store, APPLES)
    assert await run_through(store, "counter", 1, stream_id=APPLES) == [1]


# --- Who owns it


async def test_a_subscription_has_one_owner_and_the_next_goes_on_where_it_has_stopped(store: EventStore) -> None:
    await append(store, APPLES, *events(4))
    async with store.subscribe("counter", batch=2) as subscription:
        second = asyncio.ensure_future(run_through(store, "counter", 2))
        await taken(subscription, 2)
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done
    async with asyncio.timeout(PATIENCE):
        assert await second == [3, 4]


async def test_who_gives_up_waiting_does_not_own_it(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter"):
        second = asyncio.ensure_future(run_through(store, "counter", 2))
        await asyncio.wait([second], timeout=0.1)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
    async with asyncio.timeout(PATIENCE):
        assert await run_through(store, "counter", 2) == [1, 2]


async def test_an_owner_who_fails_is_followed_by_another(store: EventStore) -> None:
    await append(store, APPLES, *events(3))

    async def fail() -> None:
        async with store.subscribe("counter", batch=1) as subscription:
            await taken(subscription, 1)
            await anext(subscription)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await run_through(store, "counter", 2) == [2, 3]


async def test_of_3_who_want_it_one_at_a_time_owns_it_and_nothing_is_seen_twice(store: EventStore) -> None:
    await append(store, APPLES, *events(30))
    owners = 0
    seen: list[int] = []

    async def own() -> None:
        nonlocal owners
        async with store.subscribe("counter", batch=5) as subscription:
            owners += 1
            assert owners == 1
            seen.extend(numbers(await taken(subscription, 10)))
            owners -= 1

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(own(), own(), own())
    assert seen == list(range(1, 31))


async def test_a_handler_reads_like_a_loop(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    handled: list[RecordedEvent] = []

    async def handle() -> None:
        async with store.subscribe("handler", batch=2) as subscription:
            async for batch in subscription:
                handled.extend(batch)
                await subscription.ack(batch[-1])

    handler = asyncio.ensure_future(handle())
    await eventually(lambda: len(handled) == 3)
    await append(store, PEARS)
    await eventually(lambda: len(handled) == 4)
    handler.cancel()
    await asyncio.wait([handler])
    assert numbers(handled) == [1, 2, 3, 4]
