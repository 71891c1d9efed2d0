"""What is tried again, and for how long."""

import asyncio

import asyncpg
import pytest

from eventstore.appender import again


async def test_it_is_tried_until_it_succeeds():
    outcomes = iter([asyncpg.DeadlockDetectedError(), OSError(), 7])

    async def call() -> int:
        match next(outcomes):
            case int(number):
                return number
            case error:
                raise error

    assert await again(call, after=(asyncpg.DeadlockDetectedError, OSError)) == 7


async def test_all_attempts_have_one_deadline_and_none_begins_after_it():
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        raise OSError

    with pytest.raises(TimeoutError):
        await again(call, after=(OSError,), within=0.05)
    assert calls == 1


async def test_what_is_wrong_with_the_call_itself_is_told_at_once():
    # As asyncpg's complaints about arguments are.
    class WrongArgument(asyncpg.InterfaceError, ValueError):
        pass

    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise WrongArgument("$1")

    with pytest.raises(WrongArgument):
        await again(call, after=(asyncpg.InterfaceError,))
    assert calls == 1
