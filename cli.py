"""The command `waybill`: a table of commands. Each imports what it needs when it runs, so that --help stays quick."""

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import click


class _Elsewhere(NamedTuple):
    """A command that a module of its own defines, and what `waybill --help` says of it."""

    module: str
    name: str
    summary: str


_ELSEWHERE: Mapping[str, _Elsewhere] = {
    "load": _Elsewhere("loader", "command", "Send the orders of a file through the gateway."),
    "stream": _Elsewhere("reading", "stream", "Look at the stream of one order or shipment."),
    "events": _Elsewhere("reading", "events", "Look at the global sequence of events."),
    "adopt": _Elsewhere("auditing", "adopt", "Take over the database of a Commanded application."),
    "verify": _Elsewhere("auditing", "verify", "Audit both stores; exit code 1 if anything is wrong."),
    "parked": _Elsewhere("parked", "parked", "Look after events that a subscriber could not be done with."),
    "handler": _Elsewhere("rebuilding", "handler", "Look how far the event handlers are."),
    "projection": _Elsewhere("rebuilding", "projection", "Look after the read models, build them anew."),
    "history": _Elsewhere("histories", "history", "Export the histories of runs, replay them with this code."),
}


class _Waybill(click.Group):
    """Commands from here and from elsewhere. What a user can mend is told in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if place := _ELSEWHERE.get(cmd_name):
            command: click.Command = getattr(importlib.import_module(place.module), place.name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        summaries = {name: place.summary for name, place in _ELSEWHERE.items()}
        summaries |= {name: self.commands[name].get_short_help_str(80) for name in super().list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(summaries.items()))

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except SystemExit as end:
            if "temporalio" in sys.modules and isinstance(end.code, int):
                _leave(end.code)
            raise

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if _can_be_mended(error):
                raise click.ClickException(_one_line(error)) from None
            raise


@click.group(cls=_Waybill, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="waybill", prog_name="waybill", message="%(prog)s %(version)s")
def main() -> None:
    """Takes orders to shipments, durably.

    Every command is configured by environment variables (.env.example lists them), `waybill dev` needs none.
    """


def _reads(*lines: str) -> str:
    """What --help says of a command's environment."""
    return "\b\nEnvironment:\n  " + "\n  ".join(lines)


_DATABASES = "WAYBILL_EVENT_STORE_URL, WAYBILL_READ_STORE_URL   the two databases, postgresql://..."
_TEMPORAL = "TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_*  the Temporal server"
_PORT = click.IntRange(0, 65535)


