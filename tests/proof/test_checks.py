"""Every check finds what it is there for: one day without a fault, and each fault planted into it."""

from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from databases import Databases
from proof.checks import CHECKS, judge
from proof.day import DELETED, LATER, ORDER, PRODUCT, SHIPMENT, Day, fill
from proof.evidence import TOO_SLOW, Run, connected

Plant = Callable[[Day], Awaitable[None]]


@pytest.fixture(scope="module")
async def url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.empty(fill) as url:
        yield url


@pytest.fixture
async def day(url: str) -> AsyncGenerator[Day]:
    async with connected(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield Day(connection)
        await transaction.rollback()


async def test_nothing_is_held_against_a_day_on_which_all_went_well(day):
    verdicts = judge(await day.case())

    assert {name: verdict.violations for name, verdict in verdicts.items()} == {check: [] for check in CHECKS}
    assert all(verdict.looked_at for verdict in verdicts.values())


async def the_last_event_is_lost(day: Day) -> None:
    await day.sql(f"""
        delete from stream_events using streams
        where stream_events.original_stream_id = streams.stream_id and stream_uuid = '{LATER}'
          and original_stream_version = 2;
        delete from events where event_id not in (select event_id from stream_events);
        update streams set stream_version = stream_version - 1 where stream_id = 0 or stream_uuid = '{LATER}'
    """)


async def an_answer_names_another_version(day: Day) -> None:
    day.calls[1].answer = {**day.calls[1].answer, "version": 7}


async def an_answer_names_another_position(day: Day) -> None:
    day.calls[7].answer = {**day.calls[7].answer, "position": 7}


async def an_unkeyed_item_is_lost(day: Day) -> None:
    day.calls[12].number = 98


async def a_product_is_blocked_again(day: Day) -> None:
    await day.sql(f"insert into waybill.blocked_products (product_id) values ('{PRODUCT}')")


async def an_item_comes_from_nowhere(day: Day) -> None:
    await day.happens(LATER, "Order.OrderItemAdded", {"id": LATER, "product_id": PRODUCT, "quantity": 1, "uom": "KG"})


async def a_shipment_comes_from_nowhere(day: Day) -> None:
    await day.sql(f"update events set causation_id = '{ORDER}' where event_type = 'Shipment.ShipmentCreated'")


async def a_quantity_is_not_what_was_asked_for(day: Day) -> None:
    await day.sql("""
        update events set data = convert_to(replace(convert_from(data, 'UTF8'), '1.5', '1.6'), 'UTF8')
        where event_type = 'Order.OrderItemAdded'
    """)


async def an_event_has_anothers_id(day: Day) -> None:
    day.calls[1].key = "another"


async def a_repeated_request_gets_another_answer(day: Day) -> None:
    day.calls[13].answer = {**day.calls[13].answer, "version": 2}


async def a_repeated_request_gets_another_status(day: Day) -> None:
    day.calls[13].status, day.calls[13].answer = 409, {"code": "order-already-created"}


async def a_command_has_two_effects(day: Day) -> None:
    await day.sql("""
        update events set metadata = (select metadata from events where event_type = 'Order.OrderCompleted')
        where event_type = 'Shipment.ShipmentCompleted'
    """)


async def a_key_is_used_for_something_else(day: Day) -> None:
    day.calls[14].status, day.calls[14].answer = 201, {"id": LATER, "version": 1, "position": 8}


async def what_was_refused_is_there(day: Day) -> None:
    day.calls[10].status, day.calls[10].answer = 409, {"code": "order-already-completed"}


async def the_gateway_has_an_error_of_its_own(day: Day) -> None:
    day.calls[3].status, day.calls[3].answer = 500, {"code": "internal-error"}


async def a_refusal_has_no_code(day: Day) -> None:
    day.calls[3].answer = {"detail": "Not today"}


async def a_read_shows_what_was_before(day: Day) -> None:
    day.calls[6].answer = {**day.calls[6].answer, "version": 2}


async def a_read_finds_nothing(day: Day) -> None:
    day.calls[6].status, day.calls[6].answer = 404, {"code": "order-not-found"}


async def two_orders_get_one_number(day: Day) -> None:
    await day.sql("""
        update events set data = convert_to(replace(convert_from(data, 'UTF8'), 'N-2', 'N-1'), 'UTF8')
        where event_type = 'Order.OrderCreated'
    """)


async def an_order_loses_its_claim(day: Day) -> None:
    await day.sql("delete from waybill.claims where key = 'N-1'")


async def a_claim_outlives_its_order(day: Day) -> None:
    await day.sql(
        f"insert into waybill.claims (kind, key, owner, command_id) "
        f"values ('order_number', 'N-9', '{DELETED}', '{DELETED}')"
    )


async def a_number_is_refused_that_nobody_has(day: Day) -> None:
    day.calls[9].body = {**day.calls[9].body, "order_number": "N-9"}


async def a_stream_has_a_hole(day: Day) -> None:
    await day.sql(f"""
        update stream_events set stream_version = 9
        where stream_id = (select stream_id from streams where stream_uuid = '{ORDER}') and stream_version = 2
    """)


async def a_stream_says_that_there_is_more(day: Day) -> None:
    await day.sql(f"update streams set stream_version = 3 where stream_uuid = '{SHIPMENT}'")


async def a_deleted_order_gets_an_item(day: Day) -> None:
    await day.happens(DELETED, "Order.OrderItemAdded", {"id": DELETED})


async def an_event_is_in_anothers_stream(day: Day) -> None:
    await day.happens(LATER, "Order.OrderItemAdded", {"id": ORDER})


async def the_global_sequence_has_a_hole(day: Day) -> None:
    await day.sql("""
        update stream_events set stream_version = stream_version + 1
        where stream_id = 0 and stream_version = (select max(stream_version) from stream_events where stream_id = 0)
    """)


async def the_global_sequence_says_that_there_is_more(day: Day) -> None:
    await day.sql("update streams set stream_version = stream_version + 1 where stream_id = 0")


async def time_runs_backwards(day: Day) -> None:
    await day.sql("update events set created_at = '2001-01-01' where event_type = 'Order.OrderDeleted'")


async def a_row_is_another(day: Day) -> None:
    await day.sql("update orders set status = 'OPEN' where status = 'SHIPPED'")


async def an_item_is_missing(day: Day) -> None:
    await day.sql("delete from order_items where line = 2")


async def a_shipment_is_too_many(day: Day) -> None:
    await day.sql(
        f"insert into shipments select '{ORDER}', order_id, status, version, 99, inserted_at, updated_at from shipments"
    )


async def the_gateway_lists_it_otherwise(day: Day) -> None:
    day.listed.popitem()


async def a_completed_order_has_no_shipment(day: Day) -> None:
    await day.happens(LATER, "Order.OrderCompleted", {"id": LATER})


async def a_projection_lags_behind(day: Day) -> None:
    await day.sql("update projection_versions set last_seen_event_number = 8 where projection_name = 'shipments'")


async def a_handler_lags_behind(day: Day) -> None:
    await day.sql("delete from subscriptions where subscription_name = 'shipment'")


async def an_event_is_parked(day: Day) -> None:
    await day.sql(f"""
        insert into waybill.parked (subscriber, position, stream_id, event_id, event_type, state, reason, attempts)
        values ('orders', 1, '{ORDER}', '{ORDER}', 'Order.OrderCreated', 'failed', 'no idea', 1)
    """)


async def a_run_waits_for_ever(day: Day) -> None:
    day.runs[2].stuck = True


async def a_run_does_not_end(day: Day) -> None:
    day.runs[0].status = "RUNNING"


async def a_request_has_no_answer(day: Day) -> None:
    day.calls[3].status = 503


async def a_run_has_failed(day: Day) -> None:
    day.runs[1].status = "FAILED"


async def a_run_was_terminated(day: Day) -> None:
    day.runs.append(Run(f"order-{LATER}", "TERMINATED"))


async def a_run_is_not_deterministic(day: Day) -> None:
    day.runs[1].failures = ["WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR"]


async def a_run_is_too_slow_again(day: Day) -> None:
    day.runs[1].failures = [TOO_SLOW, TOO_SLOW]


async def an_order_has_no_run(day: Day) -> None:
    day.runs.pop()


PLANTED: dict[str, list[Plant]] = {
    "no acknowledged write is lost": [
        the_last_event_is_lost,
        an_answer_names_another_version,
        an_answer_names_another_position,
        an_unkeyed_item_is_lost,
    ],
    "no acknowledged change of the blocked products is lost": [a_product_is_blocked_again],
    "no event is without a request": [
        an_item_comes_from_nowhere,
        a_shipment_comes_from_nowhere,
        a_quantity_is_not_what_was_asked_for,
        an_event_has_anothers_id,
    ],
    "a key has one effect and one answer": [
        a_repeated_request_gets_another_answer,
        a_repeated_request_gets_another_status,
        a_command_has_two_effects,
        a_key_is_used_for_something_else,
    ],
    "what was refused was not done": [what_was_refused_is_there],
    "answers are what is promised": [the_gateway_has_an_error_of_its_own, a_refusal_has_no_code],
    "reads show what was acknowledged": [a_read_shows_what_was_before, a_read_finds_nothing],
    "an order number has one winner": [
        two_orders_get_one_number,
        an_order_loses_its_claim,
        a_claim_outlives_its_order,
        a_number_is_refused_that_nobody_has,
    ],
    "stream versions are gapless and legal": [
        a_stream_has_a_hole,
        a_stream_says_that_there_is_more,
        a_deleted_order_gets_an_item,
        an_event_is_in_anothers_stream,
    ],
    "the global sequence is dense": [
        the_global_sequence_has_a_hole,
        the_global_sequence_says_that_there_is_more,
        time_runs_backwards,
    ],
    "rows are what the events make of them": [
        a_row_is_another,
        an_item_is_missing,
        a_shipment_is_too_many,
        the_gateway_lists_it_otherwise,
    ],
    "completed orders are shipped or wait and nothing is stuck": [
        a_completed_order_has_no_shipment,
        a_projection_lags_behind,
        a_handler_lags_behind,
        an_event_is_parked,
        a_run_waits_for_ever,
        a_run_does_not_end,
        a_request_has_no_answer,
    ],
    "no workflow fails": [
        a_run_has_failed,
        a_run_was_terminated,
        a_run_is_not_deterministic,
        a_run_is_too_slow_again,
        an_order_has_no_run,
    ],
}


@pytest.mark.parametrize(
    ("check", "plant"),
    [pytest.param(check, plant, id=plant.__name__) for check, plants in PLANTED.items() for plant in plants],
)
async def test_the_check_finds_what_was_planted(day, check, plant):
    await plant(day)

    assert judge(await day.case())[check].violations


def test_there_is_a_planted_fault_for_every_check():
    assert PLANTED.keys() == CHECKS.keys()
