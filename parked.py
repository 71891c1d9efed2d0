"""`waybill parked`: events that a projection or a handler could not be done with, and what is to become of them.

The commands only mark; a worker does the work. So they wait for it, within a bound, and tell what came of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import click
import orjson

import settings
from eventstore.pool import open_pool
from projections import parking
from projections.parking import Parked, Place

_LISTED = 1000
_PATIENCE_SECONDS = 15.0
_LOOK_SECONDS = 0.2

Places = Sequence[Place]
Mark = Callable[[Places], Coroutine[Any, Any, list[Parked]]]

_ENVIRONMENT = (
    "\b\nEnvironment:\n  WAYBILL_EVENT_STORE_URL, WAYBILL_READ_STORE_URL  the two databases, postgresql://..."
)
_subscriber = click.option("--subscriber", metavar="NAME", help="Only those of this projection or handler.")
_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group()
def parked() -> None:
    """Look after events that a projection or a handler could not be done with."""


@parked.command("list", epilog=_ENVIRONMENT)
@_subscriber
@_as_json
def list_parked(subscriber: str | None, *, as_json: bool) -> None:
    """Print parked events, those that somebody has to see to first; with --json one object per line."""
    events = asyncio.run(_list(subscriber))
    for event in events:
        click.echo(_json(event) if as_json else _line(event))
    if not events and not as_json:
        click.echo("Nothing is parked." if subscriber is None else f"Nothing of {subscriber} is parked.")
    if len(events) == _LISTED:
        click.echo(f"These are the first {_LISTED:,}; there may be more.", err=True)


@parked.command(epilog=_ENVIRONMENT)
@click.argument("stream_id", metavar="[STREAM]", required=False)
@click.option("--all", "everything", is_flag=True, help="Whatever is parked.")
@_subscriber
@_as_json
def retry(stream_id: str | None, subscriber: str | None, *, everything: bool, as_json: bool) -> None:
    """Let parked events be looked at again: those of a stream, of a subscriber, or all.

    Exit code 1 if one of them failed again, or no worker has looked at it.
    """
    if everything and stream_id is not None:
        raise click.UsageError("a stream or --all, not both")
    if stream_id is None and subscriber is None and not everything:
        raise click.UsageError("say which: a stream, --subscriber, or --all")
    _mark(lambda places: parking.request_retry(places, subscriber, stream_id), stream_id, subscriber, as_json=as_json)


@parked.command(epilog=_ENVIRONMENT)
@click.argument("stream_id", metavar="STREAM")
@_subscriber
@_as_json
def discard(stream_id: str, subscriber: str | None, *, as_json: bool) -> None:
    """Give up the event that holds up a stream, and let those behind it be looked at.

    The event itself stays in the store; the subscriber goes on without it, for good.
    """
    _mark(lambda places: parking.request_discard(places, subscriber, stream_id), stream_id, subscriber, as_json=as_json)


def _mark(mark: Mark, stream_id: str | None, subscriber: str | None, *, as_json: bool) -> None:
    marked, left = asyncio.run(_outcome(mark))
    if not marked:
        where = f" of stream {stream_id}" if stream_id else ""
        raise click.ClickException(f"nothing{where} is parked{f' by {subscriber}' if subscriber else ''}")
    if as_json:
        click.echo(orjson.dumps({"done": len(marked) - len(left), "parked": [asdict(each) for each in left]}, str))
    else:
        _tell(marked, left)
    if any(event.state in {"failed", "retry", "behind"} for event in left):
        raise click.exceptions.Exit(1)


async def _list(subscriber: str | None) -> list[Parked]:
    async with _places() as places:
        return await parking.listed(places, subscriber, limit=_LISTED)


async def _outcome(mark: Mark) -> tuple[list[Parked], list[Parked]]:
    """The events that were marked, and what is still parked of them once they were looked at, or have not been."""
    async with _places() as places:
        marked = left = await mark(places)
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while any(event.state == "retry" for event in left) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            left = await parking.still_parked(places, marked)
        return marked, left


@asynccontextmanager
async def _places() -> AsyncGenerator[Places]:
    configured = settings.load()
    async with open_pool(configured.event_store_url, 1) as events, open_pool(configured.read_store_url, 1) as views:
        yield events, views


# --- What people read


def _tell(marked: Sequence[Parked], left: Sequence[Parked]) -> None:
    streams = {event.stream_id for event in marked}
    click.echo(f"{_count(len(marked), 'event')} of {_count(len(streams), 'stream')} marked")
    if done := len(marked) - len(left):
        click.echo(f"{done:,} done")
    for event in left:
        click.echo(_line(event))
    if any(event.state == "retry" for event in left):
        click.echo(f"no worker has looked at what is to be retried within {_PATIENCE_SECONDS:g} s: it stays marked")


def _line(event: Parked) -> str:
    attempts = f" after {_count(event.attempts, 'attempt')}" if event.attempts else ""
    reason = f": {event.reason}" if event.reason else ""
    return (
        f"{click.style(f'{event.state:<9}', bold=event.state == 'failed')} {event.subscriber}  {event.stream_id}  "
        f"{event.event_type} at {event.position}, parked {event.parked_at:%Y-%m-%d %H:%M:%S}Z{attempts}{reason}"
    )


def _json(event: Parked) -> str:
    return orjson.dumps(asdict(event), default=str, option=orjson.OPT_UTC_Z).decode()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
