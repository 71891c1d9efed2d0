"""What the worst client sends, as bytes to a real gateway process: each gets its answer, and nobody else notices."""

import gzip
import json
import re
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from over_http import Story
from settings import Settings
from wire import LAST, Process, gateway_process, json_request, request, say

MIB = 1024 * 1024
CHUNKED = ("Content-Type: application/json", "Transfer-Encoding: chunked")
PLAIN = request("GET", "/livez")


@pytest.fixture(scope="module")
async def served(waybill_settings: Settings) -> AsyncGenerator[Process]:
    """A gateway process with a real Temporal, worker and stores behind it."""
    async with gateway_process(waybill_settings) as process:
        yield process


@pytest.fixture(scope="module")
async def pool(served: Process) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client that has kept its connection from the first test to the last."""
    limits = httpx2.Limits(max_connections=1)
    async with httpx2.AsyncClient(base_url=served.url, limits=limits) as client:
        yield client


@pytest.fixture(autouse=True)
async def _nobody_else_notices(pool: httpx2.AsyncClient, served: Process) -> AsyncGenerator[None]:
    assert (await pool.get("/orders")).status_code == 200
    yield
    assert (await pool.get("/orders")).status_code == 200
    assert not any("Traceback" in line or "request.failed" in line for line in served.log)


def order(**changed: object) -> dict[str, Any]:
    item = {"product_id": str(uuid4()), "quantity": 1.5, "uom": "KG"}
    whole = {"order_number": uuid4().hex, "business_partner": "ann@example.com", "items": [item]}
    return whole | changed


def item(**changed: object) -> dict[str, Any]:
    whole = order()
    return whole | {"items": [whole["items"][0] | changed]}


def written(quantity: str) -> bytes:
    """An order whose quantity is written like this."""
    return json.dumps(item(quantity=0)).replace('"quantity": 0', f'"quantity": {quantity}').encode()


# --- What is no HTTP, or could be read in two ways: an answer, and the connection is closed

BROKEN = {
    "length and chunks": request("POST", "/orders", "Content-Length: 5", *CHUNKED) + b"0\r\n\r\n" + PLAIN,
    "two lengths": request("POST", "/orders", "Content-Length: 5", "Content-Length: 6") + b"abcdef" + PLAIN,
    "the same length twice": request("POST", "/orders", "Content-Length: 2", "Content-Length: 2") + b"{}" + PLAIN,
    "a length with a sign": request("POST", "/orders", "Content-Length: +2") + b"{}" + PLAIN,
    "a negative length": request("POST", "/orders", "Content-Length: -2") + b"{}" + PLAIN,
    "a length beyond counting": request("POST", "/orders", "Content-Length: 99999999999999999999999") + b"{}",
    "a length in hex": request("POST", "/orders", "Content-Length: 0x2") + b"{}" + PLAIN,
    "a list of lengths": request("POST", "/orders", "Content-Length: 2, 2") + b"{}" + PLAIN,
    "an unknown coding": request("POST", "/orders", "Transfer-Encoding: xchunked") + b"0\r\n\r\n" + PLAIN,
    "chunks that aren't last": request("POST", "/orders", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "chunks twice": request("POST", "/orders", *CHUNKED, "Transfer-Encoding: chunked") + b"0\r\n\r\n" + PLAIN,
    "a space before the colon": request("POST", "/orders", "Transfer-Encoding : chunked") + b"0\r\n\r\n" + PLAIN,
    "chunks after a tab": request("POST", "/orders", "Transfer-Encoding:\tchunked\x0b") + b"0\r\n\r\n" + PLAIN,
    "a chunk's size that is none": request("POST", "/orders", *CHUNKED) + b"zz\r\n{}\r\n0\r\n\r\n" + PLAIN,
    "a negative chunk": request("POST", "/orders", *CHUNKED) + b"-2\r\n{}\r\n0\r\n\r\n" + PLAIN,
    "a chunk beyond counting": request("POST", "/orders", *CHUNKED) + b"f" * 20 + b"\r\n{}\r\n0\r\n\r\n" + PLAIN,
    "a chunk that is longer than it says": request("POST", "/orders", *CHUNKED) + b"1\r\n{}\r\n0\r\n\r\n" + PLAIN,
    "chunks without carriage returns": request("POST", "/orders", *CHUNKED) + b"2\n{}\n0\n\n" + PLAIN,
    "lines without carriage returns": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "a folded header": request("GET", "/livez", "A: b\r\n c"),
    "a header without a name": request("GET", "/livez", ": b"),
    "a header with NUL": request("GET", "/livez", "A: \0"),
    "a header's name with a space": request("GET", "/livez", "A b: c"),
    "an unknown method": request("FROB", "/livez"),
    "a tunnel": request("CONNECT", "example.com:443"),
    "another version of HTTP": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/2 from the start": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50,
    "noise": bytes(range(256)),
    "a path that isn't ASCII": request("GET", "/orders/\xff"),
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_http_is_answered_once_and_cut(served, said):
    (answer,) = await say(served.address, said)
    assert (answer.status, answer.code) == (400, "malformed-request")
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]


# --- What is too large

TOO_LARGE = {
    "a header of 10 MB": (431, [request("GET", "/livez", "A: " + "a" * 10 * MIB)]),
    "a header of 10 MB in pieces": (431, [b"GET /livez HTTP/1.1\r\nA: ", *[b"a" * 1000] * 10_000]),
    "a thousand headers": (431, [request("GET", "/livez", *["A: b"] * 1000)]),
    "headers without end": (431, [b"GET /livez HTTP/1.1\r\n", *[b"A: b\r\n" * 100] * 1000]),
    "lines without end": (431, [b"\r\n" * 1000] * 1000),
    "a path of 9 kB": (414, [request("GET", "/" + "a" * 9000)]),
    "a query of 9 kB": (414, [request("GET", "/orders?order_number=" + "a" * 9000)]),
    "a body of 100 MB": (413, [json_request("/orders", b" " * 100 * MIB)]),
    "a body of 100 MB that is only announced": (413, [request("POST", "/orders", "Content-Length: 104857600")]),
    "a body of 100 MB that waits for us": (
        413,
        [request("POST", "/orders", "Content-Length: 104857600", "Expect: 100-continue")],
    ),
    "a body of 100 MB in chunks": (
        413,
        [request("POST", "/orders", *CHUNKED), *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 1600],
    ),
    "a body of 100 MB for a path that doesn't exist": (413, [json_request("/nowhere", b" " * 100 * MIB)]),
    "a body of a byte too many": (413, [json_request("/orders", b" " * (MIB + 1))]),
    "chunks of a byte without end": (413, [request("POST", "/orders", *CHUNKED), *[b"1\r\n \r\n" * 10_000] * 200]),
    "a chunk's extension without end": (413, [request("POST", "/orders", *CHUNKED), b"1;", *[b"a" * 65536] * 200]),
    "a trailer without end": (
        413,
        [request("POST", "/orders", *CHUNKED), b"2\r\n{}\r\n0\r\nA: ", *[b"a" * 65536] * 200],
    ),
}
CODES = {413: "content-too-large", 414: "uri-too-long", 431: "headers-too-large"}


@pytest.mark.parametrize(("status", "said"), TOO_LARGE.values(), ids=TOO_LARGE.keys())
async def test_what_is_too_large_is_answered_and_cut(served, status, said):
    (answer,) = await say(served.address, *said)
    assert (answer.status, answer.code) == (status, CODES[status])
    assert answer.headers["connection"] == "close"


# --- What is HTTP, but nothing that we take: an answer, and the connection stays

DEEP = b'{"order_number": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
REFUSED = {
    "no host": (400, b"GET /livez HTTP/1.1\r\n\r\n"),
    "two hosts": (400, request("GET", "/livez", "Host: other")),
    "two keys": (400, json_request("/orders", order(), "Idempotency-Key: a", "Idempotency-Key: b")),
    "two content types": (400, json_request("/orders", order(), "Content-Type: text/plain")),
    "a query that isn't UTF-8": (400, request("GET", "/orders?order_number=%ff")),
    "a path that isn't UTF-8": (400, request("GET", "/orders/%ff")),
    "an overlong slash": (400, request("GET", "/orders%c0%afx")),
    "a surrogate in the query": (400, request("GET", "/orders?order_number=%ed%a0%80")),
    "NUL in the path": (404, request("GET", "/orders/%00")),
    "NUL in a file's path": (404, request("GET", "/static-offline-docs/%00")),
    "a hidden slash": (404, request("GET", f"/orders%2F{uuid4()}")),
    "a hidden way up": (404, request("GET", "/orders/..%2flivez")),
    "a way up": (404, request("GET", "/orders/../livez")),
    "a way up from the files": (404, request("GET", "/static-offline-docs/../../core.py")),
    "a written way up from the files": (404, request("GET", "/static-offline-docs/%2e%2e/%2e%2e/core.py")),
    "a backslash": (404, request("GET", "/static-offline-docs/..%5c..%5ccore.py")),
    "two slashes": (404, request("GET", "//livez")),
    "a slash at the end": (404, request("GET", "/orders/")),
    "a line feed in the path": (404, request("GET", "/orders/%0d%0aSet-Cookie:%20a")),
    "ANSI in the path": (404, request("GET", "/orders/%1b[31mred")),
    "text that runs backwards in the path": (404, request("GET", "/orders/%e2%80%aeabc")),
    "a method that doesn't fit": (405, request("TRACE", "/livez")),
    "a write where one reads": (405, request("PUT", "/orders", body=b"")),
    "an empty body": (400, json_request("/orders", b"")),
    "only spaces": (400, json_request("/orders", b"   ")),
    "two documents": (400, json_request("/orders", b"{}{}")),
    "a byte order mark": (400, json_request("/orders", b"\xef\xbb\xbf{}")),
    "UTF-16": (400, json_request("/orders", json.dumps(order()).encode("utf-16"))),
    "latin-1": (400, json_request("/orders", '{"order_number": "\xe9"}'.encode("latin-1"))),
    "an encoded surrogate": (400, json_request("/orders", b'{"order_number": "\xed\xa0\x80"}')),
    "NaN": (400, json_request("/orders", written("NaN"))),
    "Infinity": (400, json_request("/orders", written("-Infinity"))),
    "a key twice": (400, json_request("/orders", b'{"id": 1, "id": 2}')),
    "a key twice, deep inside": (400, json_request("/orders", b'{"items": [{"uom": "KG", "uom": "MT"}]}')),
    "depth": (400, json_request("/orders", DEEP)),
    "depth without end": (400, json_request("/orders", b'{"a":' * 100_000)),
    "a hundred thousand digits": (400, json_request("/orders", written("9" * 100_000))),
    "an exponent beyond counting": (400, json_request("/orders", written("1e9999999999999999999"))),
    "a control character": (400, json_request("/orders", b'{"order_number": "a\x01"}')),
    "a comment": (400, json_request("/orders", b"{/* */}")),
    "no content type": (415, request("POST", "/orders", body=b"{}")),
    "a form": (415, request("POST", "/orders", "Content-Type: application/x-www-form-urlencoded", body=b"a=b")),
    "text": (415, request("POST", "/orders", "Content-Type: text/plain", body=b"{}")),
    "nearly the content type": (415, request("POST", "/orders", "Content-Type: application/problem+json", body=b"{}")),
    "another charset": (
        415,
        request("POST", "/orders", "Content-Type: application/json; charset=utf-16", body=b"{}"),
    ),
    "gzip": (415, json_request("/orders", gzip.compress(b"{}"), "Content-Encoding: gzip")),
    "a bomb": (415, json_request("/orders", gzip.compress(b" " * 10 * MIB), "Content-Encoding: gzip")),
    "a list": (422, json_request("/orders", b"[]")),
    "null": (422, json_request("/orders", b"null")),
    "a text": (422, json_request("/orders", b'"order"')),
    "a body where none is taken": (422, json_request(f"/orders/{uuid4()}/complete", {"force": True})),
    "a form where none is taken": (415, request("POST", f"/orders/{uuid4()}/complete", body=b"a=b")),
    "a page of another origin": (403, json_request("/orders", order(), "Origin: https://evil.example")),
    "a page of no origin": (403, json_request("/orders", order(), "Origin: null")),
    "a key with spaces": (400, json_request("/orders", order(), "Idempotency-Key: two words")),
    "a key that isn't ASCII": (400, json_request("/orders", order(), "Idempotency-Key: \xe9")),
    "true for a quantity": (422, json_request("/orders", item(quantity=True))),
    "a text for a quantity": (422, json_request("/orders", item(quantity="5"))),
    "a quantity with an exponent that is huge": (422, json_request("/orders", written("1e1000000"))),
    "a quantity with an exponent": (422, json_request("/orders", written("1e999"))),
    "a quantity of int8": (422, json_request("/orders", written("9223372036854775808"))),
    "a quantity of a billion decimals": (422, json_request("/orders", written("1e-1000000000"))),
    "a number for a text": (422, json_request("/orders", order(order_number=5))),
    "NUL in a text": (422, json_request("/orders", order(order_number="a\0b"))),
    "a lone surrogate": (422, json_request("/orders", b'{"order_number": "\\ud800"}')),
    "ANSI": (422, json_request("/orders", order(order_number="\x1b[31mred"))),
    "text that runs backwards": (422, json_request("/orders", order(order_number="abc\u202edcb"))),
    "a text without width": (422, json_request("/orders", order(order_number="a\u200bb"))),
    "a private character": (422, json_request("/orders", order(order_number="a\ue000b"))),
    "a text of 65": (422, json_request("/orders", order(order_number="a" * 65))),
    "a text of half a megabyte": (422, json_request("/orders", order(order_number="a" * 500_000))),
    "an address with a name": (422, json_request("/orders", order(business_partner="Ann <ann@example.com>"))),
    "an address with a line": (422, json_request("/orders", order(business_partner="ann@example.com\nBcc: x"))),
    "no items": (422, json_request("/orders", order(items=[]))),
    "a thousand items and one": (422, json_request("/orders", order(items=order()["items"] * 1001))),
    "an unknown field": (422, json_request("/orders", order(oder_number="x"))),
    "a hundred thousand unknown fields": (422, json_request("/orders", {f"f{n}": 0 for n in range(70_000)})),
    "a field with a name of half a megabyte": (422, json_request("/orders", {"a" * 500_000: 0})),
    "a field with a name that is none": (422, json_request("/orders", order(**{"a\x1b\u202e": 0}))),
    "a lone surrogate for a name": (422, json_request("/orders", b'{"\\ud800": 1}')),
    "an unknown parameter": (422, request("GET", "/orders?limti=1")),
    "a parameter twice": (422, request("GET", "/orders?limit=1&limit=2")),
    "a whole number with a point": (422, request("GET", "/orders?limit=5.0")),
    "a whole number with a sign": (422, request("GET", "/orders?limit=%2B5")),
    "a whole number with an exponent": (422, request("GET", "/orders?limit=1e1")),
    "a whole number in other digits": (422, request("GET", "/orders?limit=%d9%a5")),
    "a whole number with a gap": (422, request("GET", "/events?after=1_0")),
    "a whole number beyond counting": (422, request("GET", "/events?after=9223372036854775808")),
    "a moment as a number": (422, request("GET", f"/orders/{uuid4()}?as_of=1700000000")),
    "a moment without an offset": (422, request("GET", f"/orders/{uuid4()}?as_of=2026-01-31T12:00:00")),
    "NUL in the query": (422, request("GET", "/orders?order_number=%00")),
    "SQL in the query": (422, request("GET", "/orders?status=OPEN'%20or%20'1'='1")),
    "SQL in a cursor": (422, request("GET", "/orders?after=1%27%3B--")),
}


@pytest.mark.parametrize(("status", "said"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_we_do_not_take_is_refused_and_the_connection_stays(served, status, said):
    refused, after = await say(served.address, said + LAST)
    assert refused.status == status, refused
    assert refused.code
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert after.status == 200
    assert len(refused.body) < MIB


async def test_a_page_that_is_ours_or_trusted_may_write(served, waybill_settings):
    mine = json_request("/orders", order(), "Origin: http://waybill.test")
    created, _ = await say(served.address, mine + LAST)
    assert created.status == 201


async def test_answers_never_quote_what_was_sent(served):
    canary = "Canary-5f2c"
    sent = [
        json_request("/orders", order(order_number=canary + "\0", business_partner=canary, id=canary)),
        json_request("/orders", item(uom=canary, product_id=canary, quantity=canary)),
        json_request("/orders", order(**{canary * 10: 1})),
        json_request("/orders", order(), f"Idempotency-Key: {canary} {canary}"),
        json_request(f"/orders/{uuid4()}/items", {"uom": "KG"}, f"If-Match: {canary}"),
        request("GET", f"/orders/{canary}"),
        request("GET", f"/{canary}"),
        request("GET", f"/orders?limit={canary}&status={canary}&after={canary}&business_partner={canary}"),
        request("GET", "/livez", f"X-Request-Id: {canary} {canary}"),
        request("GET", "/livez", f"Range: {canary}", f"Cookie: {canary}", f"Authorization: Bearer {canary}"),
    ]
    for said in sent:
        answer, _ = await say(served.address, said + LAST)
        told = answer.body.decode() + str(answer.headers)
        assert canary not in told, told
    assert not any(canary in line for line in served.log)


# --- What only looks hostile is data like any other, and stays what it is

HARMLESS = [
    "'; drop table orders; --",
    "<script>alert(1)</script>",
    "{{7*7}}${7*7}%s%n",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "\u00e9\u00df\u4e2d\u6587\U0001f69a",
    "e\u0301 is not \u00e9",
    "null",
    "0x7f",
    "\u05d0\u05d1\u05d2",
]


@pytest.mark.parametrize("text", HARMLESS)
async def test_text_that_only_looks_hostile_is_stored_as_it_was_sent(served, pool, store, text):
    number = f"{text} {uuid4().hex[:8]}"
    body = order(order_number=number)
    created, _ = await say(served.address, json_request("/orders", body) + LAST)
    assert created.status == 201, created
    answered = json.loads(created.body)
    assert answered["order_number"] == number

    read = (await pool.get(created.headers["location"])).json()
    assert (read["order_number"], read["items"]) == (number, body["items"])
    (listed,) = (await pool.get("/orders", params={"order_number": number})).json()["items"]
    assert listed["id"] == answered["id"]
    (event,) = (await pool.get(created.headers["location"] + "/events")).json()["items"]
    assert event["data"] == body | {"id": answered["id"]}
    assert await Story(pool, store, UUID(answered["id"])).new_events()


QUANTITIES = (
    *("0.001", "0.1", "0.3", "1.10", "1e3", "12E-2", "0.007", "1.005", "4.35", "2.675"),
    *("999999999999", "999999999.999", "123456789012"),
)


async def test_numbers_are_answered_as_they_were_written_however_that_was(served, pool):
    items = [json.dumps(order()["items"][0] | {"quantity": 0}) for _ in QUANTITIES]
    lines = [
        line.replace('"quantity": 0', f'"quantity": {quantity}')
        for line, quantity in zip(items, QUANTITIES, strict=True)
    ]
    body = json.dumps(order(items=[])).replace('"items": []', f'"items": [{", ".join(lines)}]')
    created, _ = await say(served.address, json_request("/orders", body.encode()) + LAST)
    assert created.status == 201, created
    path = created.headers["location"]
    for text in ((await pool.get(path)).text, (await pool.get(path + "/events")).text):
        assert [Decimal(number) for number in re.findall(r'"quantity": ?([^,}]+)', text)] == [*map(Decimal, QUANTITIES)]


# --- How connections are used


async def test_requests_in_one_packet_are_answered_in_their_order(served):
    one, two, three, last = await say(
        served.address, request("GET", "/livez") + request("GET", "/nowhere") + request("GET", "/orders") + LAST
    )
    assert [one.status, two.status, three.status, last.status] == [200, 404, 200, 200]


async def test_noise_behind_a_request_does_not_disturb_its_answer(served):
    (answer,) = await say(served.address, request("GET", "/orders") + b"\0noise\r\n\r\n")
    assert (answer.status, json.loads(answer.body).keys()) == (200, {"items", "next"})


async def test_what_comes_after_the_last_request_is_no_request(served):
    assert len(await say(served.address, LAST + PLAIN)) == 1


async def test_a_body_that_nobody_has_read_is_never_taken_for_a_request(served):
    inner = request("DELETE", f"/orders/{uuid4()}")
    answers = await say(served.address, request("GET", "/livez", body=inner) + LAST)
    assert [answer.status for answer in answers] == [200, 200]
    # Of one that is still to come nobody can tell where it ends.
    started = request("GET", "/livez", f"Content-Length: {len(inner) + 10}")
    (only,) = await say(served.address, started, inner)
    assert only.headers["connection"] == "close"


async def test_another_protocol_is_not_spoken(served):
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    (answer,) = await say(served.address, request("GET", "/livez", *upgrade) + b"\x81\x05hello")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    (answer,) = await say(served.address, request("GET", "/livez", "Upgrade: h2c", "Connection: Upgrade") + PLAIN)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_who_asks_before_it_sends_is_told_to_go_on(served):
    said = json_request("/orders", order(), "Expect: 100-continue")
    created, _ = await say(served.address, said + LAST)
    assert created.status == 201


async def test_an_absolute_target_is_its_path(served):
    answer, _ = await say(served.address, request("GET", "http://elsewhere.example/livez") + LAST)
    assert answer.status == 200


async def test_the_server_as_such_says_what_some_path_takes(served):
    options, other, _ = await say(served.address, request("OPTIONS", "*") + request("GET", "*") + LAST)
    assert (options.status, options.headers["allow"], other.status) == (
        204,
        "DELETE, GET, HEAD, OPTIONS, POST, PUT",
        404,
    )


async def test_an_answer_without_a_body_is_not_waited_for(pool):
    for method, path, status in (("HEAD", "/orders", 200), ("OPTIONS", "/orders", 204), ("HEAD", "/nowhere", 404)):
        answer = await pool.request(method, path)
        assert (answer.status_code, answer.content) == (status, b"")


async def test_trailers_are_no_headers(served):
    body = json.dumps(order()).encode()
    chunk = b"%x\r\n%b\r\n0\r\nContent-Encoding: gzip\r\nIdempotency-Key: a b\r\n\r\n" % (len(body), body)
    created, _ = await say(served.address, request("POST", "/orders", *CHUNKED) + chunk + LAST)
    assert created.status == 201
