"""Faults between a step and the real event store: what networks, servers and other programs do now and then."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from eventstore.postgres import PostgresStore
from eventstore.store import EventStore

METHODS = tuple(name for name in vars(EventStore) if not name.startswith("_"))

Real = Callable[[], Awaitable[Any]]
"""The call that was made, still to be done."""


@contextmanager
def interposed(store: EventStore, method: str, fault: Callable[..., Awaitable[Any]]) -> Generator[None]:
    """`fault` gets the real call and its arguments, and decides what becomes of it."""
    real = getattr(store, method)

    async def instead(*args: Any, **options: Any) -> Any:
        return await fault(lambda: real(*args, **options), *args)

    setattr(store, method, instead)
    try:
        yield
    finally:
        setattr(store, method, real)


@contextmanager
def unreachable(store: PostgresStore, *methods: str, times: int | None = None) -> Generator[list[str]]:
    """The store (or only these methods of it) can't be reached: at the first `times` calls of each, or all along.

    Gives the list of the calls that have failed.
    """
    failed: list[str] = []
    with ExitStack() as faults:
        for method in methods or METHODS:

            async def fail(real: Real, *_: Any, method: str = method) -> Any:
                if times is not None and failed.count(method) >= times:
                    return await real()
                failed.append(method)
                raise ConnectionError(f"the store can't be reached ({method})")

            faults.enter_context(interposed(store, method, fail))
        yield failed


@contextmanager
def answers_lost(store: PostgresStore, method: str, times: int | None = None) -> Generator[list[str]]:
    """The first `times` such calls, or all of them, are done, but their callers never hear of it."""
    lost: list[str] = []

    async def lose(real: Real, *_: Any) -> Any:
        answer = await real()
        if times is not None and len(lost) >= times:
            return answer
        lost.append(method)
        raise ConnectionError(f"the connection broke before the answer came ({method})")

    with interposed(store, method, lose):
        yield lost


@contextmanager
def meanwhile(store: PostgresStore, method: str, action: Callable[..., Awaitable[object]]) -> Generator[list[str]]:
    """Just before the first such call, somebody else does something; `action` gets the call's arguments."""
    done: list[str] = []

    async def interfere(real: Real, *args: Any) -> Any:
        if not done:
            done.append(method)
            await action(*args)
        return await real()

    with interposed(store, method, interfere):
        yield done
