"""Requests of the command line: sent again until there is an answer, and for how long."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import click
import httpx2
import pytest

from domain.ids import shipment_id
from gateway_client import Client, Failed, GatewayAway, Refused, Standing, connected

ORDER = UUID("0b6a2b4e-5c1f-4c6e-9a53-0d6f0a7a2f10")
SHIPMENT = shipment_id(ORDER)
WRITTEN = httpx2.Response(201, json={"id": str(ORDER), "shipment_id": str(SHIPMENT)})


def problem(status: int, code: str, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, json={"code": code, "detail": "so it is"}, headers=headers)


@dataclass
class Scripted:
    """A gateway that answers as it is told, the last answer for ever; and a clock that only moves when one sleeps."""

    answers: list[httpx2.Response | Exception]
    requests: list[httpx2.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    now: float = 0.0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, content=answer.content, headers=answer.headers)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Callable[..., Any]]:
    clients: list[httpx2.AsyncClient] = []

    def scripted(*answers: httpx2.Response | Exception) -> tuple[Client, Scripted]:
        script = Scripted(list(answers))
        monkeypatch.setattr("gateway_client.time.monotonic", lambda: script.now)
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(script), base_url="http://waybill.test")
        clients.append(http)
        return Client(http, sleep=script.sleep), script

    yield scripted
    for http in clients:
        await http.aclose()


@pytest.mark.parametrize(
    "trouble",
    [
        httpx2.ConnectError("nobody there"),
        httpx2.ReadError(""),
        httpx2.RemoteProtocolError("Server disconnected"),
        problem(503, "unavailable"),
        problem(429, "too-many-requests"),
        httpx2.Response(502, text="<html>Bad gateway</html>"),
    ],
)
async def test_a_request_that_got_no_answer_is_sent_again_with_the_same_key(gateway, trouble):
    client, script = gateway(trouble, trouble, WRITTEN)

    assert await client.create({"order_number": "1"}, "a-key") is True

    assert len(script.requests) == 3
    assert {request.headers["Idempotency-Key"] for request in script.requests} == {"a-key"}
    assert {request.content for request in script.requests} == {b'{"order_number":"1"}'}


async def test_it_waits_as_long_as_the_gateway_asks_for(gateway):
    client, script = gateway(problem(503, "unavailable", **{"Retry-After": "7"}), WRITTEN)

    await client.complete(ORDER, "a-key")

    assert script.pauses == [7]


async def test_it_waits_longer_each_time_but_never_long(gateway):
    client, script = gateway(*[problem(503, "unavailable")] * 10, WRITTEN)

    await client.complete(ORDER, "a-key")

    assert script.pauses[0] <= 0.1
    assert 2.5 <= script.pauses[-1] <= 5


async def test_a_gateway_that_does_nothing_for_a_minute_is_away(gateway):
    client, script = gateway(problem(503, "unavailable"))

    with pytest.raises(GatewayAway, match=r"has done nothing for 60 s \(POST /orders was answered 503 unavailable"):
        await client.create({}, "a-key")

    assert 50 < script.now <= 60


async def test_a_request_that_alone_gets_no_answer_has_failed(gateway):
    client, script = gateway(problem(503, "unavailable"))

    async def sleep_while_others_are_answered(seconds: float) -> None:
        await script.sleep(seconds)
        if script.now > 30 and WRITTEN not in script.answers:
            script.answers = [WRITTEN, problem(503, "unavailable")]
            await client.create({}, "another-key")

    client._sleep = sleep_while_others_are_answered

    with pytest.raises(Failed, match="503 unavailable"):
        await client.complete(ORDER, "a-key")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (problem(500, "internal-error"), "500 internal-error: so it is"),
        (httpx2.Response(404, text="nginx"), "404 without a reason"),
        (httpx2.Response(200, text="<html>Please log in</html>"), "200 without a reason"),
    ],
)
async def test_what_is_no_answer_of_the_domain_is_a_failure_and_is_not_sent_again(gateway, answer, reason):
    client, script = gateway(answer)

    with pytest.raises(Failed, match=f"POST /orders was answered {reason}"):
        await client.create({}, "a-key")

    assert len(script.requests) == 1


@pytest.mark.parametrize("answer", [problem(401, "unauthorized"), problem(403, "forbidden")])
async def test_a_gateway_that_wants_another_key_is_no_gateway_for_the_others_either(gateway, answer):
    client, script = gateway(answer)

    with pytest.raises(GatewayAway, match="is WAYBILL_API_KEY right"):
        await client.create({}, "a-key")

    assert len(script.requests) == 1


async def test_a_refusal_of_the_domain_is_told_with_its_code(gateway):
    client, _ = gateway(problem(409, "products-blocked"))

    with pytest.raises(Refused, match="products-blocked: so it is") as refused:
        await client.complete(ORDER, "a-key")

    assert refused.value.code == "products-blocked"


async def test_what_had_been_done_before_is_no_news(gateway):
    assert await gateway(problem(409, "order-already-created"))[0].create({}, "a-key") is False
    assert await gateway(problem(409, "order-already-completed"))[0].complete(ORDER, "a-key") is None
    assert await gateway(problem(409, "shipment-already-completed"))[0].ship(SHIPMENT, "a-key") is False


async def test_a_completion_tells_the_shipment(gateway):
    assert await gateway(WRITTEN)[0].complete(ORDER, "a-key") == SHIPMENT


async def test_a_completed_orders_shipment_is_waited_for(gateway):
    client, script = gateway(problem(404, "shipment-not-found"), WRITTEN)

    assert await client.ship(SHIPMENT, "a-key") is True

    assert [request.url.path for request in script.requests] == [f"/shipments/{SHIPMENT}/complete"] * 2


async def test_where_an_order_stands_is_asked_without_a_key(gateway):
    shipment = {"id": str(SHIPMENT), "status": "OPEN", "version": 1}
    client, script = gateway(
        httpx2.Response(200, json={"status": "OPEN", "shipment": None}),
        httpx2.Response(200, json={"status": "COMPLETED", "shipment": shipment}),
        problem(404, "order-not-found"),
    )

    assert await client.standing(ORDER) == Standing("OPEN", None)
    assert await client.standing(ORDER) == Standing("COMPLETED", SHIPMENT)
    assert await client.standing(ORDER) is None
    assert not any("Idempotency-Key" in request.headers for request in script.requests)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:8000", "http://[", ""])
async def test_a_wrong_address_is_told_at_once_and_named(url):
    with pytest.raises(click.ClickException, match="WAYBILL_API_URL") as error:
        async with connected(url, 1):
            pass

    assert f"no gateway at {url}" in error.value.message
    assert "\n" not in error.value.message
