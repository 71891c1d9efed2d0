"""`waybill adopt` on databases that a real Commanded application has left behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

import eventstore.migrate
from command_line import CommandLine
from databases import Databases
from elixir import as_the_original_appends, catalogue, contents, needs_dumps, original_catalogue, restored
from eventstore.adopt import NotAdoptable, adopt
from eventstore.adopted import AdoptedStore
from eventstore.claims import ORDER_NUMBER, shipment_of
from eventstore.migrate import NotMigratable
from eventstore.store import StreamDeleted
from eventstore.verify import verify
from projecting import caught_up, projecting, rows
from support import eventually

Restore = Callable[[str], Awaitable[str]]

pytestmark = needs_dumps

TWICE = {"DUP-SEQ0", "DUP-CONC1", "DUP-CONC2", "DUP-CONC3", "DUP-CONC4", "DUP-CONC5", "DUP-CONC20"}
FIRST_OF_TWO = UUID("6af2f0d9-9a8d-49fc-9757-a43dbc278b97")
SECOND_OF_TWO = UUID("5f3050ec-62e2-48fd-a2eb-bece9a6bdfc5")
TWO_SHIPMENTS = UUID("00b353c2-ac31-453c-9a61-5ccca99e06e7")
IN_CAPITALS = UUID("d631f95e-467b-4347-ba46-ba96b2e6a960")
WITHOUT_HYPHENS = UUID("1e32c6bd-124f-4981-9ba3-ae234e547f73")


def quiet(seen: int, total: int) -> None:
    assert 0 < seen <= total


@pytest.fixture
async def restore(databases: Databases) -> AsyncGenerator[Restore]:
    """Gives a dump's database of its own by the dump's name."""
    async with AsyncExitStack() as stack:
        yield lambda which: stack.enter_async_context(restored(databases, which))


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def old_system_appends(url: str, stream: str, kind: str, data: bytes) -> UUID:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            return await as_the_original_appends(connection, stream, kind, data)
    finally:
        await connection.close()


def order(order_id: UUID, number: str) -> bytes:
    return orjson.dumps({"id": str(order_id), "order_number": number, "business_partner": "a@b.cz", "items": []})


def of_kind(report: dict[str, Any], kind: str) -> set[str]:
    return {finding["subject"] for finding in report["findings"] if finding["kind"] == kind}


# --- A clean history


async def test_a_clean_history_is_adopted_without_a_word_and_schema_public_stays_as_it_was(restore):
    url = await restore("clean")
    before = await contents(url)

    adoption = await adopt(url, quiet)

    assert adoption.outcome == "adopted"
    report = adoption.report
    assert (report["events"], report["orders"], report["shipments"]) == (
        1375,
        {"OPEN": 150, "COMPLETED": 350},
        {"OPEN": 175, "COMPLETED": 175},
    )
    assert report["claims"] == 500 + 350
    assert (report["findings"], report["unknown_types"]) == ([], {})
    assert [(each["name"], each["last_seen"]) for each in report["subscriptions"]] == [
        ("orders", 1375),
        ("shipment", 1375),
        ("stream_linker", 1375),
    ]
    assert await contents(url) == before
    assert await catalogue(url) == original_catalogue()
    assert (await verify(url, quiet))[0].findings == []


async def test_what_migrate_makes_of_an_empty_database_is_what_the_original_installer_makes(event_store_url):
    assert await catalogue(event_store_url) == original_catalogue()


async def test_an_adopted_history_is_shown_as_the_application_had_it(restore, read_store_url):
    url = await restore("clean")
    await adopt(url, quiet)

    async with AdoptedStore.open(url, 2) as store, projecting(store, url, read_store_url):
        await caught_up(store, read_store_url)

    by_status = await rows(read_store_url, "select status, count(*) from orders group by 1 order by 1")
    assert by_status == [("COMPLETED", 175), ("OPEN", 150), ("SHIPPED", 175)]
    assert await rows(read_store_url, "select count(*) from order_items") == [(1101,)]


async def test_a_second_adoption_tells_what_the_first_one_found(restore):
    url = await restore("dirty")
    first = await adopt(url, quiet)
    after = await contents(url)

    second = await adopt(url, quiet)

    assert second.outcome == "adopted before"
    assert second.report == first.report
    assert await contents(url) == after


async def test_two_adoptions_at_once_are_one(restore):
    url = await restore("clean")
    outcomes = [adoption.outcome for adoption in await asyncio.gather(*(adopt(url, quiet) for _ in range(2)))]
    assert sorted(outcomes) == ["adopted", "adopted before"]


async def test_a_dry_run_finds_the_same_and_leaves_nothing(restore):
    url = await restore("dirty")

    attempt = await adopt(url, quiet, dry_run=True)

    assert attempt.outcome == "could be adopted"
    assert await rows(url, "select to_regnamespace('waybill')") == [(None,)]
    assert (await adopt(url, quiet)).report["findings"] == attempt.report["findings"]


async def test_an_adopted_database_is_migrated_like_any_other(restore):
    url = await restore("clean")
    await adopt(url, quiet)
    assert await eventstore.migrate.migrate(url) == []


async def test_adoption_waits_for_the_append_that_is_under_way_and_sees_it(restore):
    url, last = await restore("clean"), uuid4()
    old_system = await asyncpg.connect(url)
    under_way = old_system.transaction()
    await under_way.start()
    await as_the_original_appends(old_system, str(last), "Order.OrderCreated", order(last, "LAST"))
    adopting = asyncio.create_task(adopt(url, quiet))

    async def waits() -> bool:
        return await rows(url, "select count(*) > 0 from pg_locks where not granted") == [(True,)]

    await eventually(waits)
    await under_way.commit()
    await old_system.close()

    assert (await adopting).report["events"] == 1376
    async with AdoptedStore.open(url, 1) as store:
        assert await store.claim_owner(ORDER_NUMBER, "LAST") == last


# --- A dirty one


async def test_each_oddity_of_a_dirty_history_is_told_once_and_nothing_is_lost(restore):
    url = await restore("dirty")
    before = await contents(url)

    report = (await adopt(url, quiet)).report

    assert Counter(finding["kind"] for finding in report["findings"]) == {
        "number-taken-twice": 7,
        "never-existed": 3,
        "several-shipments": 1,
        "astray-shipment": 1,
        "stream-name": 2,
        "closed-stream": 1,
        "unusual-number": 1,
        "useless-snapshot": 2,
    }
    # Two of them say {"id": null}; the third completes another order than the one whose stream it is in.
    assert of_kind(report, "never-existed") == {
        "bef1a74d-bba3-44e6-b2be-4bf94402468b",
        "e204669b-3690-488a-8912-b6a260f9ac3c",
        "89756dbe-ec0e-47ca-ae7e-49b699d181aa",
    }
    assert await contents(url) == before
    assert await catalogue(url) == original_catalogue()


async def test_a_number_that_is_taken_twice_belongs_to_the_first_order_and_the_second_is_marked(restore):
    url = await restore("dirty")

    report = (await adopt(url, quiet)).report

    marked = [finding["text"] for finding in report["findings"] if finding["kind"] == "number-taken-twice"]
    assert {number for number in TWICE if any(f"'{number}' belongs to" in text for text in marked)} == TWICE
    assert str(SECOND_OF_TWO) in of_kind(report, "number-taken-twice")
    async with AdoptedStore.open(url, 1) as store:
        assert await store.claim_owner(ORDER_NUMBER, "DUP-SEQ0") == FIRST_OF_TWO


async def test_of_two_shipments_the_first_is_the_orders(restore):
    url = await restore("dirty")
    await adopt(url, quiet)
    async with AdoptedStore.open(url, 1) as store:
        assert str(await shipment_of(store, TWO_SHIPMENTS)) == "2036f08f-d69e-4896-b0ce-271c68d1950b"


async def test_streams_named_in_another_form_are_found_by_their_id(restore):
    url = await restore("dirty")
    await adopt(url, quiet)
    async with AdoptedStore.open(url, 1) as store:
        for order_id, name in (
            (IN_CAPITALS, "D631F95E-467B-4347-BA46-BA96B2E6A960"),
            (WITHOUT_HYPHENS, "1e32c6bd124f49819ba3ae234e547f73"),
        ):
            (created,) = await store.read_stream(str(order_id))
            assert (created.stream_id, created.type) == (name, "Order.OrderCreated")
            assert (await store.load(str(order_id), uuid4())).version == 1
            info = await store.stream_info(str(order_id))
            assert info
            assert (info.stream_id, info.version, await store.stream_version(str(order_id))) == (name, 1, 1)


async def test_streams_named_in_another_form_are_linked_into_followed_and_deleted_by_their_id(restore):
    url = await restore("dirty")
    await adopt(url, quiet)
    async with AdoptedStore.open(url, 2) as store:
        before = await store.list_streams(limit=10_000)
        order_id = str(IN_CAPITALS)
        event = (await store.read_all(limit=1))[0]
        assert (await store.link(order_id, [event.event_id])).first_number == 2
        async with store.subscribe("counter", stream_id=order_id) as subscription:
            assert [each.number for each in await anext(subscription)] == [1, 2]
        await store.delete_stream(order_id)
        with pytest.raises(StreamDeleted):
            await store.read_stream(order_id)
        await store.delete_stream(order_id, hard=True)
        left = await store.list_streams(limit=10_000)
        assert {each.stream_id for each in before} - {each.stream_id for each in left} == {
            "D631F95E-467B-4347-BA46-BA96B2E6A960"
        }


async def test_everything_that_can_be_shown_is_shown(restore, read_store_url):
    url = await restore("dirty")
    await adopt(url, quiet)

    async with AdoptedStore.open(url, 2) as store, projecting(store, url, read_store_url):
        await caught_up(store, read_store_url)

    assert await rows(read_store_url, "select count(*), count(distinct order_number) from orders") == [(82, 75)]
    shown = await rows(
        read_store_url, "select count(*) from orders where id = any ($1)", [IN_CAPITALS, WITHOUT_HYPHENS]
    )
    assert shown == [(2,)]
    assert await rows(read_store_url, "select count(*) from shipments") == [(60,)]


async def test_what_was_odd_at_adoption_is_not_held_against_the_store_for_ever(restore):
    url = await restore("dirty")
    await adopt(url, quiet)

    found, known = await verify(url, quiet)

    assert (found.findings, known) == ([], 12)


# --- Worse ones


async def test_whatever_an_old_store_may_hold_is_told_and_stops_nothing(restore):
    url = await restore("clean")
    deleted, broken, odd, long, twice = uuid4(), uuid4(), uuid4(), uuid4(), uuid4()
    await old_system_appends(url, str(deleted), "Order.OrderCreated", order(deleted, "FREE-AGAIN"))
    await old_system_appends(url, str(deleted), "Order.OrderDeleted", orjson.dumps({"id": str(deleted)}))
    await old_system_appends(url, str(broken), "Order.OrderCreated", order(broken, "BROKEN"))
    unreadable = await old_system_appends(url, str(broken), "Order.OrderCompleted", b"\x83t\x00")
    await old_system_appends(url, str(odd), "Order.OrderCreated", order(odd, "nul\x00"))
    await old_system_appends(url, str(long), "Order.OrderCreated", order(long, "9" * 5000))
    await old_system_appends(url, str(twice), "Order.OrderCreated", order(twice, "TWICE"))
    await old_system_appends(url, twice.hex.upper(), "Order.OrderCreated", order(twice, "TWICE-2"))
    await old_system_appends(url, "order of mine", "Order.OrderCreated", order(uuid4(), "NAMED"))
    await old_system_appends(url, "customer-1", "Customer.Registered", b"anything")
    unshipped = uuid4()
    await old_system_appends(url, str(unshipped), "Order.OrderCreated", order(unshipped, "UNSHIPPED"))
    await old_system_appends(url, str(unshipped), "Order.OrderCompleted", orjson.dumps({"id": str(unshipped)}))
    after = await old_system_appends(
        url,
        str(unshipped),
        "Order.OrderItemAdded",
        orjson.dumps({"id": str(unshipped), "product_id": str(odd), "quantity": 1, "uom": "KG"}),
    )
    orphan = uuid4()
    await old_system_appends(
        url, str(orphan), "Shipment.ShipmentCreated", orjson.dumps({"id": str(orphan), "order_id": str(uuid4())})
    )

    report = (await adopt(url, quiet)).report

    assert {kind: of_kind(report, kind) for kind in {finding["kind"] for finding in report["findings"]}} == {
        "undecodable-event": {str(unreadable)},
        "unusual-number": {str(odd), str(long)},
        "same-id": {str(twice)},
        "stream-name": {twice.hex.upper(), "order of mine"},
        "no-shipment": {str(unshipped)},
        "illegal-event": {str(after)},
        "astray-shipment": {str(orphan)},
    }
    assert report["unknown_types"] == {"Customer.Registered": 1}
    async with AdoptedStore.open(url, 1) as store:
        assert await store.claim_owner(ORDER_NUMBER, "FREE-AGAIN") is None
        assert await store.claim_owner(ORDER_NUMBER, "BROKEN") == broken
    assert (await verify(url, quiet))[0].findings == []


async def test_what_the_old_system_has_deleted_for_good_is_not_missed(restore):
    url = await restore("clean")
    await execute(
        url,
        """
        begin;
        set local eventstore.enable_hard_deletes = 'on';
        create temporary table gone as select event_id from stream_events where stream_id = 3;
        delete from stream_events where event_id in (table gone);
        delete from events where event_id in (table gone);
        delete from streams where stream_id = 3;
        drop table gone;
        commit
        """,
    )

    report = (await adopt(url, quiet)).report

    assert {finding["kind"] for finding in report["findings"]} >= {"hole"}
    assert (await verify(url, quiet))[0].findings == []


# --- What can't be adopted


async def test_a_database_that_is_not_the_layout_is_left_alone_and_the_differences_are_listed(restore):
    url = await restore("clean")
    await execute(
        url,
        "alter table events disable trigger no_delete_events",
        "drop index ix_streams_stream_uuid",
        "alter table events add column tenant text not null default ''",
        "alter table snapshots alter column data type text using encode(data, 'hex')",
    )

    with pytest.raises(NotAdoptable) as refused:
        await adopt(url, quiet)

    trigger = (
        "CREATE TRIGGER no_delete_events BEFORE DELETE ON public.events FOR EACH STATEMENT EXECUTE FUNCTION "
        "public.event_store_delete('Cannot delete events')"
    )
    assert set(refused.value.differences) == {
        f"missing: {trigger}",
        f"not of the layout: {trigger} (not enabled)",
        "missing: CREATE UNIQUE INDEX ix_streams_stream_uuid ON public.streams USING btree (stream_uuid)",
        "not of the layout: column events.tenant text not null default ''::text",
        "missing: column snapshots.data bytea not null",
        "not of the layout: column snapshots.data text not null",
    }
    assert await rows(url, "select to_regnamespace('waybill')") == [(None,)]


async def test_a_store_of_an_older_schema_version_is_refused(restore):
    url = await restore("clean")
    await execute(url, "update schema_migrations set minor_version = 2, patch_version = 0")
    with pytest.raises(NotAdoptable) as refused:
        await adopt(url, quiet)
    assert list(refused.value.differences) == ["not of the layout: its schema is of version 1.2.0"]


async def test_there_is_nothing_to_adopt_in_an_empty_database_or_in_one_of_waybills_own(databases, event_store_url):
    async with databases.empty() as empty:
        with pytest.raises(NotAdoptable, match="`waybill migrate` makes one"):
            await adopt(empty, quiet)
        assert await rows(empty, "select to_regnamespace('waybill')") == [(None,)]
    with pytest.raises(NotAdoptable, match="nothing to adopt"):
        await adopt(event_store_url, quiet)


async def test_migrate_sends_whoever_has_an_old_database_to_adopt(restore):
    url = await restore("clean")
    with pytest.raises(NotMigratable, match="`waybill adopt` takes it over"):
        await eventstore.migrate.migrate(url)
    assert await rows(url, "select to_regnamespace('waybill')") == [(None,)]


# --- The command


async def test_the_command_tells_in_plain_words_and_as_json(restore):
    url = await restore("dirty")
    waybill = CommandLine({"WAYBILL_EVENT_STORE_URL": url})

    told = await waybill("adopt", "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("It can be adopted. Nothing was changed.\n  205 events in 147 streams, ")
    assert "24 open" in told.out
    assert "'DUP-SEQ0' belongs to order 6af2f0d9-9a8d-49fc-9757-a43dbc278b97 (position 18)" in told.out

    adopted = await waybill("adopt", "--json")
    assert (adopted.code, adopted.json["outcome"], len(adopted.json["findings"])) == (0, "adopted", 18)
    again = await waybill("adopt")
    assert again.out.startswith("Adopted already, at 20")


async def test_the_command_says_what_stands_in_the_way(restore):
    url = await restore("clean")
    await execute(url, "drop trigger event_notification on streams")
    waybill = CommandLine({"WAYBILL_EVENT_STORE_URL": url, "WAYBILL_READ_STORE_URL": url})

    refused = await waybill("adopt")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("missing: CREATE TRIGGER event_notification AFTER INSERT OR UPDATE ON public.streams")
    assert refused.err.endswith("Error: schema public is not the layout of EventStore 1.3.2 with bytea payloads\n")

    migrated = await waybill("migrate")
    assert migrated.code == 1
    assert migrated.err.count("\n") == 1
    assert "`waybill adopt` takes it over" in migrated.err
