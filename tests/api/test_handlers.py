"""A worker runs the event handlers beside everything else."""

from handling import handled_up_to_now
from projections.handlers.stream_linker import NAME, ORDERS_STREAM


async def test_a_worker_owns_the_handlers_and_links_what_happens_to_orders(story):
    await story.waybill.post("/orders", json=story.body)
    await handled_up_to_now(story.store, NAME)
    shown = {each["name"]: each for each in (await story.waybill.get("/handlers")).json()["items"]}
    assert shown.keys() == {"stream_linker", "shipment"}
    assert {each["state"] for each in shown.values()} == {"running"}
    assert shown[NAME]["position"] > 0
    (event,) = await story.store.read_stream(str(story.order_id))
    links = await story.store.read_stream(ORDERS_STREAM, backwards=True, limit=100)
    assert [link.event_id for link in links].count(event.event_id) == 1
