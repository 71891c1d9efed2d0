"""`waybill load`: orders from a file, one a line, through the gateway, and again after whatever interrupted it.

An order that is there is looked at and not sent again. The keys of the writes are this run's own: a key of the order
would make a refusal final, even when what was in its way is gone.
"""

import asyncio
import os
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO, Self, cast
from uuid import UUID, uuid4, uuid5

import click
import orjson
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import settings
from domain.ids import NAMESPACE, shipment_id
from domain.values import Id
from gateway_client import Client, Failed, GatewayAway, Refused, Standing, connected

# --- Lines

_FIELDS = ("id", "order_number", "business_partner", "items")
_ID: TypeAdapter[UUID] = TypeAdapter(Id)
_LONGEST_LINE = 4 * 1024 * 1024


class BadLine(Exception):
    """The line holds no order: the message says why."""


class NoLines(Exception):
    """What is read doesn't consist of lines: the message says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one line wants."""

    number: int
    order_id: UUID
    order: Mapping[str, Any]
    """As the gateway is to get it, which also judges it."""
    shipped: bool


def parse(number: int, text: bytes) -> Line:
    """The order in a line. Raises BadLine if there is none, or none that a second run could find again."""
    try:
        found: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadLine(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(found, dict):
        raise BadLine("not a JSON object")
    members = cast("dict[str, Any]", found)
    order = {name: members[name] for name in _FIELDS if members.get(name) is not None}
    if "id" not in order and isinstance(order.get("order_number"), str):
        order["id"] = str(id_of_number(order["order_number"]))
    try:
        order_id = _ID.validate_python(order.get("id"))
    except ValidationError:
        raise BadLine("needs an id, which is a UUID, or an order_number, which is a string") from None
    return Line(number, order_id, order, shipped=bool(members.get("shipped_date")))


def id_of_number(order_number: str) -> UUID:
    """The id of an order whose line has none: the same on every run, so that the next one finds the order."""
    return uuid5(NAMESPACE, f"order number\n{order_number}")


async def lines_of(source: BinaryIO) -> AsyncGenerator[bytes]:
    """The lines of a file or a pipe, one at a time. Raises NoLines at one that is longer than any order."""
    kind = os.fstat(source.fileno()).st_mode
    read = _from_pipe if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else _from_file
    async with aclosing(read(source)) as lines:
        try:
            async for line in lines:
                yield line
        except ValueError:
            raise NoLines(f"a line is longer than {_LONGEST_LINE >> 20} MiB: one order per line is wanted") from None


async def _from_file(source: BinaryIO) -> AsyncGenerator[bytes]:
    while line := source.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise ValueError
        yield line


async def _from_pipe(source: BinaryIO) -> AsyncGenerator[bytes]:
    """Whoever feeds a pipe may take a while, and must not hold up the orders that are under way."""
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


# --- The load


@dataclass(frozen=True, slots=True)
class Plan:
    """How far orders are to be taken, and how many at once."""

    complete: bool = False
    ship: bool = False
    concurrency: int = 8


@dataclass(slots=True)
class Counts:
    """What has become of the lines so far."""

    lines: int = 0
    created: int = 0
    already_there: int = 0
    completed: int = 0
    already_completed: int = 0
    shipped: int = 0
    already_shipped: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    """By the code of the reason."""
    failed: int = 0
    bad_lines: int = 0


class Load:
    """Takes orders as far as the plan says.

    `tell` gets what a person has to know about a line; `done` the counts after each line, and its bytes.
    """

    def __init__(
        self, client: Client, plan: Plan, tell: Callable[[str], None], done: Callable[[Counts, int], None]
    ) -> None:
        self.counts = Counts()
        self.ending = False
        self._client = client
        self._plan = plan
        self._tell = tell
        self._done = done
        self._run = uuid4()
        self._slots = asyncio.Semaphore(plan.concurrency)
        self._feeding: asyncio.Task[None] | None = None

    async def run(self, source: BinaryIO) -> None:
        """Load every line, or, after `end`, those that are under way. Raises NoLines or GatewayAway."""
        try:
            async with asyncio.TaskGroup() as under_way:
                self._feeding = under_way.create_task(self._feed(source, under_way))
        except* (NoLines, GatewayAway) as stopped:
            raise stopped.exceptions[0] from None

    def end(self) -> None:
        """Begin no further line."""
        self.ending = True
        if self._feeding:
            self._feeding.cancel()

    @property
    def cut_short(self) -> bool:
        """Whether lines are left because of `end`."""
        return self._feeding is not None and self._feeding.cancelled()

    async def _feed(self, source: BinaryIO, under_way: asyncio.TaskGroup) -> None:
        number = 0
        async with aclosing(lines_of(source)) as lines:
            async for text in lines:
                number += 1
                await self._slots.acquire()
                under_way.create_task(self._take(number, text)).add_done_callback(lambda _: self._slots.release())

    async def _take(self, number: int, text: bytes) -> None:
        if text.strip():
            try:
                await self._load(parse(number, text))
            except BadLine as bad:
                self.counts.bad_lines += 1
                self._tell(f"line {number}: {bad}")
            except Failed as failed:
                self.counts.failed += 1
                self._tell(f"line {number}: {failed}")
            self.counts.lines += 1
        self._done(self.counts, len(text))

    async def _load(self, line: Line) -> None:
        try:
            order = await self._created(line)
        except Refused as refused:
            self.counts.refused[refused.code] += 1
            # There is no order that one could look at to find out.
            self._tell(f"line {line.number}: {refused}")
            return
        try:
            if self._plan.complete:
                order = await self._completed(line, order)
            if self._plan.ship and line.shipped and order.status != "OPEN":
                await self._shipped(line, order)
        except Refused as refused:
            self.counts.refused[refused.code] += 1

    async def _created(self, line: Line) -> Standing:
        order = await self._client.standing(line.order_id)
        if order is None and await self._client.create(line.order, self._key(line, "create")):
            self.counts.created += 1
        else:
            self.counts.already_there += 1
        return order or Standing("OPEN")

    async def _completed(self, line: Line, order: Standing) -> Standing:
        if order.status == "OPEN":
            shipment = await self._client.complete(line.order_id, self._key(line, "complete"))
            order = Standing("COMPLETED", shipment)
            if shipment:
                self.counts.completed += 1
                return order
        self.counts.already_completed += 1
        return order

    async def _shipped(self, line: Line, order: Standing) -> None:
        shipment = order.shipment_id or shipment_id(line.order_id)
        if order.status == "COMPLETED" and await self._client.ship(shipment, self._key(line, "ship")):
            self.counts.shipped += 1
        else:
            self.counts.already_shipped += 1

    def _key(self, line: Line, action: str) -> str:
        # Of the line, not of the order: the same order may be on two lines.
        return f"{self._run}-{line.number}-{action}"


# --- The command


@click.command(name="load")
@click.argument("file", type=click.File("rb"))
@click.option("--complete", is_flag=True, help="Complete the orders.")
@click.option("--ship", is_flag=True, help="Ship the completed orders whose line has a shipped_date.")
@click.option("--concurrency", type=click.IntRange(1, 256), metavar="N", default=8, show_default=True)
@click.option("--api-url", metavar="URL", help="The gateway.  [default: WAYBILL_API_URL]")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    *, file: BinaryIO, complete: bool, ship: bool, concurrency: int, api_url: str | None, as_json: bool
) -> None:
    """Send orders from FILE through the gateway; - is standard input.

    One JSON object per line: id (optional), order_number, business_partner, items; whatever else is there is ignored.
    Run it again after an interruption: what is there already is not created again, and what is missing is done.

    What the domain refuses is counted by reason and is no failure. The exit code is 1 if a line could not be read or
    not be sent, 130 after Ctrl-C.
    """
    configured = settings.load()
    url = api_url or configured.api_url
    key = configured.api_key.get_secret_value() if configured.api_key else None
    sys.exit(asyncio.run(_main(file, url, key, Plan(complete, ship, concurrency), as_json=as_json)))


