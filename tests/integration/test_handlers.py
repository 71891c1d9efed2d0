"""Event handlers on their subscriptions: at least once, in order, and nothing is lost or hidden."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from command_line import CommandLine
from databases import PrivateServer
from eventstore import subscriptions
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.store import RecordedEvent
from handling import (
    handled_up_to_now,
    handler,
    handling,
    happen,
    is_owned,
    notary,
    nothing_parked,
    noting,
    position,
    states,
)
from projections import parking
from projections.handlers import driver, registry
from projections.handlers.handler import Handler, NotDone, NotDoneYet
from projections.handlers.registry import handlers_status
from projections.parking import Parking
from support import eventually
from tests.contract.appends import APPLES, PEARS


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url, 4) as store:
        yield store


class Taster:
    """Notes what it was given and was done with; a wormy event makes it fail, an unripe one comes too early."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.wormy: set[str] = {"Wormy"}
        self.unripe: set[str] = {"Unripe"}

    def __call__(self, events: Sequence[RecordedEvent]) -> NotDoneYet:
        if worm := next((event for event in events if event.type in self.wormy), None):
            raise ZeroDivisionError(f"a worm at {worm.position}")
        early = {event.position: NotDone("not ripe") for event in events if event.type in self.unripe}
        held = {event.stream_id for event in events if event.position in early}
        self.done += [event.position for event in events if event.stream_id not in held]
        return early


async def test_events_are_handled_in_order_and_the_next_owner_goes_on_behind_them(store: PostgresStore) -> None:
    first, second = Taster(), Taster()
    await happen(store, APPLES, "Picked", "Washed", "Eaten")
    async with handling(store, handler(first, batch=2)):
        await handled_up_to_now(store, "taster")
    await happen(store, PEARS, "Picked")
    async with handling(store, handler(second)):
        await handled_up_to_now(store, "taster")
    assert (first.done, second.done) == ([1, 2, 3], [4])


async def test_an_event_that_fails_holds_up_its_stream_only(store: PostgresStore) -> None:
    taster = Taster()
    await happen(store, APPLES, "Picked", "Wormy", "Eaten")
    await happen(store, PEARS, "Picked", "Eaten")
    with capture_logs() as logs:
        async with handling(store, handler(taster)):
            await handled_up_to_now(store, "taster")
            await happen(store, APPLES, "Composted")
            await happen(store, PEARS, "Composted")
            await handled_up_to_now(store, "taster")
    assert taster.done == [1, 4, 5, 7]
    assert await states(store, "taster") == {2: "failed", 3: "behind", 6: "behind"}
    (failed,) = [each for each in await parking.listed([store.pool], limit=9) if each.state == "failed"]
    assert (failed.reason, failed.attempts) == ("ZeroDivisionError: a worm at 2", 5)
    (said,) = [entry for entry in logs if entry["event"] == "handler.parked"]
    assert (said["position"], said["type"], said["log_level"]) == (2, "Wormy", "error")


async def test_an_error_that_lies_in_no_event_parks_none_and_is_got_over(store: PostgresStore) -> None:
    allowed, refused, seen = False, 0, list[str]()

    def handle(events: Sequence[RecordedEvent]) -> None:
        nonlocal refused
        if not allowed:
            refused += 1
            raise asyncpg.InsufficientPrivilegeError("permission denied for table claims")
        seen.extend(event.stream_id for event in events)

    await happen(store, "apples", "Eaten")
    async with handling(store, handler(handle)):
        await eventually(lambda: refused > driver._ATTEMPTS + 2, within=30)
        assert await parking.counts([store.pool]) == {}
        allowed = True
        await handled_up_to_now(store, "taster")
    assert seen == ["apples"]


async def test_a_retry_after_the_fix_brings_the_stream_up_to_date_in_order(store: PostgresStore) -> None:
    taster = Taster()
    await happen(store, APPLES, "Wormy", "Washed", "Eaten")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")
        await parking.request_retry([store.pool], None, APPLES)
        await eventually(lambda: failed_attempts(store, 10))
        assert await states(store, "taster") == {1: "failed", 2: "behind", 3: "behind"}

        taster.wormy.clear()
        await parking.request_retry([store.pool], None, APPLES)
        await eventually(lambda: nothing_parked(store, "taster"))
        await happen(store, APPLES, "Composted")
        await handled_up_to_now(store, "taster")
    assert taster.done == [1, 2, 3, 4]


