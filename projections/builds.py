"""Builds: the rows that one version of a projection has made, and how a new build takes the place of the live one.

The live build is in schema public. Another version's rows are in a schema of their own: `orders_next` while they are
built, `orders_v1` when they have been replaced and code of version 1 may still be running.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import asyncpg

from eventstore.statements import load_statements

if TYPE_CHECKING:
    from eventstore.pool import Connection
    from projections.projection import Projection

Stage = Literal["live", "next", "retired", "leftover"]

_SQL = load_statements("projections", "builds.sql")
_FORGOTTEN_AFTER = timedelta(hours=1)
"""Nobody has owned a retired build for so long: its version won't come back soon."""
_PATIENCE = "100ms"
"""For locks on tables that are read: shorter than what PostgreSQL waits before it looks for a deadlock."""


class BeingBuilt(Exception):
    """The projection is being built at the moment: another version, or without the discarded events that are wanted."""


class NoSuchTables(Exception):
    """The read store doesn't know the projection yet: run `waybill migrate`."""


@dataclass(frozen=True, slots=True)
class Build:
    """The rows of one version of a projection."""

    key: str
    """What it is called in projection_versions."""
    projection: str
    version: int
    stage: Stage
    tables: Sequence[str]
    started_at: datetime
    owned: bool

    @property
    def schema(self) -> str:
        return "public" if self.stage == "live" else self.key


# --- Which builds there are


def search_path(projections: "Sequence[Projection]") -> str:
    """Where code of these versions finds its rows: first where they are once they have been replaced."""
    return ", ".join([*(retired_as(projection.name, projection.version) for projection in projections), "public"])


def retired_as(projection: str, version: int) -> str:
    """The build, and the schema, of a version that has been replaced by another."""
    return f"{projection}_v{version}"


async def serving(connection: "Connection", projection: "Projection") -> Build | None:
    """The build that has this version's rows; None while there is none."""
    row = await connection.fetchrow(_SQL["serving"], projection.name, projection.version)
    return Build(*row.values()) if row else None


async def _builds(connection: "Connection", projection: "Projection") -> list[Build]:
    return [Build(*row.values()) for row in await connection.fetch(_SQL["of_projection"], projection.name)]


def _at(builds: Sequence[Build], stage: Stage) -> Build | None:
    return next((build for build in builds if build.stage == stage), None)


async def position(connection: "Connection", key: str) -> int:
    """The position in the global sequence that the build has come to."""
    return await connection.fetchval(_SQL["position"], key) or 0


# --- A new build


async def attend(connection: "Connection", projection: "Projection") -> Build | None:
    """See to it that this version has a build, and that what is of no use any more goes.

    Gives the next build if it is of this version. To be called again and again.
    """
    builds = await _builds(connection, projection)
    if all(build.version != projection.version for build in builds):
        await ensure(connection, projection)
    if _at(builds, "leftover") or _at(builds, "retired"):
        await _tidy(connection, projection)
    next_ = _at(builds, "next")
    return next_ if next_ and next_.version == projection.version else None


async def ensure(connection: "Connection", projection: "Projection") -> None:
    """Begin a build of this version if it has none: the live one if there is none yet, else the next.

    If another version is being built by somebody who lives, nothing is begun: its turn comes after that.
    """
    async with connection.transaction():
        await connection.execute(_SQL["one_at_a_time"])
        builds = await _builds(connection, projection)
        next_ = _at(builds, "next")
        if any(build.version == projection.version for build in builds) or (next_ and next_.owned):
            return
        if not _at(builds, "live"):
            await _begin(connection, projection, "live")
            return
        if next_:
            await _drop(connection, next_)
        await _begin(connection, projection, "next")


async def rebuild(
    connection: "Connection",
    projection: "Projection",
    *,
    owner: str | None = None,
    lease: timedelta | None = None,
    with_discarded: bool = False,
) -> Build:
    """Begin a new build of this version beside the live one, or give the one that has begun.

    Raises BeingBuilt and NoSuchTables.
    """
    async with connection.transaction():
        await connection.execute(_SQL["one_at_a_time"])
        builds = await _builds(connection, projection)
        if not _at(builds, "live"):
            raise NoSuchTables(f"there is no {projection.name} to rebuild: run `waybill migrate` first")
        if next_ := _at(builds, "next"):
            if next_.version == projection.version:
                if with_discarded and await connection.fetchval(_SQL["leaves_out"], next_.key):
                    name = projection.name
                    raise BeingBuilt(f"{name} is being built without what was discarded: wait for that, then ask again")
                return next_
            if next_.owned:
                raise BeingBuilt(f"version {next_.version} of {projection.name} is being built: wait for that")
            await _drop(connection, next_)
        return await _begin(connection, projection, "next", owner, lease, with_discarded=with_discarded)


