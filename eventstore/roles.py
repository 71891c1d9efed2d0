"""The roles that logins are made members of: waybill_owner, _writer, _projector and _reader (see sql/roles.sql)."""

from importlib import resources

import asyncpg

_SQL = resources.files("eventstore").joinpath("sql", "roles.sql")

_MAY_CREATE = """
select rolsuper or rolcreaterole or (select count(*) from pg_roles where rolname like 'waybill\\_%') >= 4
from pg_roles where rolname = current_user
"""


async def grant_roles(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Create the roles and give them their rights. Says whether this connection's user was allowed to."""
    # Asked first: a statement that is refused is an error in the server's log, and this one is expected.
    if not await connection.fetchval(_MAY_CREATE):
        return False
    try:
        async with connection.transaction():
            await connection.execute(_SQL.read_text(encoding="utf-8"))
    except asyncpg.InsufficientPrivilegeError:
        return False
    return True
