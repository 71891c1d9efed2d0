"""`waybill history`: what runs have seen, exported to files and replayed with the code that is to go on with them.

Temporal brings a run back by letting its code repeat the history. Code that would do something else can't go on with
that run, so it is held to the histories of the open ones before it is deployed.
"""

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import click
from google.protobuf.json_format import ParseError
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import Replayer

import settings
from workflows.connection import connect
from workflows.encryption import data_converter
from workflows.messages import WORKFLOW_TYPE, workflow_id
from workflows.order import OrderWorkflow
from workflows.worker import workflow_runner

STDIO = "-"
_BEFORE_A_DEPLOY = """\b
Before a deploy, with the new code:
  waybill history export --open open-runs
  waybill history replay open-runs"""
# The core quotes a failure and its causes in the notation of its own language.
_QUOTED = re.compile(r'message: "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Replayed:
    """How a history went with this code."""

    name: str
    events: int
    failure: Exception | None

    @property
    def reason(self) -> str:
        """Why it failed, in one line; empty if it didn't."""
        if self.failure is None:
            return ""
        told = str(self.failure)
        lines = [message.split(r"\n")[0] for message in _QUOTED.findall(told)] or told.splitlines()[:1]
        return ": ".join(lines).replace(r"\"", '"').replace(r"\'", "'")


async def replay(
    histories: AsyncIterator[WorkflowHistory], converter: DataConverter = pydantic_data_converter
) -> AsyncGenerator[Replayed]:
    """Replay each history as a worker with this code would, in the sandbox that finds non-deterministic calls."""
    replayer = Replayer(
        workflows=[OrderWorkflow],
        workflow_runner=workflow_runner(sandboxed=True),
        data_converter=converter,
        # What the core and the SDK have to say of a failure is in the result.
        runtime=_quiet_runtime(),
    )
    async with replayer.workflow_replay_iterator(histories) as results:
        async for result in results:
            history = result.history
            yield Replayed(name_of(history), len(history.events), result.replay_failure)


def name_of(history: WorkflowHistory) -> str:
    """Workflow id and run id, as they are in the history itself; usable as the name of a file."""
    started = history.events[0].workflow_execution_started_event_attributes
    return f"{quote(started.workflow_id or history.workflow_id, safe='')}.{started.original_execution_run_id}"


def read(text: str) -> WorkflowHistory:
    """A history from its JSON: this module's, or what the Web UI and Temporal's own command line download."""
    history = WorkflowHistory.from_json("", text)
    started = history.events[0].workflow_execution_started_event_attributes if history.events else None
    if started is None or not started.original_execution_run_id:
        raise ValueError("it doesn't begin with the start of a run")
    return WorkflowHistory(started.workflow_id, history.events)


def write(history: WorkflowHistory, file: Path) -> None:
    """Write a history as `read` and Temporal's own tools read it."""
    file.write_text(history.to_json() + "\n")


@click.group(epilog=_BEFORE_A_DEPLOY)
def history() -> None:
    """Export the histories of orders' runs, and replay them with this code."""


@history.command(short_help="Write the histories of runs to files.")
@click.argument("target", metavar="DIRECTORY|-", type=click.Path(path_type=Path, file_okay=False, allow_dash=True))
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--open", "only_open", is_flag=True, help="Only runs that are not over.")
@click.option("--query", metavar="QUERY", help="Only runs that this list filter of Temporal matches.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N runs.")
def export(target: Path, ids: Sequence[str], *, only_open: bool, query: str | None, limit: int | None) -> None:
    """Write the histories of runs to DIRECTORY, one file each; - writes one line each to the standard output.

    ID is an order's or its workflow's: all of its runs that the server still has. Without one, those of all orders.
    TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and so on say where the server is.
    """
    chosen = _query([_workflow_id(each) for each in ids], only_open=only_open, query=query)
    count = asyncio.run(_export(chosen, limit, _print if str(target) == STDIO else _writing_to(target)))
    if ids and not count:
        raise click.ClickException("these orders have no such runs (Temporal lists a new run after a moment)")
    click.echo(f"exported: {count}", err=True)


@history.command("replay", short_help="Tell which of these histories this code can't go on with.")
@click.argument(
    "sources",
    metavar="DIRECTORY|FILE|-...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path, allow_dash=True),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per history.")
def replay_command(sources: Sequence[Path], *, as_json: bool) -> None:
    """Replay histories with this code; exit code 1 if it can't go on with one of them.

    A DIRECTORY stands for its *.json files, - for one history per line of the standard input. Encrypted ones are
    read with WAYBILL_PAYLOAD_KEYS.
    """
    # The SDK logs each failure with its traceback; here a failure is a line of the answer.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    if asyncio.run(_replay_and_print(sources, as_json=as_json)):
        sys.exit(1)


async def _export(query: str, limit: int | None, keep: Callable[[WorkflowHistory], None]) -> int:
    client = await connect(settings.temporal())
    count = 0
    async for exported in client.list_workflows(query, limit=limit).map_histories():
        keep(exported)
        count += 1
    return count


def _print(exported: WorkflowHistory) -> None:
    click.echo(json.dumps(exported.to_json_dict()))


def _writing_to(directory: Path) -> Callable[[WorkflowHistory], None]:
    directory.mkdir(parents=True, exist_ok=True)
    return lambda exported: write(exported, directory / f"{name_of(exported)}.json")


async def _replay_and_print(sources: Sequence[Path], *, as_json: bool) -> int:
    count = failed = 0
    converter = data_converter(settings.load().payload_keys)
    async with aclosing(replay(_histories(sources), converter)) as results:
        async for each in results:
            count += 1
            failed += each.failure is not None
            if as_json:
                line = {"history": each.name, "events": each.events, "ok": each.failure is None, "reason": each.reason}
                click.echo(json.dumps(line))
            else:
                outcome = f"FAILED {each.reason}" if each.failure else "ok"
                click.echo(f"{each.name} ({each.events} events): {outcome}")
    click.echo(f"replayed: {count}, failed: {failed}", err=as_json)
    return failed


async def _histories(sources: Iterable[Path]) -> AsyncGenerator[WorkflowHistory]:
    for name, text in _texts(sources):
        try:
            yield read(text)
        except (ValueError, ParseError) as error:
            raise click.ClickException(f"{name} is no history: {' '.join(str(error).split())}") from None


def _texts(sources: Iterable[Path]) -> Iterable[tuple[str, str]]:
    for source in sources:
        if str(source) == STDIO:
            yield from ((f"line {number}", line) for number, line in enumerate(sys.stdin, 1) if line.strip())
        else:
            files = sorted(source.glob("*.json")) if source.is_dir() else [source]
            yield from ((str(file), file.read_text()) for file in files)


def _query(workflow_ids: Sequence[str], *, only_open: bool, query: str | None) -> str:
    conditions = [f"WorkflowType = '{WORKFLOW_TYPE}'"]
    if workflow_ids:
        conditions.append(f"WorkflowId IN ({', '.join(repr(each) for each in workflow_ids)})")
    if only_open:
        conditions.append("ExecutionStatus = 'Running'")
    if query:
        conditions.append(f"({query})")
    return " AND ".join(conditions)


def _workflow_id(order: str) -> str:
    try:
        return workflow_id(UUID(order.removeprefix("order-")))
    except ValueError:
        raise click.BadParameter(f"{order} is neither an order's id nor its workflow's") from None


@cache
def _quiet_runtime() -> Runtime:
    filtered = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    return Runtime(telemetry=TelemetryConfig(logging=filtered))
