"""What is done about an event later is part of the trace that the event came from."""

from collections.abc import Generator, Sequence
from uuid import UUID, uuid4

import orjson
import pytest

from activities import RecallOrder
from domain.order import OrderCompleted, OrderCreated
from domain.values import RecordedItem
from eventstore.codec import encode
from eventstore.memory import MemoryStore
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent, RecordedEvent
from handling import handled_up_to_now, handler, handling
from otlp import Collector, collecting
from projections.handlers.handler import NotDone, NotDoneYet
from tracing import exporting


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


def place() -> tuple[str, str]:
    """A place in a trace of its own, and that trace's id."""
    trace_id = uuid4().hex
    return f"00-{trace_id}-{uuid4().hex[:16]}-01", trace_id


def coming_from(traceparent: str, kind: str = "Tasted", data: bytes = b"{}") -> NewEvent:
    return NewEvent(uuid4(), kind, data, metadata=orjson.dumps({"actor": "ann", "traceparent": traceparent}))


async def test_what_a_handler_does_about_an_event_is_part_of_its_trace(event_store_url: str, collector: Collector):
    def taste(events: Sequence[RecordedEvent]) -> NotDoneYet:
        return {event.position: NotDone("unripe") for event in events if event.type == "Picked"}

    traceparent, trace_id = place()
    unsampled = f"{place()[0][:-2]}00"
    with exporting("test"):
        async with PostgresStore.open(event_store_url) as store, handling(store, handler(taste)):
            for event in (coming_from(traceparent), coming_from(traceparent, "Picked"), coming_from(unsampled)):
                await store.append(Append(str(uuid4()), "any", [event]))
            await handled_up_to_now(store, "taster")
    spans = collector.trace(trace_id)
    assert {span.name for span in spans} == {"handle taster"}
    assert {span.parent_id for span in spans} == {traceparent[36:52]}
    outcomes = {span.attributes["waybill.event"]: span.attributes["waybill.outcome"] for span in spans}
    assert outcomes == {"Tasted": "done", "Picked": "waiting"}
    assert {span.trace_id for span in collector.spans} == {trace_id}


async def test_a_look_that_finds_a_missing_shipment_is_part_of_the_completion_s_trace(collector: Collector):
    store, order_id = MemoryStore(), uuid4()
    traceparent, trace_id = place()
    created = OrderCreated(
        id=order_id,
        order_number="SO-1",
        business_partner="vinet@northwind.example",
        items=(RecordedItem(product_id=UUID(int=1), quantity=1.5, uom="KG"),),  # pyright: ignore[reportArgumentType]
    )
    completed = OrderCompleted(id=order_id)
    with exporting("test"):
        await RecallOrder(store).run(order_id)
        for event in (created, completed):
            kind, data = encode(event)
            await store.append(Append(str(order_id), "any", [coming_from(traceparent, kind, data)]))
            recalled = await RecallOrder(store).run(order_id)
    assert recalled.owed
    (span,) = collector.spans
    assert (span.name, span.trace_id, span.parent_id) == ("RecallOrder", trace_id, traceparent[36:52])
