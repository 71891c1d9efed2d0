"""A quantity is one number, however it was written, and never another one than was written."""

import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from domain.values import Quantity, RecordedQuantity
from tests.property.values import quantities

quantity = TypeAdapter[Decimal](Quantity)
recorded = TypeAdapter[Decimal](RecordedQuantity)


@given(quantities, st.integers(min_value=0, max_value=9))
def test_every_spelling_of_a_number_is_the_same_quantity(number: Decimal, zeros: int) -> None:
    padded = number.quantize(Decimal(1).scaleb(-3 - zeros))
    spellings = [number, padded, number.normalize(), float(number), json.loads(str(padded))]
    stored = {quantity.dump_json(quantity.validate_python(spelling)) for spelling in spellings}
    stored |= {quantity.dump_json(quantity.validate_json(f"{spelling}")) for spelling in (padded, float(number))}
    assert len(stored) == 1


@given(quantities)
def test_a_quantity_comes_back_from_the_store_as_it_went_in(number: Decimal) -> None:
    accepted = quantity.validate_python(number)
    stored = quantity.dump_json(accepted)
    assert recorded.validate_json(stored) == accepted == number
    assert recorded.dump_json(recorded.validate_json(stored)) == stored


@given(st.decimals() | st.floats() | st.integers())
def test_a_number_is_kept_exactly_or_not_at_all(number: Decimal | float) -> None:
    try:
        accepted = quantity.validate_python(number)
    except ValidationError:
        return
    written = Decimal(str(number))
    assert accepted == written
    assert Decimal(quantity.dump_json(accepted).decode()) == written
    assert 0 < written < 10**12
    assert written == round(written, 3)
