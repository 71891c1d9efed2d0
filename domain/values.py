"""The values that commands and events are made of.

Commands are checked against the rules of the contract. Events are history: they were accepted once, maybe by
another program, so what is read back is held to its shape only.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

Uom = Literal["KG", "MT"]
"""Unit of measure: kilogram or metric ton."""

_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_DIGITS, _SMALLEST = 12, Decimal("0.001")
_MAX_ITEMS = 1000


class Value(BaseModel):
    """Immutable, and a field that nobody declared is an error: a typo must not be dropped in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _canonical_uuid(value: object) -> object:
    if isinstance(value, UUID) or (isinstance(value, str) and _CANONICAL_UUID.fullmatch(value)):
        return value
    raise PydanticCustomError("uuid", "must be a valid UUID string")


def _strict_number(value: object) -> object:
    # bool is an int in Python, and Decimal("5") would pass for a number that the caller wrote as text.
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise PydanticCustomError("number", "must be a number greater than 0")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or number <= 0:
        raise PydanticCustomError("number", "must be a number greater than 0")
    # The exponent is looked at first: 1E+1000000 has no form with decimals that fits into memory.
    if number.adjusted() >= _MAX_DIGITS or number != (exact := number.quantize(_SMALLEST)):
        raise PydanticCustomError("digits", "must have at most 12 digits, 3 of them decimals")
    exact = exact.normalize()
    if len(exact.as_tuple().digits) > _MAX_DIGITS:
        raise PydanticCustomError("digits", "must have at most 12 digits, 3 of them decimals")
    return exact


def json_number(value: Decimal) -> int | float:
    """A quantity as JSON has it."""
    # At most 12 digits: a float's shortest form gives them back exactly.
    return int(value) if value == value.to_integral_value() else float(value)


def _stored_number(value: object) -> object:
    # Decimal(1.1) would carry the float's binary tail along; its shortest form is what was written.
    return Decimal(repr(value)) if isinstance(value, float) else value


def _bare_address(value: object) -> object:
    # EmailStr would take "Ann <ann@example.com>" for ann@example.com, and drop the name in silence.
    if isinstance(value, str) and ("<" in value or value != value.strip()):
        raise PydanticCustomError("value_error", "must be a valid email")
    return value


def _printable(value: str) -> str:
    # isprintable() refuses control characters, surrogates and the invisible ones that reorder text.
    if not value.isprintable() or not value.strip():
        raise PydanticCustomError("string", "must be a valid string")
    return value


Id = Annotated[UUID, BeforeValidator(_canonical_uuid)]
"""A UUID in its usual form, 8-4-4-4-12 hexadecimal digits."""

OrderNumber = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=64),
    AfterValidator(_printable),
    Field(json_schema_extra={"format": "printable"}),
]
"""What people call an order: 1 to 64 printable characters, at least one of them not a space."""

Email = Annotated[EmailStr, BeforeValidator(_bare_address), Field(max_length=254)]
"""An e-mail address, without a name around it; its domain is kept in lower case."""

Quantity = Annotated[
    Decimal,
    BeforeValidator(_strict_number),
    PlainSerializer(json_number, return_type=int | float),
    WithJsonSchema(
        {"type": "number", "exclusiveMinimum": 0, "maximum": 10**_MAX_DIGITS - 1, "multipleOf": float(_SMALLEST)}
    ),
]
"""A number greater than 0 with at most 12 digits, 3 of them decimals; in JSON a number, never a string."""

RecordedQuantity = Annotated[
    Decimal, BeforeValidator(_stored_number), PlainSerializer(json_number, return_type=int | float)
]
"""A quantity as history has it."""


class Item(Value):
    """One line of an order, as a caller asks for it."""

    product_id: Id
    quantity: Quantity
    uom: Uom


def _countable(items: Any) -> Any:
    # Counted before they are looked at: a million wrong items would be a million broken rules. And pydantic's own
    # min_length counts the valid ones only: it would blame the list for what is wrong in an item.
    count = len(items) if type(items) in (list, tuple) else 1
    if count < 1:
        raise PydanticCustomError("too_short", "must have at least {min_length} item", {"min_length": 1})
    if count > _MAX_ITEMS:
        raise PydanticCustomError("too_long", "must have at most {max_length} items", {"max_length": _MAX_ITEMS})
    return items


Items = Annotated[
    tuple[Item, ...],
    BeforeValidator(_countable),
    Field(json_schema_extra={"minItems": 1, "maxItems": _MAX_ITEMS}),
]
"""The lines of an order, 1 to 1000."""


class RecordedItem(Value):
    """One line of an order, as an event has it."""

    product_id: UUID
    quantity: RecordedQuantity
    uom: str
