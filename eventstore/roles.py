"""The roles that logins are made members of: waybill_owner, _writer, _projector and _reader (see sql/roles.sql)."""

from importlib import resources

import asyncpg

_SQL = resources.files("eventstore").joinpath("sql", "roles.sql")


async def grant_roles(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Create the roles and give them their rights. Says whether this connection's user was allowed to."""
    try:
        async with connection.transaction():
            await connection.execute(_SQL.read_text(encoding="utf-8"))
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True
