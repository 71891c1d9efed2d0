"""`waybill projection` and `handler`: how far they are, and how a read model is built anew beside the live one."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Self

import click
import orjson
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from eventstore.adopted import AdoptedStore
from eventstore.pool import open_pool
from garbage import collect_seldom
from observability import configure_logging
from projections import builds
from projections.builds import Build
from projections.following import Manner
from projections.handlers.registry import HandlerStatus, handlers_status
from projections.projection import Projection
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.status import BuildStatus, status
from settings import Settings, load

_ENVIRONMENT = (
    "\b\nEnvironment:\n  WAYBILL_EVENT_STORE_URL, WAYBILL_READ_STORE_URL  the two databases, postgresql://..."
)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
# Nothing else waits in this process: larger batches than a worker's.
_BATCH = 8000
_LOOK_SECONDS = 0.2
_NOBODY = "nobody at the moment"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What has become of a rebuild."""

    name: str
    version: int
    position: int
    seconds: float
    parked: int

    @property
    def rate(self) -> float:
        return self.position / self.seconds if self.seconds else 0.0


@click.group()
def projection() -> None:
    """Look after the read models."""


@projection.command("status", epilog=_ENVIRONMENT)
@_AS_JSON
def show_status(*, as_json: bool) -> None:
    """Print how far each projection is, how fast, and who runs it; with --json one object per line.

    Several lines of one name: it is being built anew, or another version has taken its place.
    """
    found = asyncio.run(_status(load()))
    if as_json:
        for each in found:
            shown = asdict(each) | {"state": each.state, "progress": each.progress, "eta_seconds": each.eta_seconds}
            click.echo(orjson.dumps(shown, option=orjson.OPT_UTC_Z))
    else:
        Console(soft_wrap=True, highlight=False).print(_table(found))


@click.group()
def handler() -> None:
    """Look how far the event handlers are."""


@handler.command("status", epilog="\b\nEnvironment:\n  WAYBILL_EVENT_STORE_URL  the event store, postgresql://...")
@_AS_JSON
def show_handlers(*, as_json: bool) -> None:
    """Print how far each handler that has ever run is, and who runs it; with --json one object per line."""
    found = asyncio.run(_handlers(load()))
    if as_json:
        for each in found:
            click.echo(orjson.dumps(asdict(each) | {"state": each.state}))
    else:
        Console(soft_wrap=True, highlight=False).print(_table_of_handlers(found))


@projection.command(epilog=_ENVIRONMENT)
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Leave the work to the workers.")
@click.option("--with-discarded", is_flag=True, help="Try events again that were discarded.")
@_AS_JSON
def rebuild(name: str, *, no_wait: bool, with_discarded: bool, as_json: bool) -> None:
    """Build the rows of a projection anew from the events, beside those that are read meanwhile; then switch.

    The work is done here, as fast as it can be. If it is interrupted, workers go on, or the next rebuild does.
    """
    chosen = next((each for each in PROJECTIONS if each.name == name), None)
    if chosen is None:
        raise click.ClickException(f"there is no projection {name}: {', '.join(each.name for each in PROJECTIONS)}")
    settings = load()
    configure_logging("error", "console")
    collect_seldom()
    try:
        if no_wait:
            build = asyncio.run(_request(settings, chosen, with_discarded=with_discarded))
            _tell_request(build, as_json=as_json)
        else:
            with _Bar() as bar:
                rebuilt = uvloop.run(_rebuild(settings, chosen, bar.tell, with_discarded=with_discarded))
            _tell_rebuilt(rebuilt, as_json=as_json)
    except (builds.BeingBuilt, builds.NoSuchTables, Replaced) as refused:
        raise click.ClickException(str(refused)) from None
    except KeyboardInterrupt:
        click.echo(f"Stopped. A worker goes on, or `waybill projection rebuild {name}` does.", err=True)
        raise click.exceptions.Exit(130) from None


class Replaced(Exception):
    """The build was given up for another one."""


async def _status(settings: Settings) -> Sequence[BuildStatus]:
    async with (
        AdoptedStore.open(settings.event_store_url, 1) as store,
        open_pool(settings.read_store_url, 1) as read_store,
    ):
        return await status(read_store, store)


async def _handlers(settings: Settings) -> Sequence[HandlerStatus]:
    async with open_pool(settings.event_store_url, 1) as events:
        return await handlers_status(events)