@main.command(
    epilog=_reads(
        "WAYBILL_POSTGRES_BIN  the directory of your own initdb and postgres",
        "WAYBILL_TEMPORAL_BIN  your own Temporal CLI",
        "WAYBILL_*             all other settings reach the workers and the gateway",
    )
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=".waybill",
    show_default=True,
    help="What is kept between starts.",
)
@click.option("--fresh", is_flag=True, help="Forget what is kept there.")
@click.option("--api-port", type=_PORT, metavar="PORT", default=8000, show_default=True)
@click.option("--temporal-port", type=_PORT, metavar="PORT", default=7233, show_default=True)
@click.option("--temporal-ui-port", type=_PORT, metavar="PORT", default=8233, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", default=1, show_default=True)
@click.option("--untuned", is_flag=True, help="Run Temporal's server as it comes, for comparison.")
def dev(
    data_dir: Path,
    *,
    fresh: bool,
    api_port: int,
    temporal_port: int,
    temporal_ui_port: int,
    workers: int,
    untuned: bool,
) -> None:
    """Run everything on this machine.

    PostgreSQL, Temporal with its Web UI, workers and the gateway run as processes of their own, and are started
    again when they die. Ctrl-C stops them; the data stays. Port 0 is any free one: when all is ready,
    DATA_DIR/dev.json has the addresses.
    """
    from settings import load

    settings = load()
    from dev.stack import Options, run

    options = Options(data_dir, fresh, api_port, temporal_port, temporal_ui_port, workers=workers, tuned=not untuned)
    asyncio.run(run(options, settings))


@main.command(
    epilog=_reads(
        "WAYBILL_API_HOST, WAYBILL_API_PORT                where to listen",
        "WAYBILL_API_KEYS                                  whose requests to take; needed elsewhere than on loopback",
        _DATABASES,
        _TEMPORAL,
    )
)
def api() -> None:
    """Serve the HTTP gateway."""
    from settings import load

    settings = load()
    from api.app import serve

    serve(settings)


@main.group("api-key")
def api_key() -> None:
    """Make keys for the gateway."""


@api_key.command("new")
@click.argument("key_id", metavar="ID")
@click.option(
    "--scope", type=click.Choice(["read", "write", "admin"]), required=True, help="Each includes those before it."
)
def new_api_key(key_id: str, scope: Any) -> None:
    """Make a key. ID is whose it is: the actor in the events that come of its requests.

    The key is printed this once and kept nowhere; what WAYBILL_API_KEYS gets is its hash. To replace a key, make
    another with the same ID, list both, and drop the old one when nobody sends it any more.
    """
    from api.keys import generate

    try:
        key, kept = generate(key_id, scope)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ID") from None
    click.echo(f"Authorization: Bearer {key}\nWAYBILL_API_KEYS={kept}")


@main.group("payload-key")
def payload_key() -> None:
    """Make keys that encrypt what Temporal keeps."""


@payload_key.command("new")
@click.argument("key_id", metavar="ID")
def new_payload_key(key_id: str) -> None:
    """Make a key. Payloads name it by its ID, in clear.

    Give it to every worker and gateway in WAYBILL_PAYLOAD_KEYS, beside those that are there: then all can decrypt
    with it. After that, name it in WAYBILL_PAYLOAD_KEY: then all encrypt with it. Drop an old one when Temporal keeps
    no run any more that was written with it.
    """
    from workflows.payload_keys import generate

    try:
        click.echo(f"WAYBILL_PAYLOAD_KEYS={generate(key_id).entry()}\nWAYBILL_PAYLOAD_KEY={key_id}")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ID") from None


@main.command(
    "codec-server",
    epilog=_reads(
        "WAYBILL_PAYLOAD_KEYS      the keys to decrypt with",
        "WAYBILL_API_KEYS          who may see it; needed elsewhere than on loopback",
        "WAYBILL_TEMPORAL_UI_URL   where the Web UI is, whose pages may ask",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=_PORT, metavar="PORT", default=8081, show_default=True)
def codec_server(host: str, port: int) -> None:
    """Show encrypted payloads in clear, in Temporal's Web UI and command line.

    Its address is set in the Web UI (the glasses in the upper right corner), or given to its server as
    TEMPORAL_CODEC_ENDPOINT; temporal's own command line takes --codec-endpoint.
    """
    from settings import load

    settings = load()
    from api.codec_server import serve

    serve(settings, host, port)


@main.command(
    epilog=_reads(
        _DATABASES,
        _TEMPORAL,
        "WAYBILL_TASK_QUEUE                                the queue to work on",
        "WAYBILL_METRICS_PORT                              serve /metrics and /livez there",
        "WAYBILL_WORKER_SHUTDOWN_TIMEOUT                   how long TERM lets the steps that run finish",
        "WAYBILL_DEPLOYMENT_NAME, WAYBILL_BUILD_ID         Worker Versioning, if you want it",
    )
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    metavar="N",
    default=1,
    show_default=True,
    help="So many workers side by side: one per core. What dies is started again.",
)
def worker(processes: int) -> None:
    """Run a worker: orders, their steps, projections, event handlers.

    Start as many as you like, on as many hosts as you like. TERM lets the steps that run finish; a second one doesn't.
    With --processes, WAYBILL_METRICS_PORT is the first process's port, and the others have those that follow.
    """
    from settings import load

    settings = load()
    if processes > 1:
        from fleet import main as run_several

        sys.exit(run_several(settings, processes))
    from worker import main as run

    run(settings)


@main.command(epilog=_reads(_DATABASES, _TEMPORAL))
@click.option("--temporal", is_flag=True, help="Make Temporal's namespace and the search attributes, too.")
def migrate(*, temporal: bool) -> None:
    """Create or update the tables of both databases, and with --temporal what Temporal has to know.

    The databases must exist. Run it as often as you like, also twice at once. Where an administrator has to make
    something on the Temporal server (on Temporal Cloud, say), it tells what.
    """
    from settings import load

    settings = load()
    from eventstore.migrate import migrate as migrate_event_store
    from observability import configure_logging
    from projections.migrate import migrate as migrate_read_store

    configure_logging(settings.log_level, "console")
    _migrate("event store", settings.event_store_url, migrate_event_store)
    _migrate("read store", settings.read_store_url, migrate_read_store)
    if temporal:
        click.echo(f"Temporal: {', '.join(asyncio.run(_register())) or 'up to date'}")


async def _register() -> list[str]:
    from settings import temporal
    from workflows.connection import connect
    from workflows.search_attributes import NotRegistrable, register

    try:
        return await register(await connect(temporal()))
    except NotRegistrable as missing:
        raise click.ClickException(f"Temporal: {missing}") from None


def _migrate(store: str, url: str, migrate: Callable[[str], Awaitable[list[str]]]) -> None:
    async def applied() -> list[str]:
        return await migrate(url)

    try:
        names = asyncio.run(applied())
    except Exception as error:
        if _can_be_mended(error):
            # Without user and password.
            place = urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
            raise click.ClickException(f"{store} at {place}: {_one_line(error)}") from None
        raise
    click.echo(f"{store}: {', '.join(names) or 'up to date'}")


def _can_be_mended(error: Exception) -> bool:
    """Whether it is about settings, servers or files and not about our code."""
    from dev.errors import DevError
    from eventstore.migrate import NotMigratable, TablesInUse
    from settings import SettingsError

    if isinstance(error, SettingsError | DevError | NotMigratable | TablesInUse | OSError):
        return True
    import asyncpg
    import httpx2
    from temporalio.service import RPCError

    return isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | httpx2.TransportError | RPCError)


def _leave(code: int) -> NoReturn:
    """End the process without Python's own farewell: if a thread of Temporal's SDK is in Python then, it aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
