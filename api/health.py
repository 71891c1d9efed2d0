"""What operators ask: is it alive, can it do its work, how far are the projections, and the numbers."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.consistency import NAMES
from api.counting import ParkedCounts
from api.gateway import Resources
from api.metrics import exposition
from api.openapi import problems
from api.schemas import Alive, Check, Listing, Projection, Readiness
from eventstore.postgres import PostgresStore
from projections.status import status

T = TypeVar("T")

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
    """Whether the event store, the read store and Temporal can be reached, within a bounded time, and whether the read
    models have rows of this version. What is parked degrades it, but doesn't make it less ready.
    Who has none of the keys that there are isn't told what it is.
    """
    event_store, positions, temporal, failed = await asyncio.gather(
        _answer("event_store", _writable(gateway.store)),
        _answer("read_store", gateway.read_store.positions()),
        _answer("temporal", gateway.temporal.service_client.check_health(timeout=timedelta(seconds=_CHECK_SECONDS))),
        _answer("parked", _failed(gateway.parked)),
    )
    reached = {"event_store": event_store, "read_store": positions, "temporal": temporal}
    wrong: dict[str, Check] = {name: "unavailable" for name, answer in reached.items() if answer is None}
    if positions is not None:
        wrong |= {name: "building" for name in NAMES if name not in positions}
    response.status_code = 503 if wrong else 200
    checks: dict[str, Check] = dict.fromkeys(reached, "ok")
    checks |= {"parked": "unavailable"} if failed is None else dict.fromkeys(failed, "parked")
    checks.update(wrong)
    if request.state.stranger:
        checks = {}
    return Readiness(status="unavailable" if wrong else "ok" if failed == [] else "degraded", checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(gateway: Resources) -> Response:
    """The numbers of this process, and how far the read models are, for Prometheus."""
    return Response(await exposition(gateway), media_type=CONTENT_TYPE_LATEST)


@router.get("/projections", responses=problems())
async def list_projections(gateway: Resources) -> Listing[Projection]:
    """How far each read model has come; also one that is being built, and one that another version's has replaced."""
    builds = await status(gateway.read_store.pool, gateway.store)
    return Listing(items=[Projection.model_validate(build) for build in builds])


async def _answer(name: str, question: Awaitable[T]) -> T | None:
    """None if there is none. The reason goes to the log: it may name hosts and users."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await question
    except Exception as error:  # noqa: BLE001 - whatever it is, it isn't there
        log.warning("not_ready", check=name, reason=f"{type(error).__name__}: {error}")
        return None


async def _writable(store: PostgresStore) -> bool:
    if not await store.is_writable():
        raise ConnectionError("a standby: it takes no writes")
    return True


async def _failed(parked: ParkedCounts) -> list[str] | None:
    """Who has parked events that somebody has to see to; None if that isn't known."""
    counts = await parked.known()
    if counts is None:
        return None
    return [subscriber for subscriber, states in counts.items() if states.get("failed")]