async def _begin(
    connection: "Connection",
    projection: "Projection",
    stage: Literal["live", "next"],
    owner: str | None = None,
    lease: timedelta | None = None,
    *,
    with_discarded: bool = False,
) -> Build:
    key = projection.name if stage == "live" else f"{projection.name}_next"
    tables = list(projection.table_names)
    row = await connection.fetchrow(
        _SQL["begin"], key, projection.name, projection.version, stage, tables, owner, lease
    )
    assert row
    build = Build(*row.values())
    if stage == "next":
        await connection.execute(f"create schema {quoted(build.schema)}")
    await make_tables(connection, projection, build.schema)
    await connection.execute(_SQL["at_the_beginning"], key)
    if not with_discarded:
        await connection.execute(_SQL["keep_discarded"], key, projection.name)
    return build


async def make_tables(connection: "Connection", projection: "Projection", schema: str) -> None:
    """Empty tables of the projection. Until the end of the transaction, names are looked up in that schema then."""
    await connection.execute(_SQL["become"], schema)
    await connection.execute(projection.tables)


# --- The switch


async def hold_live(connection: "Connection", projection: "Projection") -> int:
    """Keep the live build from going on until the end of the transaction; gives the position that it has come to."""
    await connection.execute(_SQL["patience"], _PATIENCE)
    key = await connection.fetchval(_SQL["hold_live"], projection.name)
    return await position(connection, key)


async def put_live(connection: "Connection", projection: "Projection") -> None:
    """Let the next build be the live one from the end of the transaction on, which holds the live one.

    Who reads meanwhile waits for no longer than _PATIENCE; if that isn't enough, asyncpg.LockNotAvailableError is
    raised, and the transaction is to be tried again.
    """
    builds = await _builds(connection, projection)
    live, next_, leftover = _at(builds, "live"), _at(builds, "next"), _at(builds, "leftover")
    assert live
    assert next_
    if leftover:
        await _drop(connection, leftover)
    await _lock(connection, live)
    await connection.execute(_SQL["carry_discarded"], next_.key, live.key)
    old = f"{projection.name}_old"
    for build in builds:
        # Code of this version would look there first.
        if build.stage == "retired" and build.version == next_.version:
            await connection.execute(f"alter schema {quoted(build.schema)} rename to {quoted(old)}")
            await connection.execute(_SQL["rename"], build.key, old, "leftover")
    if live.version == next_.version:
        await _move(connection, live, old, "leftover")
    else:
        await _move(connection, live, retired_as(projection.name, live.version), "retired")
    await _move(connection, next_, projection.name, "live")
    await connection.execute(f"drop schema {quoted(next_.schema)}")
    await connection.execute(_SQL["tell"], projection.name)


async def _move(
    connection: "Connection", build: Build, key: str, stage: Literal["live", "retired", "leftover"]
) -> None:
    schema = "public" if stage == "live" else key
    if schema != "public":
        await connection.execute(f"create schema {quoted(schema)}")
    for table in build.tables:
        await connection.execute(f"alter table {_qualified(build, table)} set schema {quoted(schema)}")
    await connection.execute(_SQL["rename"], build.key, key, stage)


# --- The end


async def _tidy(connection: "Connection", projection: "Projection") -> None:
    """Drop what has been replaced and will not be missed. If somebody is reading it just now: another time."""
    with suppress(asyncpg.LockNotAvailableError):
        async with connection.transaction():
            await connection.execute(_SQL["patience"], _PATIENCE)
            for row in await connection.fetch(_SQL["unwanted"], projection.name, _FORGOTTEN_AFTER):
                await _drop(connection, Build(*row.values()))


async def _drop(connection: "Connection", build: Build) -> None:
    await connection.execute(f"drop schema {quoted(build.schema)} cascade")
    await connection.execute(_SQL["forget"], build.key)


async def _lock(connection: "Connection", build: Build) -> None:
    tables = ", ".join(_qualified(build, table) for table in build.tables)
    await connection.execute(f"lock table {tables} in access exclusive mode")


def _qualified(build: Build, table: str) -> str:
    return f"{quoted(build.schema)}.{quoted(table)}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