async def _request(settings: Settings, chosen: Projection, *, with_discarded: bool) -> Build:
    async with open_pool(settings.read_store_url, 1) as read_store, read_store.acquire() as connection:
        return await builds.rebuild(connection, chosen, with_discarded=with_discarded)


async def _rebuild(
    settings: Settings, chosen: Projection, tell: Callable[[BuildStatus], None], *, with_discarded: bool
) -> Rebuilt:
    """Build it, or wait for a worker that does. Raises builds.BeingBuilt, builds.NoSuchTables or Replaced."""
    began = time.monotonic()
    async with (
        AdoptedStore.open(settings.event_store_url, 2) as store,
        open_pool(settings.read_store_url, 1) as read_store,
    ):
        manner = Manner(
            store=store,
            read_store_url=settings.read_store_url,
            lease=timedelta(seconds=settings.projection_lease),
            look=min(settings.projection_poll, settings.projection_lease / 3),
            batch=_BATCH,
            reported=store.was_reported,
        )
        runner = Runner(chosen, manner, f"{socket.gethostname()}:{os.getpid()}")
        async with read_store.acquire() as connection:
            build = await builds.rebuild(
                connection, chosen, owner=runner.owner, lease=manner.lease, with_discarded=with_discarded
            )
        working = asyncio.create_task(_work(runner))
        try:
            while (now := _find(await status(read_store, store), build)).stage == "next":
                tell(now)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            working.cancel()
            await asyncio.wait([working])
        async with read_store.acquire() as connection:
            # What was replaced goes at once, also where no worker runs.
            await builds.attend(connection, chosen)
    return Rebuilt(chosen.name, chosen.version, now.position, time.monotonic() - began, now.parked)


async def _work(runner: Runner) -> None:
    while True:
        await runner.build()
        await asyncio.sleep(_LOOK_SECONDS)


def _find(found: Sequence[BuildStatus], build: Build) -> BuildStatus:
    for each in found:
        if (each.name, each.started_at) == (build.projection, build.started_at):
            return each
    raise Replaced(f"the new build of {build.projection} was given up: another version's has begun")


# --- What people read


class _Bar:
    """A progress bar on a terminal, and nothing elsewhere. It leaves standard output alone."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._progress = Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        )
        self._bar = self._progress.add_task("", total=None, pace="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, build: BuildStatus) -> None:
        left = "" if build.eta_seconds is None else f", {timedelta(seconds=round(build.eta_seconds))} to go"
        self._progress.update(
            self._bar,
            description=build.name,
            completed=build.position,
            total=build.position + build.lag,
            pace=f"{build.rate:,.0f} events/s{left}",
        )


def _tell_request(build: Build, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps({"name": build.projection, "version": build.version, "started_at": build.started_at}))
    else:
        click.echo(f"{build.projection} is built anew by the workers: `waybill projection status` tells how far it is.")


def _tell_rebuilt(rebuilt: Rebuilt, *, as_json: bool) -> None:
    if as_json:
        shown: dict[str, Any] = asdict(rebuilt) | {"rate": round(rebuilt.rate, 1), "seconds": round(rebuilt.seconds, 3)}
        click.echo(orjson.dumps(shown))
        return
    click.echo(
        f"{rebuilt.name} is built anew, up to position {rebuilt.position:,}, in {rebuilt.seconds:.1f} s "
        f"({rebuilt.rate:,.0f} events/s), and is read from now on."
    )
    if rebuilt.parked:
        click.echo(f"Parked: {rebuilt.parked:,}; see `waybill parked list --subscriber {rebuilt.name}`", err=True)


def _table(found: Sequence[BuildStatus]) -> Table:
    table = _headed("projection", "version", "stage", numbers=("position", "lag", "lag seconds", "events/s", "parked"))
    for each in found:
        numbers = (f"{each.position:,}", f"{each.lag:,}", f"{each.lag_seconds:.1f}", f"{each.rate:,.0f}")
        table.add_row(each.name, str(each.version), each.stage, *numbers, f"{each.parked:,}", each.owner or _NOBODY)
    return table


def _table_of_handlers(found: Sequence[HandlerStatus]) -> Table:
    table = _headed("handler", numbers=("position", "lag", "lag seconds", "parked"))
    for each in found:
        numbers = (f"{each.position:,}", f"{each.lag:,}", f"{each.lag_seconds:.1f}", f"{each.parked:,}")
        table.add_row(each.name, *numbers, each.owner or _NOBODY)
    return table


def _headed(*texts: str, numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in texts:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    table.add_column("owner", overflow="fold")
    return table
