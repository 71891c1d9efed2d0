"""What `waybill dev` says: every child's lines under its name, and at last where everything is."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import click
from rich.console import Console

from dev.record import Record

_COLOURS = {"postgres": "blue", "temporal": "magenta", "worker": "green", "api": "yellow", "waybill": "cyan"}
_WIDTH = 9


def say(name: str, line: str) -> None:
    """One line of a child's log. That nobody reads, or the terminal is gone, is no reason to stop."""
    prefix = click.style(f"{name:<{_WIDTH}} | ", fg=_COLOURS[name.partition("-")[0]])
    with suppress(OSError):
        click.echo(prefix + line, color=False if "NO_COLOR" in os.environ else None)


def announce(record: Record, directory: Path, seconds: float) -> None:
    """Where everything is, and three commands to try at once."""
    places = {
        "gateway": record.api_url,
        "its documentation": f"{record.api_url}/docs",
        "Temporal Web UI": record.temporal_ui_url,
        "Temporal": f"{record.temporal_address} (namespace {record.namespace}, task queue {record.task_queue})",
        "event store": record.event_store_url,
        "read store": record.read_store_url,
        "data": str(directory),
    }
    # Soft-wrapped: an address that is cut at the terminal's edge can't be copied.
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    with suppress(OSError):
        console.print(f"\n[bold green]Waybill is ready[/] after {seconds:.1f} s. Ctrl-C stops it.\n")
        for name, place in places.items():
            console.print(f"  [bold]{name:<18}[/]  {place}")
        console.print("\n[bold]An order, from creation to shipment:[/]\n")
        for line in _commands(record):
            console.print(line, markup=False)
        console.print()


def _commands(record: Record) -> list[str]:
    """They work as they are printed, in this order: the order's id and number are made up here."""
    order = uuid4()
    body = (
        f'{{"id": "{order}", "order_number": "WB-{order.hex[:6].upper()}", "business_partner": "ada@example.com", '
        f'"items": [{{"product_id": "{uuid4()}", "quantity": 1.5, "uom": "KG"}}]}}'
    )
    run = f"{record.temporal_ui_url}/namespaces/{record.namespace}/workflows/order-{order}"
    return [
        f"  curl -sS {record.api_url}/orders -H 'content-type: application/json' -d '{body}'",
        f"  curl -sS -X POST {record.api_url}/orders/{order}/complete",
        f"  curl -sS {record.api_url}/orders/{order}",
        "",
        f"  Its run: {run}",
    ]
