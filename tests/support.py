"""What tests of several tiers share: waiting for a condition instead of for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def eventually(
    probe: Callable[[], Awaitable[T] | T], *, within: float = 10.0, every: float = 0.02, what: str = ""
) -> T:
    """Ask `probe` (a function, async or not) until its answer is true, and give the answer.

    An AssertionError of the probe means "not yet"; the last one is raised when `within` seconds are over.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        refused: AssertionError | None = None
        answer: T | None = None
        try:
            asked = probe()
            answer = cast("T", await asked) if inspect.isawaitable(asked) else cast("T", asked)
            if answer:
                return answer
        except AssertionError as not_yet:
            refused = not_yet
        if loop.time() >= deadline:
            name = what or getattr(probe, "__name__", "the condition")
            raise refused or AssertionError(f"{name} not within {within:g} s, last answer: {answer!r}")
        await asyncio.sleep(every)
