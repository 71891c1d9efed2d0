"""Brings the read store's tables to what this code needs."""

from eventstore.migrate import apply_migrations


async def migrate(url: str) -> list[str]:
    """Create or update the read store. Idempotent; run twice at once, one waits for the other.

    Gives the names of the migrations that were applied now.
    """
    return await apply_migrations(url, "projections")
