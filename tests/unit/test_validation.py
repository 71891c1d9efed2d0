"""The rules for commands: each with its message and pointer, all broken ones at once, and never the value itself."""

from typing import Any
from uuid import UUID

import pytest

from domain.aggregates import COMMANDS
from domain.commands import CommandRequest
from domain.order import CreateOrder
from domain.refusals import ValidationFailed
from domain.validation import parse, pointer

ORDER_ID = "7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10"
PRODUCT_ID = "3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01"

ITEM = {"product_id": PRODUCT_ID, "quantity": 1.5, "uom": "KG"}
ORDER = {"id": ORDER_ID, "order_number": "A-1", "business_partner": "ann@example.com", "items": [ITEM]}

PRESENT = ("missing", "must be present")
STRING = ("invalid-string", "must be a valid string")
EMAIL = ("invalid-email", "must be a valid email")
IS_UUID = ("invalid-uuid", "must be a valid UUID string")
NUMBER = ("invalid-number", "must be a number greater than 0")
DIGITS = ("too-many-digits", "must have at most 12 digits, 3 of them decimals")
UOM = ("unknown-choice", 'must be one of ["KG", "MT"]')
LIST = ("invalid-list", "must be a valid list")
OBJECT = ("invalid-object", "must be a valid object")

Broken = tuple[str, str, str]


def broken_rules(command: str, data: dict[str, Any]) -> list[Broken]:
    """Pointer, code and message of every rule that the command breaks."""
    _, model = COMMANDS[command]
    with pytest.raises(ValidationFailed) as failed:
        parse(model, data)
    assert failed.value.code == "validation-failed"
    errors: Any = failed.value.details["errors"]
    return [(error["pointer"], error["code"], error["detail"]) for error in errors]


def item(**changed: object) -> dict[str, Any]:
    return ORDER | {"items": [ITEM | changed]}


def without(field: str, record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != field}


def test_an_order_that_keeps_all_rules_becomes_a_command() -> None:
    assert parse(CreateOrder, ORDER).model_dump(mode="json") == ORDER


@pytest.mark.parametrize("field", ["id", "order_number", "business_partner", "items"])
def test_every_field_of_an_order_must_be_present(field: str) -> None:
    assert broken_rules("CreateOrder", without(field, ORDER)) == [(f"/{field}", *PRESENT)]


@pytest.mark.parametrize("field", ["product_id", "quantity", "uom"])
def test_every_field_of_an_item_must_be_present(field: str) -> None:
    order = ORDER | {"items": [ITEM, without(field, ITEM)]}
    assert broken_rules("CreateOrder", order) == [(f"/items/1/{field}", *PRESENT)]


@pytest.mark.parametrize(
    ("field", "wrong", "rule"),
    [
        ("id", "7f4c1a526a0e4b8b9d3e2f7a0c8d9e10", IS_UUID),
        ("id", "{7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10}", IS_UUID),
        ("id", f"{ORDER_ID}\n", IS_UUID),
        ("id", f"urn:uuid:{ORDER_ID}", IS_UUID),
        ("id", 7, IS_UUID),
        ("id", None, IS_UUID),
        ("order_number", "", STRING),
        ("order_number", "   ", STRING),
        ("order_number", 17, STRING),
        ("order_number", None, STRING),
        ("order_number", ["A-1"], STRING),
        ("order_number", "A\n1", STRING),
        ("order_number", "A-" + 63 * "1", ("too-long", "must be a valid string of at most 64 characters")),
        ("business_partner", "", EMAIL),
        ("business_partner", "ann", EMAIL),
        ("business_partner", "ann@", EMAIL),
        ("business_partner", "ann@example.com, bob@example.com", EMAIL),
        ("business_partner", "Ann <ann@example.com>", EMAIL),
        ("business_partner", " ann@example.com", EMAIL),
        ("business_partner", 300 * "a" + "@example.com", EMAIL),
        ("business_partner", 17, EMAIL),
        ("business_partner", None, EMAIL),
        ("items", "apples", LIST),
        ("items", ITEM, LIST),
        ("items", None, LIST),
        ("items", [], ("invalid-list", "must be a valid list of at least 1 item")),
        ("items", 1001 * [ITEM], ("too-long", "must be a valid list of at most 1000 items")),
        ("items", 100_000 * [0], ("too-long", "must be a valid list of at most 1000 items")),
    ],
)
def test_a_field_of_an_order_that_breaks_its_rule_is_named(field: str, wrong: object, rule: tuple[str, str]) -> None:
    assert broken_rules("CreateOrder", ORDER | {field: wrong}) == [(f"/{field}", *rule)]


@pytest.mark.parametrize(
    ("field", "wrong", "rule"),
    [
        ("product_id", "apples", IS_UUID),
        ("product_id", 7, IS_UUID),
        ("quantity", 0, NUMBER),
        ("quantity", -1, NUMBER),
        ("quantity", "5", NUMBER),
        ("quantity", True, NUMBER),
        ("quantity", None, NUMBER),
        ("quantity", [1], NUMBER),
        ("quantity", 1234567890123, DIGITS),
        ("quantity", 0.0001, DIGITS),
        ("uom", "kg", UOM),
        ("uom", "", UOM),
        ("uom", 1, UOM),
        ("uom", ["KG"], UOM),
        ("uom", None, UOM),
    ],
)
def test_a_field_of_an_item_that_breaks_its_rule_is_named(field: str, wrong: object, rule: tuple[str, str]) -> None:
    assert broken_rules("CreateOrder", item(**{field: wrong})) == [(f"/items/0/{field}", *rule)]
    assert broken_rules("AddOrderItem", ITEM | {"id": ORDER_ID, field: wrong}) == [(f"/{field}", *rule)]


