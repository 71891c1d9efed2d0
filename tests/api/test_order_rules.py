"""Every rule of what an order may look like, with its pointer and its message."""

import json
from uuid import uuid4

import pytest

from over_http import problem, violations

UUID_RULE = "must be a valid UUID string"
STRING = "must be a valid string"
EMAIL = "must be a valid email"
NUMBER = "must be a number greater than 0"
DIGITS = "must have at most 12 digits, 3 of them decimals"
CHOICE = 'must be one of ["KG", "MT"]'
LIST = "must be a valid list"
OBJECT = "must be a valid object"
MISSING = "must be present"

ITEM = {"product_id": "2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01", "quantity": 1, "uom": "KG"}


class Absent:
    """Not in the body at all."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()

# Where, what is there, and what is said of it.
RULES = [
    ("/id", "SO-1", UUID_RULE),
    ("/id", None, UUID_RULE),
    ("/id", 5, UUID_RULE),
    ("/id", "2f1c7a5591a44b0c8f0e6b0f9f1f6a01", UUID_RULE),
    ("/order_number", ABSENT, MISSING),
    ("/order_number", None, STRING),
    ("/order_number", 10248, STRING),
    ("/order_number", "", STRING),
    ("/order_number", "   ", STRING),
    ("/order_number", "a\u0000b", STRING),
    ("/order_number", "a\nb", STRING),
    ("/order_number", "a\ud800b", STRING),
    ("/order_number", "abc\u202ecba", STRING),
    ("/order_number", "x" * 65, "must be a valid string of at most 64 characters"),
    ("/business_partner", ABSENT, MISSING),
    ("/business_partner", None, EMAIL),
    ("/business_partner", 7, EMAIL),
    ("/business_partner", "", EMAIL),
    ("/business_partner", "vinet", EMAIL),
    ("/business_partner", "vinet@", EMAIL),
    ("/business_partner", "Vinet <vinet@northwind.example>", EMAIL),
    ("/business_partner", "vi net@northwind.example", EMAIL),
    ("/business_partner", "vinet@northwind.example\u0000", EMAIL),
    ("/business_partner", "vinet\ud800@northwind.example", EMAIL),
    ("/items", ABSENT, MISSING),
    ("/items", None, LIST),
    ("/items", ITEM, LIST),
    ("/items", "all", LIST),
    ("/items", [], "must be a valid list of at least 1 item"),
    ("/items", [ITEM] * 1001, "must be a valid list of at most 1000 items"),
    ("/items/0", 5, OBJECT),
    ("/items/0", None, OBJECT),
    ("/items/0/product_id", ABSENT, MISSING),
    ("/items/0/product_id", "chai", UUID_RULE),
    ("/items/0/product_id", None, UUID_RULE),
    ("/items/0/quantity", ABSENT, MISSING),
    ("/items/0/quantity", 0, NUMBER),
    ("/items/0/quantity", -1, NUMBER),
    ("/items/0/quantity", "5", NUMBER),
    ("/items/0/quantity", True, NUMBER),
    ("/items/0/quantity", None, NUMBER),
    ("/items/0/quantity", [1], NUMBER),
    ("/items/0/quantity", 1.0001, DIGITS),
    ("/items/0/quantity", 10**12, DIGITS),
    ("/items/0/quantity", 1e300, DIGITS),
    ("/items/0/uom", ABSENT, MISSING),
    ("/items/0/uom", "kg", CHOICE),
    ("/items/0/uom", "LB", CHOICE),
    ("/items/0/uom", None, CHOICE),
    ("/ordernumber", "SO-1", "is not a known field; did you mean order_number?"),
    (
        "/note",
        "by Friday",
        "is not a known field; known are id, order_number, business_partner, items",
    ),
    ("/items/0/quantitiy", 5, "is not a known field; did you mean quantity?"),
    ("/items/0/a~b", 5, "is not a known field; known are product_id, quantity, uom"),
]


def order(**changes):
    return {
        "order_number": f"SO-{uuid4().hex[:12]}",
        "business_partner": "vinet@northwind.example",
        "items": [ITEM],
    } | changes


def with_value(pointer, value):
    """An order that is all right but for one value."""
    body = json.loads(json.dumps(order()))
    *path, last = [int(part) if part.isdecimal() else part for part in pointer.split("/")[1:]]
    place = body
    for part in path:
        place = place[part]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return body


@pytest.mark.parametrize(("pointer", "value", "message"), RULES, ids=lambda value: repr(value)[:40])
async def test_a_broken_rule_is_told_with_its_place(waybill, store, pointer, value, message):
    head = await store.stream_version("$all")
    answer = await waybill.post(
        "/orders", content=json.dumps(with_value(pointer, value)), headers={"Content-Type": "application/json"}
    )

    assert violations(answer) == [(pointer.replace("~", "~0"), message)]
    assert await store.stream_version("$all") == head


async def test_a_field_whose_name_no_encoding_has_is_refused(waybill):
    answer = await waybill.post(
        "/orders", content=rb'{"\ud800": 1, "items": [{"\udfff": 1}]}', headers={"Content-Type": "application/json"}
    )
    assert violations(answer)


async def test_all_broken_rules_are_told_at_once(waybill):
    items = [ITEM, {"product_id": "chai", "quantity": 0, "uom": "LB"}, {"quantity": 1, "uom": "MT", "note": "MT"}]
    answer = await waybill.post("/orders", json={"id": "1", "business_partner": "vinet", "items": items})

    assert sorted(violations(answer)) == [
        ("/business_partner", EMAIL),
        ("/id", UUID_RULE),
        ("/items/1/product_id", UUID_RULE),
        ("/items/1/quantity", NUMBER),
        ("/items/1/uom", CHOICE),
        ("/items/2/note", "is not a known field; known are product_id, quantity, uom"),
        ("/items/2/product_id", MISSING),
        ("/order_number", MISSING),
    ]


async def test_whoever_has_to_mend_an_order_hears_that_its_number_is_taken_too(story):
    await story.given(story.created)
    answer = await story.waybill.post("/orders", json=order(order_number=story.number, items=[]))

    assert sorted(violations(answer)) == [
        ("/items", "must be a valid list of at least 1 item"),
        ("/order_number", "already exist"),
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({}, [("/product_id", MISSING), ("/quantity", MISSING), ("/uom", MISSING)]),
        ({**ITEM, "quantity": -0.5}, [("/quantity", NUMBER)]),
        ({**ITEM, "note": "KG"}, [("/note", "is not a known field; known are product_id, quantity, uom")]),
    ],
)
async def test_an_item_has_the_same_rules_when_it_is_added(story, item, expected):
    await story.given(story.created)
    answer = await story.waybill.post(f"{story.path}/items", json=item)

    assert sorted(violations(answer)) == expected
    assert await story.new_events() == []


@pytest.mark.parametrize("document", ["[]", "5", '"order"', "null", "true"])
async def test_an_order_is_an_object(waybill, document):
    answer = await waybill.post("/orders", content=document, headers={"Content-Type": "application/json"})
    assert violations(answer) == [("", OBJECT)]


async def test_a_problem_never_says_what_was_wrong_only_where(waybill):
    secret = "xyzzy-7f3a"
    bad = {"id": secret, "order_number": secret * 9, "business_partner": secret, "items": [{"product_id": secret}]}
    answer = await waybill.post("/orders", json=bad)
    assert len(violations(answer)) == 6
    assert secret not in answer.text


MALFORMED = {
    "nothing": b"",
    "no JSON": b"order_number=SO-1",
    "half an object": b'{"order_number": "SO-1"',
    "two objects": b"{} {}",
    "NaN": b'{"order_number": NaN}',
    "infinity": b'{"order_number": -Infinity}',
    "the same key twice": b'{"order_number": "SO-1", "order_number": "SO-2"}',
    "the same key twice, deeper": b'{"items": [{"uom": "KG", "uom": "MT"}]}',
    "Latin-1": '{"order_number": "Ä"}'.encode("latin-1"),
    "UTF-16": '{"order_number": "SO-1"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a number of 5000 digits": b'{"items": ' + b"9" * 5000 + b"}",
    "an exponent of 20 digits": b'{"items": 1e99999999999999999999}',
    "ten thousand lists in each other": b"[" * 10_000 + b"]" * 10_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_not_json_is_malformed(waybill, body):
    answer = await waybill.post("/orders", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    problem(answer, 400, "malformed-request")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""])
async def test_an_order_comes_as_json(waybill, media_type):
    answer = await waybill.post("/orders", content=json.dumps(order()), headers={"Content-Type": media_type})
    problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=many", "/limit"),
        ("status=LOST", "/status"),
        ("product_id=chai", "/product_id"),
        ("business_partner=vinet", "/business_partner"),
        ("order_number=%00", "/order_number"),
        ("after=back", "/after"),
        ("after=AAAAAAAAAAA", "/after"),
        ("after=%C3%A4", "/after"),
        ("min_position=-1", "/min_position"),
        ("min_position=9223372036854775808", "/min_position"),
    ],
)
async def test_a_parameter_has_rules_too(waybill, query, pointer):
    answer = await waybill.get(f"/orders?{query}")
    assert [where for where, _ in violations(answer)] == [pointer]
