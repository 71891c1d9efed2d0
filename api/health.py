"""What operators ask: is it alive, can it do its work, how far are the projections, and the numbers."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Literal

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.gateway import Resources
from api.openapi import problems
from api.schemas import Alive, Listing, Projection, Readiness
from eventstore.store import ALL_STREAM

log = structlog.get_logger(__name__)

router = APIRouter(tags=["operations"])

_CHECK_SECONDS = 2.0


@router.get("/livez")
async def livez() -> Alive:
    """The process runs and answers."""
    return Alive()


@router.get(
    "/readyz",
    responses={503: {"model": Readiness, "description": "Something that it needs is not there; `checks` says what."}},
)
async def readyz(request: Request, gateway: Resources, response: Response) -> Readiness:
    """Whether the event store, the read store and Temporal can be reached, within a bounded time.

    Who has none of the keys that there are is not told which of them can't.
    """
    temporal = gateway.temporal.service_client.check_health(timeout=timedelta(seconds=_CHECK_SECONDS))
    questions: dict[str, Awaitable[Any]] = {
        "event_store": gateway.store.stream_version(ALL_STREAM),
        "read_store": gateway.read_store.positions(),
        "temporal": temporal,
    }
    outcomes = await asyncio.gather(*(_check(name, question) for name, question in questions.items()))
    ready = all(outcome == "ok" for outcome in outcomes)
    response.status_code = 200 if ready else 503
    checks = {} if request.state.stranger else dict(zip(questions, outcomes, strict=True))
    return Readiness(status="ok" if ready else "unavailable", checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """The numbers of this process, for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/projections", responses=problems())
async def list_projections(gateway: Resources) -> Listing[Projection]:
    """How far each read model has come."""
    positions = await gateway.read_store.positions()
    head = await gateway.store.stream_version(ALL_STREAM)
    return Listing(
        items=[
            Projection(name=name, position=position, lag=max(0, head - position))
            for name, position in positions.items()
        ]
    )


async def _check(name: str, question: Awaitable[Any]) -> Literal["ok", "unavailable"]:
    """The reason goes to the log: it may name hosts and users."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await question
    except Exception as error:  # noqa: BLE001 - whatever it is, it isn't there
        log.warning("not_ready", check=name, reason=f"{type(error).__name__}: {error}")
        return "unavailable"
    return "ok"
