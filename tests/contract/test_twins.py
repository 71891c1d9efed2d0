"""The store in memory and the one in PostgreSQL, asked the same things at random, give the same answers."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import pytest

from eventstore.memory import MemoryStore
from eventstore.store import (
    Answer,
    Append,
    Appended,
    BlockedProduct,
    Claim,
    EventStore,
    History,
    NewEvent,
    Recollection,
    RecordedEvent,
    Snapshot,
    StoreError,
    StreamInfo,
)

SOMETIME = datetime(2026, 1, 31, tzinfo=UTC)
STEPS = 150

Question = Callable[[EventStore], Awaitable[object]]


class Asker:
    """Things that somebody may ask of a store, from so few names that they meet often."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def id(self, among: int = 12) -> UUID:
        return UUID(int=self.random.randrange(1, among + 1), version=4)

    def stream(self) -> str:
        return self.random.choice(["apples", "pears", "plums"])

    def claim(self) -> Claim:
        return Claim("order_number", self.random.choice(["A-1", "A-2"]), self.id(3))

    def claims(self) -> list[Claim]:
        return [self.claim() for _ in range(self.random.choice([0, 0, 0, 1]))]

    def append(self) -> Question:
        first = self.random.randrange(1, 40)
        events = [
            NewEvent(UUID(int=number, version=4), self.random.choice(["Picked", "Eaten"]), b"{}")
            for number in range(first, first + self.random.randrange(1, 4))
        ]
        if self.random.random() < 0.1:
            self.random.shuffle(events)
        expected: Any = self.random.choice(["any", "any", "no_stream", "stream_exists", 0, 1, 2, 3, 5, 8])
        asked = Append(self.stream(), expected, events, self.claims(), self.claims())
        return lambda store: store.append(asked)

    def read(self) -> Question:
        stream = self.random.choice([self.stream(), "basket", "$all", "nothing"])
        after, limit = self.random.randrange(12), self.random.randrange(12)
        backwards = self.random.random() < 0.5
        return lambda store: store.read_stream(stream, after=after, limit=limit, backwards=backwards)

    def read_all(self) -> Question:
        types = self.random.choice([None, [], ["Eaten"], ["Eaten", "Picked"]])
        after, until, limit = (self.random.randrange(12) for _ in range(3))
        return lambda store: store.read_all(after=after, until=until, limit=limit, types=types)

    def link(self) -> Question:
        stream = self.random.choice([self.stream(), "basket", "basket", "$all"])
        linked = [self.id(40) for _ in range(self.random.randrange(1, 3))]
        expected: Any = self.random.choice(["any", "any", "any", "no_stream", "stream_exists", 1, 2])
        return lambda store: store.link(stream, linked, expected=expected)

    def delete(self) -> Question:
        stream = self.random.choice([self.stream(), "basket", "nothing"])
        expected: Any = self.random.choice(["any", "any", "stream_exists", 1, 2, 3])
        hard = self.random.random() < 0.8
        return lambda store: store.delete_stream(stream, expected=expected, hard=hard)

    def streams(self) -> Question:
        stream = self.random.choice([self.stream(), "basket", "$all", "nothing"])
        limit = self.random.randrange(5)
        return self.random.choice(
            [lambda store: store.stream_info(stream), lambda store: store.list_streams(limit=limit)]
        )

    def subscribe(self) -> Question:
        stream = self.random.choice([self.stream(), "basket", "$all"])
        start: Any = self.random.choice(["origin", "current", 2])

        async def checkpoint(store: EventStore) -> int:
            async with store.subscribe("counter", stream_id=stream, start=start) as subscription:
                if await store.read_stream(stream, after=subscription.checkpoint, limit=1):
                    await subscription.ack((await anext(subscription))[0])
                return subscription.checkpoint

        return checkpoint

    def load(self) -> Question:
        stream, event = self.stream(), self.id(40)
        return lambda store: store.load(stream, event)

    def record_snapshot(self) -> Question:
        snapshot = Snapshot(self.stream(), self.random.randrange(1, 12), "Fruit", b"{}", b"{}")
        return lambda store: store.record_snapshot(snapshot)

    def reserve(self) -> Question:
        # A lease of no time or of an hour: nothing here depends on how quickly it is asked.
        claim, command, lease = self.claim(), self.id(4), self.random.choice([0, 3600])
        return lambda store: store.reserve(claim, command, lease_seconds=lease)

    def release(self) -> Question:
        claim, command = self.claim(), self.id(4)
        return lambda store: store.release(claim, command)

    def claim_owner(self) -> Question:
        key = self.claim().key
        return lambda store: store.claim_owner("order_number", key)

    def recall(self) -> Question:
        command, event = self.id(), self.id(40)
        return lambda store: store.recall(command, event)

    def remember(self) -> Question:
        answer = Answer(self.id(), str(self.random.randrange(3)), b"{}")
        return lambda store: store.remember(answer)

    def products(self) -> Question:
        product, among = self.id(3), self.random.choice([None, [self.id(3)], []])
        return self.random.choice(
            [
                lambda store: store.block_product(product),
                lambda store: store.unblock_product(product),
                lambda store: store.blocked_products(among),
            ]
        )

    def question(self) -> Question:
        often = [self.append] * 6
        return self.random.choice(
            [
                *often,
                self.read,
                self.read_all,
                self.load,
                self.link,
                self.delete,
                self.streams,
                self.subscribe,
                self.record_snapshot,
                self.reserve,
                self.reserve,
                self.release,
                self.claim_owner,
                self.recall,
                self.remember,
                self.products,
            ]
        )()


async def answer(store: EventStore, question: Question) -> object:
    """What the store says, or how it refuses, without the time of day."""
    try:
        return timeless(await question(store))
    except StoreError as refused:
        return type(refused), str(refused)


def timeless(said: Any) -> object:
    match said:
        case list():
            return [timeless(each) for each in said]
        case RecordedEvent():
            return said._replace(created_at=SOMETIME)
        case Appended():
            return replace(said, created_at=SOMETIME)
        case StreamInfo():
            return replace(
                said, number=min(said.number, 1), created_at=SOMETIME, deleted_at=said.deleted_at and SOMETIME
            )
        case BlockedProduct():
            return replace(said, blocked_at=SOMETIME)
        case History():
            return replace(said, events=timeless(said.events), repeated=timeless(said.repeated))
        case Recollection():
            return replace(said, event=timeless(said.event))
        case _:
            return said


@pytest.mark.parametrize("seed", range(8))
async def test_both_stores_give_the_same_answers(postgres_store: EventStore, seed: int) -> None:
    memory, asker = MemoryStore(), Asker(seed)
    for step in range(STEPS):
        question = asker.question()
        in_memory, in_postgres = await answer(memory, question), await answer(postgres_store, question)
        assert in_postgres == in_memory, f"question {step}"
