"""The command line as a script sees it: exit codes, one line on stderr, nothing else."""

import asyncio
import os
import subprocess
import sys

import asyncpg
import pytest

import eventstore.migrate
import projections.migrate
from eventstore.migrate import TablesInUse


async def waybill(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WAYBILL_", "TEMPORAL_"))}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "cli", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_migrate_says_what_it_did_and_then_that_there_is_nothing_to_do(databases):
    async with databases.empty() as event_store, databases.empty() as read_store:
        urls = {"WAYBILL_EVENT_STORE_URL": event_store, "WAYBILL_READ_STORE_URL": read_store}

        first = await waybill("migrate", **urls)
        second = await waybill("migrate", **urls)

        assert first.returncode == 0
        assert first.stdout.startswith("event store: 0001_event_store")
        assert (second.returncode, second.stdout) == (0, "event store: up to date\nread store: up to date\n")
        connection = await asyncpg.connect(event_store)
        assert await connection.fetchval("select count(*) from events") == 0
        await connection.close()


@pytest.mark.parametrize(("store", "migration"), [("event", "0008_parked_due"), ("read", "0005_parked_due")])
async def test_migrate_does_not_wait_long_for_a_table_that_somebody_uses(
    databases, monkeypatch, store: str, migration: str
):
    monkeypatch.setattr(eventstore.migrate, "LOCK_SECONDS", 0.2)
    migrate = {"event": eventstore.migrate.migrate, "read": projections.migrate.migrate}[store]
    async with databases.empty(migrate) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("drop index waybill.parked_ripe")
            await connection.execute("delete from waybill.migrations where name = $1", migration)
            async with asyncio.timeout(30):
                async with connection.transaction():
                    await connection.execute("lock table waybill.parked in row exclusive mode")
                    with pytest.raises(TablesInUse, match="nothing was changed here, try again"):
                        await migrate(url)
                assert await migrate(url) == [migration]
            assert await connection.fetchval("select to_regclass('waybill.parked_ripe') is not null")
        finally:
            await connection.close()


async def test_migrate_tells_in_one_line_that_a_table_is_in_use(event_store_url):
    connection = await asyncpg.connect(event_store_url)
    try:
        await connection.execute("delete from waybill.migrations where name = '0008_parked_due'")
        async with connection.transaction():
            await connection.execute("lock table waybill.parked in row exclusive mode")
            answer = await waybill("migrate", WAYBILL_EVENT_STORE_URL=event_store_url)
    finally:
        await connection.close()
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    assert "a table was in use for more than 5 s" in answer.stderr


async def test_a_database_that_is_not_there_is_told_in_one_line_without_the_password():
    url = "postgresql://ada:secret@127.0.0.1:1/event_store"

    answer = await waybill("migrate", WAYBILL_EVENT_STORE_URL=url)

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: event store at postgresql://127.0.0.1:1/event_store: ")
    assert answer.stderr.count("\n") == 1
    assert "secret" not in answer.stderr


@pytest.mark.parametrize("command", ["migrate", "api", "worker", "dev"])
async def test_a_misspelt_setting_stops_every_command_with_one_line(command, tmp_path):
    options = ["--data-dir", str(tmp_path / "data")] if command == "dev" else []

    answer = await waybill(command, *options, WAYBILL_API_PROT="1")

    assert answer.returncode == 1
    assert answer.stderr == "Error: WAYBILL_API_PROT is not a setting: did you mean WAYBILL_API_PORT?\n"


@pytest.mark.parametrize("arguments", [["ship"], ["dev", "--port", "1"], ["dev", "--api-port", "70000"]])
async def test_a_command_that_is_used_wrongly_exits_with_2(arguments):
    assert (await waybill(*arguments)).returncode == 2


async def test_help_tells_of_every_command_and_its_environment():
    general = await waybill("--help")
    assert general.returncode == 0
    for command in ("api", "dev", "migrate", "worker"):
        assert f"\n  {command} " in general.stdout
        assert "WAYBILL_" in (await waybill(command, "--help")).stdout


async def test_the_version_is_told():
    assert (await waybill("--version")).stdout.startswith("waybill ")
