"""Brings the read store's tables to what this code needs."""

import asyncpg

from eventstore.migrate import NotMigratable, apply_pending, migrating
from projections import builds
from projections.registry import PROJECTIONS


async def migrate(url: str) -> list[str]:
    """Create or update the read store. Idempotent; run twice at once, one waits for the other.

    A projection that has no tables yet gets them; one whose version has changed is built anew by the workers. Gives the
    names of the migrations that were applied now. Raises NotMigratable if another program's tables are in the way,
    TablesInUse if one of them is locked for too long.
    """
    async with migrating(url) as connection:
        applied = await apply_pending(connection, "projections")
        for projection in PROJECTIONS:
            try:
                await builds.ensure(connection, projection)
            except asyncpg.DuplicateTableError as error:
                raise NotMigratable(f"another program's tables are in the way: {error}") from None
        return applied
