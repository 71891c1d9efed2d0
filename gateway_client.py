"""Orders over HTTP, for the command line: what gets no answer is sent again, until it is known what became of it.

A write is sent with a key, so that a try whose answer was lost is not done twice.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import click
import httpx2

from domain.refusals import (
    REFUSALS,
    OrderAlreadyCompleted,
    OrderAlreadyCreated,
    OrderNotFound,
    ShipmentAlreadyCompleted,
    ShipmentNotFound,
)

_PATIENCE_SECONDS = 60.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# Longer than a gateway holds a request, so that it is the gateway that says what became of it.
_TIMEOUT = httpx2.Timeout(45, connect=5, pool=None)
_NOT_LET_IN = frozenset({401, 403})
_LATER = frozenset({429, 502, 503, 504})


class Refused(Exception):
    """The domain has refused: a result like any other."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Failed(Exception):
    """What became of the request is not known, or the gateway doesn't take such a request: the message says which."""


class GatewayAway(Exception):
    """No request at all gets done any more: the message says why."""


class _Later(Exception):
    """Not yet, but perhaps later."""

    def __init__(self, why: str, seconds: float = 0) -> None:
        super().__init__(why)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an order stands."""

    status: str
    shipment_id: UUID | None = None


class Client:
    """Orders at a gateway. Every method raises Refused, Failed or GatewayAway.

    A request is sent again for `patience` seconds at most.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        *,
        patience: float = _PATIENCE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._patience = patience
        self._sleep = sleep
        self._last_answer = float("-inf")

    async def standing(self, order_id: UUID) -> Standing | None:
        """Where the order stands; None if the read model has none."""
        try:
            found = await self._ask("GET", f"/orders/{order_id}")
        except Refused as refused:
            if refused.code == OrderNotFound.code:
                return None
            raise
        shipment: dict[str, Any] | None = found["shipment"]
        return Standing(found["status"], UUID(shipment["id"]) if shipment else None)

    async def create(self, order: Mapping[str, Any], key: str) -> bool:
        """Whether it is news: False if it had been done before, under another key."""
        return await self._write("/orders", key, OrderAlreadyCreated.code, body=order) is not None

    async def complete(self, order_id: UUID, key: str) -> UUID | None:
        """The shipment that the order has become; None if it had been completed before."""
        completed = await self._write(f"/orders/{order_id}/complete", key, OrderAlreadyCompleted.code)
        return UUID(completed["shipment_id"]) if completed else None

    async def ship(self, shipment_id: UUID, key: str) -> bool:
        """Whether it is news. A completed order's shipment is there soon, or when what holds it up is over."""
        path = f"/shipments/{shipment_id}/complete"
        done = await self._write(path, key, ShipmentAlreadyCompleted.code, not_yet=ShipmentNotFound.code)
        return done is not None

    async def _write(self, path: str, key: str, done_before: str, **more: Any) -> dict[str, Any] | None:
        try:
            return await self._ask("POST", path, key=key, **more)
        except Refused as refused:
            if refused.code == done_before:
                return None
            raise

    async def _ask(
        self, method: str, path: str, *, key: str = "", body: Mapping[str, Any] | None = None, not_yet: str = ""
    ) -> dict[str, Any]:
        """The answer's document. A refusal with the code `not_yet` is taken for a request to come again."""
        headers = {"Idempotency-Key": key} if key else None
        request = self._http.build_request(method, path, json=body, headers=headers)
        began, backing_off = time.monotonic(), _SHORTEST_PAUSE
        while True:
            try:
                return await self._once(request, not_yet)
            except _Later as later:
                pause = max(later.seconds, backing_off * random.uniform(0.5, 1))  # noqa: S311 - jitter, no secret
                if time.monotonic() + pause > began + self._patience:
                    raise self._given_up(began, str(later)) from None
            backing_off = min(2 * backing_off, _LONGEST_PAUSE)
            await self._sleep(pause)

    async def _once(self, request: httpx2.Request, not_yet: str) -> dict[str, Any]:
        try:
            answer = await self._http.send(request)
        except httpx2.TransportError as error:
            raise _Later(_reason(error)) from None
        document = _document(answer)
        code, detail = str(document.get("code", "")), str(document.get("detail", ""))
        said = f"{answer.status_code} {code}: {detail}" if code else f"{answer.status_code} without a reason"
        what_happened = f"{request.method} {request.url.path} was answered {said}"
        if answer.status_code in _NOT_LET_IN:
            raise GatewayAway(f"{what_happened}: is WAYBILL_API_KEY right?")
        if answer.status_code in _LATER:
            raise _Later(what_happened, _retry_after(answer))
        self._last_answer = time.monotonic()
        if answer.is_success and document:
            return document
        if code and code == not_yet:
            raise _Later(what_happened)
        if code in REFUSALS:
            raise Refused(code, detail)
        raise Failed(what_happened)

    def _given_up(self, began: float, why: str) -> Exception:
        if self._last_answer > began:
            return Failed(why)
        return GatewayAway(f"the gateway has done nothing for {self._patience:g} s ({why})")


@asynccontextmanager
async def connected(url: str, connections: int, key: str | None = None) -> AsyncGenerator[httpx2.AsyncClient]:
    """HTTP to the gateway at `url`, once it is known that there is one: a wrong address should show at once."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with AsyncExitStack() as stack:
        try:
            client = httpx2.AsyncClient(base_url=url, limits=limits, timeout=_TIMEOUT, headers=headers)
            http = await stack.enter_async_context(client)
            await http.get("/livez")
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise click.ClickException(f"no gateway at {url} ({_reason(error)}): is WAYBILL_API_URL right?") from None
        yield http


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _document(answer: httpx2.Response) -> dict[str, Any]:
    """The answer's JSON object; empty if it is something else, of a proxy perhaps."""
    try:
        found = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _retry_after(answer: httpx2.Response) -> float:
    seconds = answer.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0
