"""The gateway's composition root: here its resources are opened and closed, and its routes put together."""

import asyncio
import resource
import signal
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

import limits
import structlog
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

import settings as configuration
from api import blocked_products, events, handlers, health, openapi, orders, problem_pages, problems, shipments
from api import parked as parked_events
from api.auth import Authentication, is_loopback
from api.commands import Commands
from api.consistency import Consistency
from api.counting import ParkedCounts
from api.docs import serve_docs
from api.edge import Edge
from api.gateway import Gateway
from api.live import Live
from api.parameters import CONSISTENCY
from api.rates import Rates
from api.server import strict_protocol
from api.telemetry import REQUEST_ID, Telemetry
from core_metrics import measured_runtime
from eventstore.adopted import AdoptedStore
from eventstore.listener import listening
from eventstore.patience import give_up, patiently
from eventstore.subscriptions import EVENTS_CHANNEL
from garbage import collect_seldom
from observability import configure_logging
from projections.parking import counts
from projections.queries import ReadStore
from projections.runner import PROJECTIONS_CHANNEL
from settings import Settings, SettingsError
from tracing import exporting
from workflows.connection import connect
from workflows.encryption import data_converter

log = structlog.get_logger(__name__)

DESCRIPTION = """\
Waybill takes orders to shipments: durable commands on Temporal, events in PostgreSQL, read models that can be rebuilt.

Errors are `application/problem+json`; their `code` is stable. A write's answer carries the `position` of its event in
the global sequence, and is sent when the read models have come to it.
"""
# Longer than most clients keep a connection: it is they who close it, and not while a request is on its way.
_KEEP_ALIVE_SECONDS = 75
_SHUTDOWN_SECONDS = 10
_ACROSS_ORIGINS: Mapping[str, Any] = {
    "allow_methods": ("GET", "HEAD", "POST", "PUT", "DELETE"),
    "allow_headers": (
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "Last-Event-ID",
        "Prefer",
        "traceparent",
        REQUEST_ID,
    ),
    "expose_headers": ("ETag", "Link", "Location", "Preference-Applied", "Retry-After", CONSISTENCY, REQUEST_ID),
}


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI application; its resources are opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with _open(settings) as gateway:
            app.state.gateway = gateway
            yield

    # FastAPI's own documentation page loads its scripts from a foreign host: blank where that isn't reached.
    app = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        title="Waybill",
        version=version("waybill"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    modules = (orders, shipments, blocked_products, events, parked_events, handlers, health, problem_pages)
    app.router.routes[:0] = [route for module in modules for route in _routes(module.router)]
    problems.install(app)
    openapi.describe(app, secured=bool(settings.api_keys))
    serve_docs(app)
    # The last one is the outermost.
    if settings.rate_limit:
        app.add_middleware(Rates, limit=limits.parse(settings.rate_limit))
    app.add_middleware(Authentication, keys=settings.api_keys)
    app.add_middleware(Edge, max_body=settings.max_body, origins=settings.cors_origins)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_ACROSS_ORIGINS)
    app.add_middleware(Telemetry)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then finish what has begun, within a bound.

    Raises ConnectionError if one of the databases isn't there within WAYBILL_START_TIMEOUT, SettingsError if everybody
    could use it.
    """
    if not settings.api_keys and not is_loopback(settings.api_host):
        raise SettingsError(
            f"WAYBILL_API_KEYS has to be set, because WAYBILL_API_HOST is {settings.api_host!r} and not loopback: "
            "`waybill api-key new ID --scope write` makes a key"
        )
    configure_logging(settings.log_level, settings.log_format)
    collect_seldom()
    # Within uvicorn these would be stack traces.
    configuration.temporal()
    if not asyncio.run(_reach_databases(settings)):
        return
    _open_as_many_files_as_allowed(settings.max_connections)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=strict_protocol(settings),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        # Anybody could name any address.
        proxy_headers=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        # A pipelined request is begun from inside the one before it, whose order and trace its log lines mustn't name.
        reset_contextvars=True,
    )
    with suppress(KeyboardInterrupt):
        Server(config).run()


class Server(uvicorn.Server):
    """Ends the live streams before it waits for what is under way: they would never end by themselves."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.gateway.live.close()
        await super().shutdown(sockets)


def _open_as_many_files_as_allowed(connections: int) -> None:
    """Each connection is a file, and a process may open few unless it asks for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems allow less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    (log.info if limit > connections else log.warning)("gateway.open_files", limit=limit, connections=connections)


async def _reach_databases(settings: Settings) -> bool:
    """Wait until they are there; False if a signal has said to stop.

    Until uvicorn is there to hear it, nobody else would: the first process of a container isn't ended by SIGTERM.
    """
    waiting, stop = asyncio.timeout(None), asyncio.Event()
    loop = asyncio.get_running_loop()

    def told_to_stop() -> None:
        stop.set()
        give_up(waiting)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    try:
        async with waiting, _stores(settings, 1):
            return True
    except TimeoutError:
        if not stop.is_set():
            raise
        log.info("gateway.stopped")
        return False


@asynccontextmanager
async def _stores(settings: Settings, size: int) -> AsyncGenerator[tuple[AdoptedStore, ReadStore]]:
    async with (
        patiently(lambda: AdoptedStore.open(settings.event_store_url, size), settings.start_timeout) as store,
        patiently(lambda: ReadStore.open(settings.read_store_url, size), settings.start_timeout) as read_store,
    ):
        yield store, read_store


@asynccontextmanager
async def _open(settings: Settings) -> AsyncGenerator[Gateway]:
    async with AsyncExitStack() as stack:
        # Left last, but before uvicorn ends the process by the signal that has ended the server.
        stack.enter_context(exporting("waybill-api"))
        store, read_store = await stack.enter_async_context(_stores(settings, settings.pool_size))
        consistency = Consistency(read_store.positions)
        stack.push_async_callback(consistency.close)
        await stack.enter_async_context(listening(settings.read_store_url, PROJECTIONS_CHANNEL, consistency.heard))
        live = await stack.enter_async_context(_live(settings, store))
        # It connects when it is first needed: the gateway also starts while Temporal is away.
        converter = data_converter(settings.payload_keys, settings.payload_key)
        temporal = await connect(configuration.temporal(), converter=converter, lazy=True, runtime=measured_runtime())
        parking = (store.pool, read_store.pool)
        parked = ParkedCounts(partial(counts, parking))
        stack.push_async_callback(parked.close)
        yield Gateway(
            settings=settings,
            store=store,
            read_store=read_store,
            temporal=temporal,
            commands=Commands(temporal, store, settings),
            consistency=consistency,
            live=live,
            parking=parking,
            parked=parked,
        )


@asynccontextmanager
async def _live(settings: Settings, store: AdoptedStore) -> AsyncGenerator[Live]:
    live = Live(store, events.as_json)
    async with listening(settings.event_store_url, EVENTS_CHANNEL, live.heard):
        reader = asyncio.create_task(live.run(), name="live events")
        try:
            yield live
        finally:
            live.close()
            reader.cancel()
            await asyncio.wait([reader])


def _routes(router: APIRouter) -> list[APIRoute]:
    """Routes for the app itself: FastAPI looks for a route in an included router twice, and finds it twice as late.

    A path is compared with one route after the other, and most requests are questions: they come first.
    """
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    for route in routes:
        # The operation's name in the OpenAPI document.
        route.unique_id = route.name
    return sorted(routes, key=lambda route: "GET" not in (route.methods or ()))