async def _main(source: BinaryIO, url: str, key: str | None, plan: Plan, *, as_json: bool) -> int:
    began, stopped = time.monotonic(), ""
    async with connected(url, plan.concurrency, key) as http:
        with _Display(source) as display:
            load = Load(Client(http), plan, display.tell, display.done)
            with _ending_on_signals(load, display.tell):
                try:
                    await load.run(source)
                except (NoLines, GatewayAway) as reason:
                    stopped = str(reason)
                except asyncio.CancelledError:
                    stopped = "interrupted"
    if load.cut_short:
        stopped = stopped or "interrupted"
    _print(load.counts, time.monotonic() - began, stopped, as_json=as_json)
    if stopped == "interrupted":
        return 128 + signal.SIGINT
    return 1 if stopped or load.counts.failed or load.counts.bad_lines else 0


@contextmanager
def _ending_on_signals(load: Load, tell: Callable[[str], None]) -> Generator[None]:
    """The first Ctrl-C lets what is under way come to its end, the second one doesn't."""
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None

    def end() -> None:
        if load.ending:
            this.cancel()
        else:
            load.end()
            tell("Ending with the orders that are under way; Ctrl-C again ends at once")

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


class _Display:
    """A progress bar on a terminal; elsewhere only what has to be said. It leaves standard output alone."""

    def __init__(self, source: BinaryIO) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar = self._progress.add_task("", total=os.fstat(source.fileno()).st_size or None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, message: str) -> None:
        self._progress.console.print(message, markup=False)

    def done(self, counts: Counts, size: int) -> None:
        """Another line of `size` bytes is done."""
        shown = {
            "lines": counts.lines,
            "created": counts.created,
            "completed": counts.completed,
            "shipped": counts.shipped,
            "refused": counts.refused.total(),
        }
        told = ", ".join(f"{times} {name}" for name, times in shown.items() if times)
        self._progress.update(self._bar, advance=size, description=told)


def _print(counts: Counts, seconds: float, stopped: str, *, as_json: bool) -> None:
    if as_json:
        told = {each.name: getattr(counts, each.name) for each in fields(counts)}
        click.echo(orjson.dumps({**told, "seconds": round(seconds, 3), "stopped": stopped or None}))
    else:
        click.echo("\n".join(_summary(counts, seconds)))
    if stopped:
        click.echo(f"Stopped after {_lines(counts)}, {stopped}: run it again to go on", err=True)


def _summary(counts: Counts, seconds: float) -> list[str]:
    rows = [
        ("created", counts.created, ""),
        ("already there", counts.already_there, ""),
        ("completed", counts.completed, _before(counts.already_completed)),
        ("shipped", counts.shipped, _before(counts.already_shipped)),
        *(("refused", times, code) for code, times in counts.refused.most_common()),
        ("failed", counts.failed, ""),
        ("bad lines", counts.bad_lines, ""),
    ]
    always = {"created", "already there", "completed", "shipped"}
    lines = [f"  {name:<13} {times:>7}  {note}".rstrip() for name, times, note in rows if times or name in always]
    return [f"{_lines(counts)} in {seconds:.1f} s", *lines]


def _lines(counts: Counts) -> str:
    return "1 line" if counts.lines == 1 else f"{counts.lines} lines"


def _before(times: int) -> str:
    return f"and {times} before" if times else ""
