"""What customers do all day, and more of it than is good: orders through HTTP, from a seed.

Whatever a customer sends, it notes before, and afterwards what it was told. A write under a key is sent until its
answer is final, now and then several times at once; some customers go away without having heard.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import httpx2

from proof.journal import Call, Journal
from support import eventually

TIMEOUT = httpx2.Timeout(10, connect=3, pool=None)
_AGAIN = 0.2
# Of a request without an answer, or with one that says "later": how often a customer goes away instead of asking again.
_GIVES_UP = 0.01
_TWICE_AT_ONCE = 0.08
_RACERS = 5


@dataclass
class Customer:
    """One after the other, the lives of orders."""

    http: httpx2.AsyncClient
    journal: Journal
    chance: Random
    name: str
    goes_on: Callable[[], bool]
    history: list[Call] = field(default_factory=list)
    """Own writes under keys that have had their final answer."""
    _numbers: int = 0

    async def live(self) -> None:
        while self.goes_on():
            draw = self.chance.random()
            if draw < 0.06:
                await self._race()
            elif draw < 0.14 and self.history:
                await self._repeat()
            else:
                await self._order()

    # --- What customers do

    async def _order(self) -> None:
        order = await self._create(self._number(), named=self.chance.random() < 0.7)
        if order is None:
            return
        for _ in range(self.chance.choice((0, 1, 1, 2, 3, 5))):
            await self._add_item(order)
        await self._read(order)
        if self.chance.random() < 0.04:
            # Until the order's run has ended as idle.
            await self._wait(10)
        if self.chance.random() < 0.12:
            await self._delete(order)
            return
        if self.chance.random() < 0.15:
            await self._find_blocked(order)
        await self._complete(order)

    async def _race(self) -> None:
        """Several orders for one number, at the same time."""
        number = self._number()
        contenders = [self._creation(number, named=True) for _ in range(_RACERS)]
        answers = await asyncio.gather(*(self._insist("POST", "/orders", body, self._key()) for body in contenders))
        for answer in answers:
            if answer and answer.done:
                await self._complete({**answer.answer, "eventual": answer.eventual})

    async def _repeat(self) -> None:
        """Something of long ago once more; or, under its key, something else."""
        old = self.chance.choice(self.history)
        if self.chance.random() < 0.8:
            await self._insist(old.method, old.path, old.body, old.key)
        else:
            await self._insist("POST", "/orders", self._creation(self._number(), named=True), old.key)

    async def _create(self, number: str, *, named: bool) -> dict[str, Any] | None:
        """The order that has been created, as its answer tells of it."""
        answer = await self._insist("POST", "/orders", self._creation(number, named=named), self._key())
        if answer is None or not answer.done:
            return None
        return {**answer.answer, "items": answer.body["items"], "eventual": answer.eventual}

    async def _add_item(self, order: dict[str, Any]) -> None:
        path = f"/orders/{order['id']}/items"
        if self.chance.random() < 0.15:
            # Without a key, and so only once: whether it was done or not.
            await self._send("POST", path, self._item(), None)
            return
        answer = await self._insist("POST", path, self._item(), self._key())
        if answer and answer.done:
            order["version"] = answer.answer["version"]
            order["eventual"] = answer.eventual

    async def _delete(self, order: dict[str, Any]) -> None:
        answer = await self._insist("DELETE", f"/orders/{order['id']}", None, self._key())
        if answer and answer.done and self.chance.random() < 0.5:
            # Its number is free again.
            await self._create(order["order_number"], named=True)

    async def _find_blocked(self, order: dict[str, Any]) -> None:
        """Block a product of the order, which then can't be completed, and let it be sold again."""
        path = f"/blocked-products/{order['items'][0]['product_id']}"
        await self._insist("PUT", path, None, self._key())
        await self._insist("POST", f"/orders/{order['id']}/complete", None, self._key())
        await self._insist("DELETE", path, None, self._key())

    async def _complete(self, order: dict[str, Any]) -> None:
        answer = await self._insist("POST", f"/orders/{order['id']}/complete", None, self._key())
        if answer is None or not answer.done:
            return
        order["version"], order["eventual"] = answer.answer["version"], answer.eventual
        await self._read(order)
        if self.chance.random() < 0.8:
            path = f"/shipments/{answer.answer['shipment_id']}/complete"
            await self._insist("POST", path, None, self._key())

    async def _read(self, order: dict[str, Any]) -> None:
        at_least = 0 if order["eventual"] else order["version"]
        await self._send("GET", f"/orders/{order['id']}", None, None, at_least)

    # --- How they ask

    async def _insist(self, method: str, path: str, body: Any, key: str | None) -> Call | None:
        """The final answer; None if the customer has gone away before it came."""
        while True:
            copies = 2 if self.chance.random() < _TWICE_AT_ONCE else 1
            sent = await asyncio.gather(*(self._send(method, path, body, key) for _ in range(copies)))
            answers = [call for call in sent if call.final]
            if answers:
                self.history.append(answers[0])
                return answers[0]
            if self.chance.random() < _GIVES_UP:
                self.journal.go_away(key)
                return None
            await asyncio.sleep(_AGAIN)

    async def _send(self, method: str, path: str, body: Any, key: str | None, at_least: int = 0) -> Call:
        return await send(self.http, self.journal, method, path, body, key, at_least)

    async def _wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            if self.goes_on():
                await asyncio.sleep(1)

    # --- What they make up

    def _key(self) -> str:
        return str(self._uuid())

    def _number(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    def _creation(self, number: str, *, named: bool) -> dict[str, Any]:
        items = [self._item() for _ in range(self.chance.choice((1, 1, 2, 4)))]
        body = {"order_number": number, "business_partner": f"{self.name}@example.com", "items": items}
        return {"id": str(self._uuid()), **body} if named else body

    def _item(self) -> dict[str, Any]:
        quantity = self.chance.randint(1, 999_999) / 1000
        return {"product_id": str(self._uuid()), "quantity": quantity, "uom": self.chance.choice(("KG", "MT"))}

    def _uuid(self) -> UUID:
        return UUID(int=self.chance.getrandbits(128), version=4)


async def send(
    http: httpx2.AsyncClient, journal: Journal, method: str, path: str, body: Any, key: str | None, at_least: int = 0
) -> Call:
    """The request, sent once, and noted."""
    call = journal.begin(method, path, body, key, at_least)
    headers = {"X-Request-Id": call.request_id, **({"Idempotency-Key": key} if key else {})}
    try:
        answer = await http.request(method, path, json=body, headers=headers)
    except httpx2.TransportError as error:
        journal.end(call, error=type(error).__name__)
        return call
    journal.end(
        call,
        status=answer.status_code,
        answer=_document(answer),
        etag=answer.headers.get("ETag"),
        location=answer.headers.get("Location"),
        eventual=answer.headers.get("Waybill-Consistency") == "eventual",
    )
    return call


async def ask_again(http: httpx2.AsyncClient, journal: Journal, calls: Sequence[Call], within: float) -> None:
    """Each of these requests once more, under its key. Raises AssertionError if one has no answer in time."""
    busy = asyncio.Semaphore(8)

    async def once_more(call: Call) -> None:
        async def is_answered() -> bool:
            return (await send(http, journal, call.method, call.path, call.body, call.key)).final

        async with busy:
            await eventually(is_answered, within=within, every=_AGAIN, what=f"the answer to {call.request_id}")

    await asyncio.gather(*map(once_more, calls))


def _document(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
