"""The roles that `waybill migrate` makes: whoever is a member may do what the role is there for, and nothing else."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TypeAlias
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from databases import Databases, PrivateServer
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.roles import grant_roles
from eventstore.store import Answer, Claim, EventStore, Snapshot
from tests.contract.appends import APPLES, PEARS, append, event, events
from tests.contract.subscribing import run_through

Act: TypeAlias = Callable[[EventStore], Awaitable[object]]

ROLES = ("waybill_owner", "waybill_writer", "waybill_projector", "waybill_reader")
READERS: set[str] = set(ROLES)
WRITERS = {"waybill_owner", "waybill_writer"}
PROJECTORS = {"waybill_owner", "waybill_projector"}
OWNERS = {"waybill_owner"}

_KEY = Claim("order_number", "A-1", UUID(APPLES))
_logins = count(1)


async def _confirm(store: EventStore) -> object:
    await store.reserve(_KEY, uuid4(), lease_seconds=10)
    return await append(store, APPLES, confirm=[_KEY])


async def _link(store: EventStore) -> object:
    return await store.link("basket", [(await store.read_all(limit=1))[0].event_id])


ACTS: dict[str, tuple[Act, set[str]]] = {
    "read events": (lambda store: store.read_all(), READERS),
    "read a stream": (lambda store: store.read_stream(APPLES), READERS),
    "load an aggregate": (lambda store: store.load(APPLES, uuid4()), READERS),
    "list streams": (lambda store: store.list_streams(), READERS),
    "read claims": (lambda store: store.claim_owner("order_number", "A-1"), READERS),
    "recall a command": (lambda store: store.recall(uuid4(), uuid4()), READERS),
    "read blocked products": (lambda store: store.blocked_products(), READERS),
    "append": (lambda store: append(store, APPLES, event()), WRITERS),
    "create a stream": (lambda store: append(store, str(uuid4()), event()), WRITERS),
    "reserve and confirm": (_confirm, WRITERS),
    "release": (lambda store: store.release(_KEY, uuid4()), WRITERS),
    "link": (_link, WRITERS),
    "keep a snapshot": (lambda store: store.record_snapshot(Snapshot(APPLES, 1, "Fruit", b"{}", b"{}")), WRITERS),
    "replace a snapshot": (lambda store: store.record_snapshot(Snapshot(APPLES, 2, "Fruit", b"{}", b"{}")), WRITERS),
    "keep an answer": (lambda store: store.remember(Answer(uuid4(), "fingerprint", b"{}")), WRITERS),
    "block a product": (lambda store: store.block_product(UUID(PEARS)), WRITERS),
    "unblock a product": (lambda store: store.unblock_product(UUID(PEARS)), WRITERS),
    "keep an order's products": (
        lambda store: store.keep_products(APPLES, [UUID(PEARS)], seen=0, version=2),
        WRITERS,
    ),
    "read an order's products": (lambda store: store.kept_products(APPLES), READERS),
    "subscribe": (lambda store: run_through(store, "counter", 2), PROJECTORS),
    "close a stream": (lambda store: store.delete_stream(PEARS), WRITERS),
    "remove a stream for good": (lambda store: store.delete_stream(PEARS, hard=True), OWNERS),
}

STATEMENTS: dict[str, set[str]] = {
    "delete from public.events": set(),
    "update public.events set event_type = 'x'": set(),
    "delete from public.stream_events": set(),
    "update public.stream_events set stream_version = 1": set(),
    "update public.streams set stream_uuid = 'x'": set(),
    "insert into public.schema_migrations values (9, 9, 9)": set(),
    "truncate public.events cascade": set(),
    "truncate public.snapshots": set(),
    "truncate waybill.answers": set(),
    "alter table public.events add note text": set(),
    "drop table public.subscriptions": set(),
    "create table public.notes ()": set(),
    "insert into waybill.parked values ('me', 1, 'a', gen_random_uuid(), 'Fruit.Picked', 'failed', '', 1)": PROJECTORS,
    "update waybill.parked set state = 'retry', retry_at = null": WRITERS | PROJECTORS,
    "update waybill.parked set state = 'discarded', retry_at = null, discarded_at = now()": WRITERS | PROJECTORS,
    "update waybill.parked set reason = 'x'": PROJECTORS,
    "delete from waybill.parked": PROJECTORS,
    "truncate waybill.parked": set(),
    "update waybill.answers set fingerprint = 'x'": OWNERS,
    "delete from waybill.answers": OWNERS,
    "alter table waybill.answers add note text": OWNERS,
    "create table waybill.notes ()": OWNERS,
}


@pytest.fixture
async def empty(databases: Databases) -> AsyncGenerator[str]:
    """A database without tables, by an administrator's login."""
    async with databases.empty() as url:
        yield as_login(url, databases.admin_url)