async def failed_attempts(store: PostgresStore, attempts: int) -> bool:
    first, *_ = await parking.listed([store.pool], limit=1)
    return (first.state, first.attempts) == ("failed", attempts)


async def test_a_discarded_event_is_gone_on_without(store: PostgresStore) -> None:
    taster = Taster()
    await happen(store, APPLES, "Wormy", "Washed")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")
        await parking.request_discard([store.pool], None, APPLES)

        async def only_the_discarded_is_left() -> bool:
            return await states(store, "taster") == {1: "discarded"}

        await eventually(only_the_discarded_is_left)
        await happen(store, APPLES, "Eaten")
        await handled_up_to_now(store, "taster")
    assert taster.done == [2, 3]


async def test_an_event_that_comes_too_early_is_looked_at_again_and_its_stream_waits_for_it(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_FIRST_PAUSE", 0.01)
    taster = Taster()
    await happen(store, APPLES, "Unripe", "Eaten")
    await happen(store, PEARS, "Eaten")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")
        assert await states(store, "taster") == {1: "waiting", 2: "behind"}

        async def was_looked_at_again() -> bool:
            (waiting, _) = await parking.listed([store.pool], "taster", limit=2)
            return waiting.attempts > 1 and waiting.reason == "not ripe" and waiting.retry_at is not None

        await eventually(was_looked_at_again)
    # Also by the next worker.
    taster.unripe.clear()
    async with handling(store, handler(taster)):
        await eventually(lambda: nothing_parked(store, "taster"))
    assert taster.done == [3, 1, 2]


async def test_an_event_is_left_alone_until_it_is_ripe(store: PostgresStore) -> None:
    ages: list[float] = []

    def note(events: Sequence[RecordedEvent]) -> None:
        ages.extend((datetime.now(UTC) - event.created_at).total_seconds() for event in events)

    async with handling(store, replace(handler(note), ripe_after=0.5)):
        for _ in range(2):
            await happen(store, APPLES, "Picked")
            await handled_up_to_now(store, "taster")
    assert len(ages) == 2
    assert min(ages) >= 0.5


async def test_an_event_that_is_ripe_does_not_wait_for_those_behind_it(store: PostgresStore) -> None:
    await happen(store, APPLES, "Picked", "Picked")
    first, second = await store.read_all()
    now = datetime.now(UTC)
    delivered = [first._replace(created_at=now - timedelta(minutes=2)), second._replace(created_at=now)]
    async with store.subscribe("taster") as subscription:
        work = driver.Driver(replace(handler(lambda _: None), ripe_after=60), store)
        work._unripe = [(event.created_at.timestamp() + 60, event) for event in delivered]
        due = await asyncio.wait_for(work._next(subscription), 10)
    assert [event.position for event in due] == [1]
    assert [event.position for _, event in work._unripe] == [2]


async def test_the_pauses_between_two_looks_grow_up_to_a_bound(store: PostgresStore) -> None:
    await happen(store, APPLES, "Unripe")
    (event,) = await store.read_all()
    work = driver.Driver(handler(Taster()), store)
    looks = {before: await work._see_to([event], {1: before}) for before in (0, 1, 2, 1000)}
    assert {before: parking.retry_in for before, (parking,) in looks.items()} == {0: 2, 1: 4, 2: 8, 1000: 300}


async def test_a_batch_that_was_handled_but_not_acknowledged_comes_again_and_what_is_parked_stays_so(
    store: PostgresStore,
) -> None:
    taster = Taster()
    await happen(store, APPLES, "Picked", "Wormy", "Eaten")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")
    await store.pool.execute("update public.subscriptions set last_seen = 0")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")

        async def as_before() -> bool:
            return await states(store, "taster") == {2: "failed", 3: "behind"}

        await eventually(as_before)
    first, *_ = await parking.listed([store.pool], limit=1)
    assert first.reason == "ZeroDivisionError: a worm at 2"


async def test_what_is_parked_is_written_before_the_checkpoint_moves_on(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    park = parking.park

    async def look(place: parking.Place, subscriber: str, events: Sequence[Parking]) -> None:
        seen.append(await position(store, "taster"))
        await park(place, subscriber, events)

    monkeypatch.setattr(parking, "park", look)
    await happen(store, APPLES, "Wormy")
    async with handling(store, handler(Taster())):
        await handled_up_to_now(store, "taster")
    assert seen[0] == 0


async def test_a_parked_event_that_was_purged_is_done_with(store: PostgresStore) -> None:
    await happen(store, APPLES, "Wormy", "Eaten")
    async with handling(store, handler(Taster())):
        await handled_up_to_now(store, "taster")
        await store.delete_stream(APPLES, hard=True)
        await parking.request_retry([store.pool], None, APPLES)
        await eventually(lambda: nothing_parked(store, "taster"))


async def test_what_was_parked_behind_an_event_that_went_away_meanwhile_is_looked_at(store: PostgresStore) -> None:
    taster = Taster()
    await happen(store, APPLES, "Eaten")
    # The operator has discarded what it stood behind, just before it was written.
    await parking.park(store.pool, "taster", [Parking((await store.read_all())[0], "behind")])
    async with handling(store, handler(taster)):
        await eventually(lambda: nothing_parked(store, "taster"))
    assert 1 in taster.done


async def test_a_thousand_good_events_are_not_held_up_by_the_bad_ones_among_them(store: PostgresStore) -> None:
    taster = Taster()
    for number in range(20):
        await happen(store, f"stream {number}", *["Picked"] * 24, "Wormy" if number % 7 == 3 else "Eaten", "Composted")
    async with handling(store, handler(taster)):
        await handled_up_to_now(store, "taster")
    parked = await states(store, "taster")
    assert sorted(parked.values()) == ["behind"] * 3 + ["failed"] * 3
    assert sorted(taster.done) == sorted(set(range(1, 521)) - set(parked))


# --- Owners


async def test_a_handler_survives_that_its_session_is_ended(store: PostgresStore) -> None:
    taster = Taster()
    async with handling(store, handler(taster)):
        await happen(store, APPLES, "Picked")
        await handled_up_to_now(store, "taster")
        await store.pool.fetch("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
        await happen(store, APPLES, "Eaten")
        await handled_up_to_now(store, "taster")
    assert taster.done == [1, 2]


async def test_handlers_go_on_after_postgresql_was_killed_and_started_again(private_postgres: PrivateServer) -> None:
    taster = Taster()
    async with private_postgres.empty(migrate) as url, PostgresStore.open(url, 2) as store:
        async with handling(store, handler(taster)):
            await happen(store, APPLES, "Wormy")
            await handled_up_to_now(store, "taster")
            await private_postgres.kill()
            await private_postgres.start()

            async def again() -> bool:
                with suppress(Exception):
                    await happen(store, PEARS, "Eaten")
                    return True
                return False

            await eventually(again, within=30)
            await handled_up_to_now(store, "taster")
            assert (await states(store, "taster"))[1] == "failed"
        assert taster.done


async def test_when_the_owner_is_killed_another_goes_on_and_no_event_is_left_out(
    store: PostgresStore, event_store_url: str, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    for _ in range(4):
        await happen(store, APPLES, *["Picked"] * 15)

    def noted(who: str) -> list[int]:
        lines = [line.split() for line in notes.read_text().splitlines()]
        return [int(number) for its, number in lines if its == who]

    with notary(event_store_url, notes, "first", seconds=0.05) as first:
        await eventually(lambda: len(noted("first")) > 14, within=60)
        with notary(event_store_url, notes, "second"):
            first.kill()
            await handled_up_to_now(store, "notary", within=60)
    # At least once, each in order, and the second where the first's checkpoint was.
    assert noted("first") == list(range(1, len(noted("first")) + 1))
    begun = noted("second")[0]
    assert begun > 1
    assert noted("second") == list(range(begun, 61))
    assert begun <= len(noted("first")) + 1


async def test_an_owner_that_was_stopped_and_comes_back_writes_nothing_and_takes_its_turn(
    store: PostgresStore, event_store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "SILENCE", 3)
    notes = tmp_path / "notes"
    notes.touch()

    def noted(who: str) -> list[int]:
        lines = [line.split() for line in notes.read_text().splitlines()]
        return [int(number) for its, number in lines if its == who]

    async def displaced_and_back() -> bool:
        return bool(await store.pool.fetchval(_WAITS_FOR_ITS_TURN))

    await happen(store, APPLES, *["Picked"] * 60)
    with notary(event_store_url, notes, "stopped", seconds=0.05) as stopped:
        await eventually(lambda: len(noted("stopped")) > 14, within=60)
        os.kill(stopped.pid, signal.SIGSTOP)
        before = noted("stopped")
        with capture_logs() as logs:
            async with handling(store, noting(str(notes), "heir", 0)):
                await handled_up_to_now(store, "notary", within=60)
                os.kill(stopped.pid, signal.SIGCONT)
                await eventually(displaced_and_back, within=60)
                assert await position(store, "notary") == 60
                await happen(store, APPLES, "Eaten")
                await handled_up_to_now(store, "notary")
        assert [entry["event"] for entry in logs].count("subscription.displaced") == 1
        # At least once, each in order, and the heir where the checkpoint was.
        assert noted("heir") == list(range(noted("heir")[0], 62))
        assert noted("heir")[0] <= len(before) + 1
        # What it had in its hands may be done twice; the checkpoint has not been moved by it, and nothing is parked.
        assert max(noted("stopped")) <= len(before) + 10
        assert await nothing_parked(store, "notary")
        await happen(store, APPLES, "Composted")
        await handled_up_to_now(store, "notary", within=60)
        assert noted("stopped")[-1] == 62


# Whose session says that it speaks, but owns nothing.
_WAITS_FOR_ITS_TURN = """
select true from pg_stat_activity
where datname = current_database() and application_name = 'waybill owner' and pid not in (
  select pid from pg_locks where locktype = 'advisory' and granted and classid = 'public.subscriptions'::regclass
)
"""


async def test_while_its_owner_is_stopped_a_handler_waits_for_a_worker(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SILENCE", 1.5)
    async with store.subscribe("shipment") as subscription:
        await eventually(lambda: is_owned(store, "shipment"))
        # As long as this lasts, nothing in this process says anything.
        await subscription.session._turn.acquire()

        async def is_not_owned() -> bool:
            return not await is_owned(store, "shipment")

        await eventually(is_not_owned)
        subscription.session._turn.release()
        await eventually(lambda: is_owned(store, "shipment"))


async def test_who_has_lost_its_place_while_it_was_at_an_event_parks_nothing(store: PostgresStore) -> None:
    seen = list[int]()

    async def lose_it_the_first_time(events: Sequence[RecordedEvent]) -> NotDoneYet:
        seen.extend(event.position for event in events)
        if len(seen) > 1:
            return {}
        await store.pool.fetch("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
        return {event.position: NotDone("it was somebody else's", later=False) for event in events}

    await happen(store, APPLES, "Picked")
    async with handling(store, Handler("taster", wants=lambda _: True, handle=lose_it_the_first_time)):
        await handled_up_to_now(store, "taster")
        assert await nothing_parked(store, "taster")
    assert seen == [1, 1]


async def test_of_two_workers_one_owns_a_handler(store: PostgresStore) -> None:
    first, second = Taster(), Taster()
    async with handling(store, handler(first, name="shipment")):
        await eventually(lambda: is_owned(store, "shipment"))
        async with handling(store, handler(second, name="shipment")):
            await happen(store, APPLES, "Picked", "Eaten")
            await handled_up_to_now(store, "shipment")
    assert (first.done, second.done) == ([1, 2], [])


# --- What people see


async def test_handlers_tell_how_far_they_are_who_owns_them_and_what_they_have_parked(
    store: PostgresStore, event_store_url: str
) -> None:
    async with handling(store, handler(Taster(), name="shipment")):
        await happen(store, APPLES, "Picked", "Wormy")
        await handled_up_to_now(store, "shipment")
        (owned,) = await handlers_status(store.pool)
        assert (owned.name, owned.position, owned.lag, owned.lag_seconds) == ("shipment", 2, 0, 0)
        assert "PostgreSQL process" in (owned.owner or "")
        assert (owned.state, owned.parked) == ("running", 1)
    await happen(store, PEARS, "Picked", "Eaten")

    async def behind() -> bool:
        (status,) = await handlers_status(store.pool)
        return status.state == "waiting" and status.lag == 2 and status.lag_seconds > 0

    await eventually(behind)
    waybill = CommandLine({"WAYBILL_EVENT_STORE_URL": event_store_url})
    (told,) = (await waybill("handler", "status", "--json")).events
    assert (told["name"], told["state"], told["lag"], told["parked"]) == ("shipment", "waiting", 2, 1)
    assert (await waybill("handler", "status")).out.splitlines()[1].split()[:3] == ["shipment", "2", "2"]
