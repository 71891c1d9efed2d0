"""What tests of event handlers share: handlers at work, in this process or in one of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import Popen
from uuid import UUID, uuid4

from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent, RecordedEvent
from projections import parking
from projections.handlers.driver import run
from projections.handlers.handler import Handler, NotDoneYet
from projections.handlers.registry import handlers_status
from support import eventually


@asynccontextmanager
async def handling(store: PostgresStore, *handlers: Handler) -> AsyncGenerator[None]:
    """A worker's handlers, at work within the block."""
    task = asyncio.create_task(run(handlers, store))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def handler(
    handle: Callable[[Sequence[RecordedEvent]], NotDoneYet | None], *, name: str = "taster", batch: int = 1000
) -> Handler:
    """Wants all events, at once."""

    async def see_to(events: Sequence[RecordedEvent]) -> NotDoneYet:
        return handle(events) or {}

    return Handler(name, wants=lambda _: True, handle=see_to, batch=batch)


async def happen(store: PostgresStore, stream_id: str | UUID, *types: str, data: bytes = b"{}") -> list[UUID]:
    new = [NewEvent(uuid4(), kind, data) for kind in types]
    await store.append(Append(str(stream_id), "any", new))
    return [event.event_id for event in new]


async def position(store: PostgresStore, name: str) -> int | None:
    """Where the handler has come to; None if it never ran."""
    sql = "select last_seen from public.subscriptions where stream_uuid = '$all' and subscription_name = $1"
    return await store.pool.fetchval(sql, name)


async def handled_up_to_now(store: PostgresStore, *names: str, within: float = 30) -> None:
    """Wait until the handlers have seen all that has happened by now, and are done with it or have parked it."""
    head = await store.stream_version("$all")

    async def all_have_seen() -> bool:
        return all([(await position(store, name) or 0) >= head for name in names])

    await eventually(all_have_seen, within=within, what=f"{names} at {head}")


async def states(store: PostgresStore, name: str) -> dict[int, str]:
    """What the handler has parked: state by position."""
    found = await parking.listed([store.pool], name, limit=10_000)
    return {each.position: each.state for each in sorted(found, key=lambda each: each.position)}


async def nothing_parked(store: PostgresStore, name: str) -> bool:
    return not await states(store, name)


async def is_owned(store: PostgresStore, name: str) -> bool:
    return any(each.name == name and each.owner for each in await handlers_status(store.pool))


# --- In a process of its own: it notes what it has handled, and may be killed in the middle


def noting(path: str, who: str, seconds: float) -> Handler:
    """Writes a line for each event, before the event counts as done."""

    async def note(events: Sequence[RecordedEvent]) -> NotDoneYet:
        for event in events:
            with Path(path).open("a") as file:  # noqa: ASYNC230 - a line in a local file
                file.write(f"{who} {event.position}\n")
            await asyncio.sleep(seconds)
        return {}

    return Handler("notary", wants=lambda _: True, handle=note, batch=10)


@contextmanager
def notary(url: str, path: Path, who: str, seconds: float = 0.0) -> Generator[Popen[bytes]]:
    """Killed at the end of the block."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = Popen([sys.executable, __file__, url, str(path), who, str(seconds)], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _work(url: str, path: str, who: str, seconds: str) -> None:
    async with PostgresStore.open(url, 2) as store:
        await run([noting(path, who, float(seconds))], store)


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
