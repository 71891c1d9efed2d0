"""Whose fault an error is: an event's, which is parked for it, or the databases', which are waited for."""

import asyncio

import asyncpg

from eventstore.appender import UNAVAILABLE

# By the class of its code, an error that is about the values in a statement; others are about the database.
_OF_VALUES = frozenset({"21", "22", "23", "44", "54", "P0"})


def is_outage(error: Exception) -> bool:
    """Whether a database, or the way to it, is away."""
    # asyncpg's complaints about wrong arguments are interface errors, too.
    return isinstance(error, (*UNAVAILABLE, asyncpg.IdleInTransactionSessionTimeoutError)) and not isinstance(
        error, ValueError
    )


def is_fault(error: Exception) -> bool:
    """Whether it lies in an event, or in what is done with it, and not in the databases: in tables or rights, say."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _OF_VALUES
    return not is_outage(error)


def describe(error: Exception) -> str:
    """In one line, without the details that quote rows."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def raise_if_cancelled(error: Exception) -> None:
    """Raises CancelledError if this task is to end: what fails meanwhile, a ROLLBACK say, hides that."""
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError from error
