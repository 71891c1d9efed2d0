"""Hostile values, and honest ones at the edge: what is accepted is kept exactly, the rest is refused."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from domain.values import Email, Id, OrderNumber, Quantity, RecordedQuantity, Value

quantity = TypeAdapter[Decimal](Quantity)
recorded_quantity = TypeAdapter[Decimal](RecordedQuantity)
order_number = TypeAdapter[str](OrderNumber)
email = TypeAdapter[str](Email)
identifier = TypeAdapter[UUID](Id)


def refuses(kind: TypeAdapter[Any], value: object) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1", b"1"),
        ("1.0", b"1"),
        ("1.5", b"1.5"),
        ("1.10", b"1.1"),
        ("0.1", b"0.1"),
        ("0.001", b"0.001"),
        ("1e-3", b"0.001"),
        ("1e3", b"1000"),
        ("999999999999", b"999999999999"),
        ("100000000000", b"100000000000"),
        ("123456789.123", b"123456789.123"),
        ("999999999.999", b"999999999.999"),
        ("99999999999.9", b"99999999999.9"),
    ],
)
def test_a_quantity_is_kept_as_the_number_that_was_written(written: str, kept: bytes) -> None:
    for parsed in (json.loads(written), json.loads(written, parse_float=Decimal), Decimal(written)):
        assert quantity.dump_json(quantity.validate_python(parsed)) == kept
    assert quantity.dump_json(quantity.validate_json(written)) == kept
    assert recorded_quantity.dump_json(recorded_quantity.validate_json(kept)) == kept


@pytest.mark.parametrize(
    "value",
    [
        0,
        -0.0,
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        float("-inf"),
        json.loads("1e999"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1e1000000"),
        Decimal("-1e1000000"),
        Decimal("1e-1000000"),
        10**5000,
        True,
        False,
        "5",
        "",
        None,
        [1],
        {"quantity": 1},
        b"5",
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_positive_number_of_a_common_size_is_no_quantity(value: object) -> None:
    assert refuses(quantity, value)


@pytest.mark.parametrize(
    "written",
    [
        "1234567890123",
        "1e12",
        "1e300",
        "123456789012.5",
        "1234567890.125",
        "1.0001",
        "0.0005",
        "1.00000000000000000000000000000000000001",
        "0.99999999999999999999999999999999999999",
    ],
)
def test_a_number_with_too_many_digits_is_refused_and_not_rounded(written: str) -> None:
    assert refuses(quantity, Decimal(written))


@pytest.mark.parametrize("value", ["A", "N-2026/07 #4", 64 * "x", "Größe 7", "注文", "😀", "-- ; drop table"])
def test_an_order_number_of_printable_characters_is_kept_as_it_is(value: str) -> None:
    assert order_number.validate_python(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "A\x00",
        "A\n",
        "A\tB",
        "\x1b[31mA",
        "\ud800",
        "A\udfff",
        "\u202eA-1",
        "A\u2066B",
        "A\u200bB",
        "A\u2028B",
        "\ufeffA",
        65 * "x",
        7,
        7.5,
        True,
        None,
        b"A-1",
        ["A-1"],
    ],
    ids=ascii,
)
def test_an_order_number_that_could_not_be_read_off_a_screen_is_refused(value: object) -> None:
    assert refuses(order_number, value)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("ann@example.com", "ann@example.com"),
        ("vinet@northwind.example", "vinet@northwind.example"),
        ("Ann.Lee+orders@EXAMPLE.com", "Ann.Lee+orders@example.com"),
        ("jürgen@müller.example", "jürgen@müller.example"),
    ],
)
def test_an_email_address_is_kept_with_its_domain_in_lower_case(value: str, kept: str) -> None:
    assert email.validate_python(value) == kept


@pytest.mark.parametrize(
    "value",
    [
        "",
        "ann",
        "@example.com",
        "ann@localhost",
        "ann@[127.0.0.1]",
        "ann@example.com\n",
        "ann@example.com\r\nBcc: bob@example.com",
        "ann\x00@example.com",
        "\u202eann@example.com",
        "\ud800@example.com",
        "Ann <ann@example.com>",
        "<ann@example.com>",
        " ann@example.com ",
        300 * "a" + "@example.com",
        7,
        True,
        None,
    ],
    ids=ascii,
)
def test_what_is_no_email_address_is_refused(value: object) -> None:
    assert refuses(email, value)


def test_an_id_means_the_same_in_either_case() -> None:
    written = "7F4C1A52-6A0E-4B8B-9D3E-2F7A0C8D9E10"
    assert identifier.dump_json(identifier.validate_python(written)) == b'"%s"' % written.lower().encode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "7f4c1a526a0e4b8b9d3e2f7a0c8d9e10",
        "{7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10}",
        "urn:uuid:7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10",
        "7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10\n",
        "７f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10",  # noqa: RUF001 - a digit of another script on purpose
        b"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10",
        7,
        None,
    ],
    ids=ascii,
)
def test_an_id_in_any_other_form_is_refused(value: object) -> None:
    assert refuses(identifier, value)


@pytest.mark.parametrize("written", [b"NaN", b"Infinity", b"1e999", b'"ten"', b"null", b"[1]"])
def test_history_has_no_quantity_that_is_no_number(written: bytes) -> None:
    with pytest.raises(ValidationError):
        recorded_quantity.validate_json(written)


@pytest.mark.parametrize("written", [b"0", b"-3", b"1.23456", b"9999999999999"])
def test_history_keeps_a_quantity_that_would_be_refused_today(written: bytes) -> None:
    assert recorded_quantity.dump_json(recorded_quantity.validate_json(written)) == written


def test_a_value_never_changes_and_has_no_fields_but_its_own() -> None:
    class Weight(Value):
        kilograms: int

    weight = Weight(kilograms=1)
    with pytest.raises(ValidationError):
        weight.kilograms = 2  # pyright: ignore[reportAttributeAccessIssue] - that it can't be set is the point
    with pytest.raises(ValidationError):
        Weight.model_validate({"kilograms": 1, "grams": 5})
