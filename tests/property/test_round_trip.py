"""What a body says is what the event has: from the bytes of the request to the bytes in the store."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import orjson
from hypothesis import given
from hypothesis import strategies as st

from api.route import parse as parse_json
from api.schemas import NewOrder
from domain.commands import CommandRequest
from domain.order import Absent, CreateOrder, decide
from domain.validation import parse
from eventstore.codec import encode
from tests.property.values import emails, order_numbers, quantities, uoms


def plain(quantity: Decimal) -> str:
    return f"{quantity:f}"


# The ways in which one number may be written in JSON.
writings = st.sampled_from([plain, lambda quantity: f"{quantity:E}", lambda quantity: f"{quantity:.3f}"])


@st.composite
def orders(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """An order as a client writes it, and what it says."""
    texts: list[str] = []
    items: list[dict[str, Any]] = []
    for quantity, uom in draw(st.lists(st.tuples(quantities, uoms), min_size=1, max_size=4)):
        product = str(uuid4())
        texts.append(f'{{"quantity": {draw(writings)(quantity)}, "uom": "{uom}", "product_id": "{product}"}}')
        items.append({"product_id": product, "quantity": quantity, "uom": uom})
    said = {"id": str(uuid4()), "order_number": draw(order_numbers), "business_partner": draw(emails)}
    # As escapes or as they are: both are JSON.
    head = json.dumps(said, ensure_ascii=draw(st.booleans()))
    return f'{head[:-1]}, "items": [{", ".join(texts)}]}}'.encode(), said | {"items": items}


@given(orders())
def test_an_order_is_recorded_as_it_was_written(order: tuple[bytes, dict[str, Any]]) -> None:
    body, said = order
    new = parse(NewOrder, parse_json(body))
    command = CreateOrder(**dict(new))
    request = CommandRequest(
        command="CreateOrder", data=command.model_dump(mode="json"), command_id=uuid4(), correlation_id=UUID(said["id"])
    )
    arrived = CommandRequest.model_validate_json(request.model_dump_json()).parse()
    assert isinstance(arrived, CreateOrder)
    (event,) = decide(arrived, Absent())
    _, data = encode(event)
    assert parse_json(data) == said
    assert orjson.loads(data).keys() == said.keys()
