"""`waybill stream show` and `waybill events tail`: what has happened, straight from the event store.

They read what is stored and understand as little of it as they can, so that they show every event: one of an older
shape, of another program, or one that nothing here can decode.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, cast

import click
import orjson

import settings
from eventstore.appender import UNAVAILABLE
from eventstore.listener import listening, wait_for_hint
from eventstore.postgres import PostgresStore
from eventstore.store import ALL_STREAM, SPAN, EventStore, RecordedEvent, StreamDeleted
from observability import configure_logging
from projections.runner import EVENTS_CHANNEL

_PAGE = 500
_POLL_SECONDS = 1.0

Show = Callable[[RecordedEvent], str]

_ENVIRONMENT = "Environment: WAYBILL_EVENT_STORE_URL, the database of the events, postgresql://..."
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object per event and line.")


# --- waybill stream


@click.group()
def stream() -> None:
    """Look at the stream of one order or shipment."""


@stream.command(epilog=_ENVIRONMENT)
@click.argument("stream_id", metavar="ID")
@_as_json
def show(stream_id: str, *, as_json: bool) -> None:
    """Print the events of an order or shipment, from the first to the last."""
    asyncio.run(_show(settings.load().event_store_url, stream_id, as_json=as_json))


async def _show(url: str, stream_id: str, *, as_json: bool) -> None:
    async with PostgresStore.open(url, 1) as store:
        try:
            version = await store.stream_version(stream_id)
        except StreamDeleted as deleted:
            raise click.ClickException(str(deleted)) from None
        if not version:
            raise click.ClickException(f"there is no stream {stream_id}")
        if not as_json:
            click.echo(f"{click.style(stream_id, bold=True)}  {version} event{'s' if version > 1 else ''}")
        async for event in _whole(store, stream_id):
            click.echo(_json(event) if as_json else _block(event))


async def _whole(store: EventStore, stream_id: str) -> AsyncIterator[RecordedEvent]:
    after = 0
    while page := await store.read_stream(stream_id, after=after, limit=_PAGE):
        for event in page:
            yield event
        after = page[-1].number


# --- waybill events


@click.group()
def events() -> None:
    """Look at the global sequence: every event once, in the order in which they were committed."""


@events.command(epilog=_ENVIRONMENT)
@click.option(
    "--from", "first", type=click.IntRange(0), metavar="N", help="Begin at this position.  [default: the end]"
)
@click.option(
    "--type", "types", metavar="T", multiple=True, help="Only events of this type; may be given more than once."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many events.")
@_as_json
def tail(first: int | None, types: Sequence[str], limit: int | None, *, as_json: bool) -> None:
    """Print events as they come, until Ctrl-C."""
    configured = settings.load()
    configure_logging(configured.log_level, "console")
    show = _json if as_json else _line
    asyncio.run(_tail(configured.event_store_url, first, types or None, limit, show))


async def _tail(url: str, first: int | None, types: Sequence[str] | None, limit: int | None, show: Show) -> None:
    changed = asyncio.Event()
    async with (
        PostgresStore.open(url, 1) as store,
        listening(url, EVENTS_CHANNEL, lambda _: changed.set()),
        _until_signal(),
    ):
        after = await store.stream_version(ALL_STREAM) if first is None else max(first - 1, 0)
        click.echo(f"Events after position {after}; Ctrl-C ends", err=True)
        async with aclosing(follow(store, changed, after=after, types=types)) as following:
            async for event in following:
                click.echo(show(event))
                if limit is not None and not (limit := limit - 1):
                    return


@asynccontextmanager
async def _until_signal() -> AsyncGenerator[None]:
    """The block ends, without fuss, when somebody says so."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    with suppress(asyncio.CancelledError):
        yield


async def follow(
    store: EventStore, changed: asyncio.Event, *, after: int, types: Sequence[str] | None = None
) -> AsyncGenerator[RecordedEvent]:
    """Events of the global sequence after a position, for ever; also across times when the store is away.

    `changed` says that there may be news. Without it they are seen a little later.
    """
    while True:
        changed.clear()
        found: list[RecordedEvent] = []
        more = False
        with suppress(*UNAVAILABLE):
            # Asked first: all up to there can be read, so that events of other types are not looked at again.
            head = await store.stream_version(ALL_STREAM)
            until = after + SPAN
            found = await store.read_all(after=after, until=until, limit=_PAGE, types=types)
            more = len(found) == _PAGE or until < head
            after = max(min(head, until), after) if len(found) < _PAGE else after
        for event in found:
            yield event
            after = max(event.position, after)
        if not more:
            await wait_for_hint(changed, _POLL_SECONDS)


# --- How events are shown


def _json(event: RecordedEvent) -> str:
    """As the gateway shows it, and the metadata."""
    shown = {
        "event_id": event.event_id,
        "type": event.type,
        "stream_id": event.stream_id,
        "version": event.version,
        "position": event.position,
        "data": _stored(event.data),
        "metadata": _stored(event.metadata or b"null"),
        "causation_id": event.causation_id,
        "correlation_id": event.correlation_id,
        "created_at": event.created_at,
    }
    return orjson.dumps(shown, default=str, option=orjson.OPT_UTC_Z).decode()  # str: asyncpg has UUIDs of its own


def _line(event: RecordedEvent) -> str:
    """The event in one line."""
    where = click.style(f"{event.position:>7}", dim=True)
    return f"{where}  {_when(event)}  {_name(event)}  {event.stream_id} v{event.version}  {', '.join(_facts(event))}"


def _block(event: RecordedEvent) -> str:
    """The event with all its data, below each other."""
    head = f"{event.number:>4}  {_name(event)}  {_when(event)}  position {event.position}{_cause(event)}"
    return "\n".join(["", head, *(f"      {fact}" for fact in _facts(event, every=True))])


def _name(event: RecordedEvent) -> str:
    return click.style(f"{_text(event.type):<26}", fg="cyan" if event.type.startswith("Order.") else "green")


def _when(event: RecordedEvent) -> str:
    return f"{event.created_at:%Y-%m-%d %H:%M:%S}.{event.created_at.microsecond // 1000:03d}Z"


def _cause(event: RecordedEvent) -> str:
    metadata = _stored(event.metadata or b"null")
    if not isinstance(metadata, dict) or "command" not in metadata:
        return ""
    return f"  {_text(metadata['command'])} by {_text(cast('dict[str, Any]', metadata).get('actor'))}"


def _facts(event: RecordedEvent, *, every: bool = False) -> list[str]:
    """What the event says, but for the id of its own stream. Lists are counted, or with `every` told in full."""
    data = _stored(event.data)
    if not isinstance(data, dict):
        return [_text(data)]
    told: list[str] = []
    for name, value in cast("Mapping[str, Any]", data).items():
        if name == "id" and value == event.stream_id:
            continue
        if not isinstance(value, list):
            told.append(f"{_text(name)} {_text(value)}")
        elif every:
            told += [_text(name), *(f"  {_text(each)}" for each in cast("list[Any]", value))]
        else:
            told.append(f"{_text(name)} {len(cast('list[Any]', value))}")
    return told


def _stored(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode(errors="replace")


def _text(value: Any) -> str:
    """In one line, and without what a terminal would take for a command."""
    if isinstance(value, dict):
        return ", ".join(f"{_text(name)} {_text(each)}" for name, each in cast("dict[str, Any]", value).items())
    return value if isinstance(value, str) and value.isprintable() else orjson.dumps(value).decode()