def test_an_order_may_have_1000_items() -> None:
    assert parse(CreateOrder, ORDER | {"items": 1000 * [ITEM]}).items[999].uom == "KG"


def test_an_item_that_is_no_object_is_named() -> None:
    order = ORDER | {"items": [ITEM, "apples", None]}
    assert broken_rules("CreateOrder", order) == [("/items/1", *OBJECT), ("/items/2", *OBJECT)]


@pytest.mark.parametrize(
    "command", ["AddOrderItem", "CompleteOrder", "DeleteOrder", "CreateShipment", "CompleteShipment"]
)
def test_every_command_needs_the_id_of_what_it_is_for(command: str) -> None:
    assert ("/id", *PRESENT) in broken_rules(command, {})
    assert ("/id", *IS_UUID) in broken_rules(command, {"id": "the first one"})


def test_all_broken_rules_are_told_at_once() -> None:
    order = {
        "id": "the first one",
        "business_partner": "ann",
        "items": [ITEM | {"quantity": -1, "uom": "lb"}, ITEM, {"product_id": 1, "quantity": 1}],
        "note": "urgent",
    }
    assert broken_rules("CreateOrder", order) == [
        ("/id", *IS_UUID),
        ("/order_number", *PRESENT),
        ("/business_partner", *EMAIL),
        ("/items/0/quantity", *NUMBER),
        ("/items/0/uom", *UOM),
        ("/items/2/product_id", *IS_UUID),
        ("/items/2/uom", *PRESENT),
        (
            "/note",
            "unknown-field",
            "is not a known field; known are id, order_number, business_partner, items",
        ),
    ]


def test_the_broken_rules_are_told_in_a_sentence_too() -> None:
    with pytest.raises(ValidationFailed) as failed:
        parse(CreateOrder, {"id": ORDER_ID})
    assert failed.value.message == (
        "/order_number must be present; /business_partner must be present; /items must be present"
    )
    with pytest.raises(ValidationFailed) as failed:
        parse(CreateOrder, {})
    assert failed.value.message.endswith("; and 1 more")


@pytest.mark.parametrize(("typo", "meant"), [("order_no", "order_number"), ("item", "items")])
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(typo: str, meant: str) -> None:
    hint = f"is not a known field; did you mean {meant}?"
    assert broken_rules("CreateOrder", ORDER | {typo: 1}) == [(f"/{typo}", "unknown-field", hint)]


def test_an_unknown_field_of_an_item_is_refused_with_the_one_that_was_meant() -> None:
    hint = "is not a known field; did you mean quantity?"
    assert broken_rules("CreateOrder", item(qantity=1)) == [("/items/0/qantity", "unknown-field", hint)]


def test_an_unknown_field_like_no_other_is_refused_with_those_that_there_are() -> None:
    hint = "is not a known field; known are product_id, quantity, uom"
    assert broken_rules("CreateOrder", item(price=1)) == [("/items/0/price", "unknown-field", hint)]


@pytest.mark.parametrize(
    ("field", "secret"),
    [(field, "hunter2@@\x00") for field in ("id", "order_number", "business_partner", "items", "passwd")],
)
def test_what_was_wrong_is_never_repeated_in_the_answer(field: str, secret: str) -> None:
    with pytest.raises(ValidationFailed) as failed:
        parse(CreateOrder, ORDER | {field: secret})
    assert "hunter2" not in f"{failed.value} {failed.value.details}"
    # Nor may a log find it through the chain of causes.
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


@pytest.mark.parametrize("name", ["\ud800", "\x00", "{0}", "a/b~c", "", 1000 * "x"])
def test_a_field_with_a_hostile_name_is_refused_in_words_that_any_client_can_read(name: str) -> None:
    for order in (ORDER | {name: 1}, item(**{name: 1})):
        for path, code, detail in broken_rules("CreateOrder", order):
            assert f"{path}{code}{detail}".encode()


def test_a_pointer_escapes_what_would_split_it() -> None:
    assert not pointer([])
    assert pointer(["items", 0, "quantity"]) == "/items/0/quantity"
    assert pointer(["a/b", "m~n"]) == "/a~1b/m~0n"


def request(command: str, data: dict[str, Any]) -> CommandRequest:
    return CommandRequest(command=command, data=data, command_id=UUID(int=1), correlation_id=UUID(ORDER_ID))


def test_a_command_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValidationFailed) as failed:
        request("EatOrder", {"id": ORDER_ID}).parse()
    assert failed.value.message == (
        "the command must be one of CreateOrder, AddOrderItem, CompleteOrder, DeleteOrder, CreateShipment,"
        " CompleteShipment"
    )


def test_a_request_goes_to_the_stream_that_its_command_names() -> None:
    assert request("CompleteOrder", {"id": ORDER_ID.upper()}).stream_id == ORDER_ID


def test_a_request_without_a_key_can_not_be_asked_for_again() -> None:
    assert not request("CompleteOrder", {"id": ORDER_ID}).keyed
