"""`waybill adopt` and `waybill verify`: look a store over, and say in plain words, or as JSON, what was found."""

import asyncio
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import projections.verify
from eventstore import verify as event_store
from eventstore.adopt import Adoption, NotAdoptable
from eventstore.adopt import adopt as take_over
from eventstore.findings import KINDS, Finding
from eventstore.postgres import PostgresStore
from garbage import collect_seldom
from settings import Settings, load

Tell = Callable[[str, int, int], None]
"""Takes what is looked at, how many events have been, and how many there are."""

_LISTED = 20
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")


@click.command(
    epilog="\b\nEnvironment:\n  WAYBILL_EVENT_STORE_URL  the database, postgresql://..., as the owner of its tables"
)
@click.option("--dry-run", is_flag=True, help="Only look; change nothing.")
@_AS_JSON
@click.pass_context
def adopt(context: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Take over the database of a Commanded application, with its history.

    Schema public stays as it is; schema waybill is put beside it. What is odd about the history is told, once.
    """
    settings = load()
    try:
        with _progress() as tell:
            adoption = asyncio.run(_adopt(settings, tell, dry_run=dry_run))
    except NotAdoptable as refused:
        for line in refused.differences:
            click.echo(line, err=True)
        click.echo(f"Error: {refused}", err=True)
        context.exit(1)
    if as_json:
        click.echo(orjson.dumps({"outcome": adoption.outcome, **adoption.report}))
    else:
        _tell_adoption(adoption)


@click.command(
    epilog="\b\nEnvironment:\n  WAYBILL_EVENT_STORE_URL, WAYBILL_READ_STORE_URL  the two databases, postgresql://..."
)
@_AS_JSON
@click.pass_context
def verify(context: click.Context, *, as_json: bool) -> None:
    """Audit both stores; exit code 1 with a list if anything is wrong.

    They may be in use. What was odd when a database was adopted is counted, but not held against it.
    """
    settings = load()
    collect_seldom()
    with _progress() as tell:
        report = asyncio.run(_verify(settings, tell))
    if as_json:
        click.echo(orjson.dumps(report, default=str))
    else:
        _tell_verification(report)
    context.exit(1 if report["findings"] else 0)


async def _adopt(settings: Settings, tell: Tell, *, dry_run: bool) -> Adoption:
    return await take_over(settings.event_store_url, lambda seen, total: tell("events", seen, total), dry_run=dry_run)


async def _verify(settings: Settings, tell: Tell) -> dict[str, Any]:
    found, known = await event_store.verify(settings.event_store_url, lambda seen, total: tell("events", seen, total))
    async with PostgresStore.open(settings.event_store_url, 2) as store:
        parked = await projections.verify.parked([store.pool])
        found.findings += parked
        # Where both stores are one database, so is what is parked there.
        rows = await projections.verify.verify(settings.read_store_url, store, tell)
        found.findings += [finding for finding in rows if finding not in parked]
    report = asdict(found)
    del report["unshipped"]
    return {"ok": not found.findings, "known_since_adoption": known, **report}


# --- What people read


@contextmanager
def _progress() -> Generator[Tell]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, seen: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=seen, total=total)

        yield tell


def _tell_adoption(adoption: Adoption) -> None:
    report = adoption.report
    click.echo(
        {
            "adopted": "Adopted. Schema public is as it was, schema waybill is beside it.",
            "adopted before": f"Adopted already, at {report.get('adopted_at')}. This is what was found then.",
            "could be adopted": "It can be adopted. Nothing was changed.",
        }[adoption.outcome]
    )
    _tell_contents(report)
    click.echo(f"  {report['claims']:,} claims, of the numbers and the shipments of its orders")
    if subscriptions := [f"{each['name']} at {each['last_seen']}" for each in report["subscriptions"]]:
        click.echo(f"  subscriptions, left as they are: {', '.join(subscriptions)}")
    if findings := [Finding(**each) for each in report["findings"]]:
        _tell_findings(findings)
        click.echo("\nNone of it holds anything up. `waybill verify` knows it, and doesn't complain of it.")
    else:
        click.echo("Nothing about it is odd.")
    if adoption.outcome == "adopted":
        click.echo("Next: `waybill migrate` makes the tables of the read models, in a database of their own.")


def _tell_verification(report: Mapping[str, Any]) -> None:
    click.echo("All is well." if report["ok"] else f"{len(report['findings']):,} things are wrong.")
    _tell_contents(report)
    if known := report["known_since_adoption"]:
        click.echo(f"  {known:,} oddities are known since its adoption (`waybill adopt` tells them again)")
    _tell_findings([Finding(**each) for each in report["findings"]])


def _tell_contents(report: Mapping[str, Any]) -> None:
    click.echo(
        f"  {report['events']:,} events in {report['streams']:,} streams, "
        f"{report['links']:,} links, {report['snapshots']:,} snapshots"
    )
    for what in ("orders", "shipments"):
        counts = [f"{count:,} {status.lower()}" for status, count in sorted(report[what].items())]
        click.echo(f"  {what}: {', '.join(counts) or 'none'}")
    for name, count in report["unknown_types"].items():
        click.echo(f"  {count:,} events of type {name}, which nobody here knows: they are kept")


def _tell_findings(findings: Sequence[Finding]) -> None:
    for kind, headline in KINDS.items():
        texts = [finding.text for finding in findings if finding.kind == kind]
        if texts:
            click.echo(f"\n{headline} ({len(texts):,}):")
            for text in texts[:_LISTED]:
                click.echo(f"  {text}")
            if len(texts) > _LISTED:
                click.echo(f"  and {len(texts) - _LISTED:,} more: --json has them all")