@pytest.fixture
async def migrated(empty: str) -> str:
    """An event store with two events in each of two streams, migrated by an administrator."""
    await migrate(empty)
    async with PostgresStore.open(empty, 1) as store:
        for stream in (APPLES, PEARS):
            await append(store, stream, *events(2))
    return empty


def as_login(url: str, login: str) -> str:
    """`url` with the user and the password of the URL `login`."""
    user = urlsplit(login).netloc.rpartition("@")[0]
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def a_login(url: str, options: str = "") -> AsyncGenerator[str]:
    """`url`, which is an administrator's, with the name and password of a new login."""
    name = f"waybill_test_login_{next(_logins)}"
    async with connected(url) as admin:
        await admin.execute(f"create role {name} login password '{name}' {options}")
        try:
            yield as_login(url, f"postgresql://{name}:{name}@")
        finally:
            await admin.execute(f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_it_is_there_for_and_nothing_else(migrated: str, role: str) -> None:
    done: set[str] = set()
    async with a_login(migrated, f"in role {role}") as login, PostgresStore.open(login, 1) as store:
        for name, (act, _) in ACTS.items():
            with suppress(asyncpg.InsufficientPrivilegeError):
                await act(store)
                done.add(name)
    assert done == {name for name, (_, may) in ACTS.items() if role in may}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_not_go_round_what_it_is_there_for(migrated: str, role: str) -> None:
    done: set[str] = set()
    async with a_login(migrated, f"in role {role}") as login, connected(login) as connection:
        for statement in STATEMENTS:
            # What the owner may do at the right time, the triggers refuse at others.
            with suppress(asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
                async with connection.transaction():
                    await connection.execute(statement)
                done.add(statement)
    assert done == {statement for statement, may in STATEMENTS.items() if role in may}


async def test_who_is_in_none_of_the_roles_may_not_even_read(migrated: str) -> None:
    async with a_login(migrated) as login, PostgresStore.open(login, 1) as store:
        for act, _ in ACTS.values():
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await act(store)


async def test_who_may_not_create_roles_migrates_without_them_and_says_so_once(
    private_postgres: PrivateServer,
) -> None:
    async with private_postgres.empty() as url:
        with capture_logs() as said:
            assert "0001_event_store" in await migrate(url)
            assert await migrate(url) == []
        assert [line["event"] for line in said] == ["roles.not_granted"]
        async with PostgresStore.open(url) as store, connected(url) as connection:
            await append(store, APPLES)
            assert not await connection.fetch("select from pg_roles where rolname like 'waybill\\_%'")

        # Later on, somebody who may.
        admin = as_login(url, private_postgres.admin_url)
        assert await migrate(admin) == []
        async with a_login(admin, "in role waybill_reader") as login, PostgresStore.open(login, 1) as store:
            assert len(await store.read_all()) == 1


async def test_who_may_create_roles_need_not_be_an_administrator(private_postgres: PrivateServer) -> None:
    async with private_postgres.empty() as url:
        admin = as_login(url, private_postgres.admin_url)
        async with a_login(admin, "createrole") as login:
            name = urlsplit(login).username
            async with connected(admin) as connection:
                await connection.execute(f"alter database {urlsplit(url).path[1:]} owner to {name}")
            await migrate(login)
            async with PostgresStore.open(login, 1) as store:
                await append(store, APPLES, *events(2))
                await store.delete_stream(APPLES, hard=True)
                await append(store, APPLES, *events(2))
            async with a_login(admin, "in role waybill_writer") as writer, PostgresStore.open(writer, 1) as store:
                await append(store, APPLES)


async def test_migrating_again_changes_no_rights(migrated: str) -> None:
    rights = """
        select array_agg((oid::regclass, relowner::regrole, relacl)::text order by oid) from pg_class
        where relnamespace in ('public'::regnamespace, 'waybill'::regnamespace)
    """
    async with connected(migrated) as connection:
        before = await connection.fetchval(rights)
        assert await migrate(migrated) == []
        assert await connection.fetchval(rights) == before


async def test_whoever_is_a_member_of_the_owner_may_migrate(migrated: str) -> None:
    async with a_login(migrated, "in role waybill_owner") as login:
        assert await migrate(login) == []
        async with connected(login) as connection:
            assert await grant_roles(connection)
            await connection.execute("alter table waybill.answers add note text")


async def test_schema_public_stays_with_whom_it_belongs_to(migrated: str) -> None:
    async with connected(migrated) as connection:
        owners = "select distinct relowner::regrole::text from pg_class where relnamespace = $1::text::regnamespace"
        ours = [row[0] for row in await connection.fetch(owners, "waybill")]
        theirs = [row[0] for row in await connection.fetch(owners, "public")]
        assert ours == ["waybill_owner"]
        assert theirs == [await connection.fetchval("select current_user")]
