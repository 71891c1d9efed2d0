"""Every request has an id, is counted and timed, and ends in an answer, whatever goes wrong."""

import re
import time
from collections.abc import Mapping
from functools import cache
from uuid import uuid4

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api import problems
from api.edge import SAFE

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
_REQUEST_ID = REQUEST_ID.lower().encode()
_GIVEN_ID = re.compile(rb"[\x21-\x7e]{1,64}")
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_LABELS = ("method", "route", "status")
REQUESTS = Counter("waybill_http_requests", "Requests answered.", _LABELS)
SECONDS = Histogram(
    "waybill_http_request_seconds", "From a request's first line to its answer's end, or a stream's begin.", _LABELS[:2]
)


class Telemetry:
    """ASGI middleware around the routes, inside of the server's last resort, which would drop the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        request_id = _request_id(given)
        scope.setdefault("state", {}).update(request_id=request_id, traceparent=_traceparent(given))
        status = 0
        started = time.perf_counter()
        answered = None

        async def watched(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = headers = [*message["headers"], (_REQUEST_ID, request_id.encode())]
                # A live stream's end says nothing of how quick we are.
                if dict(headers).get(b"content-type", b"").startswith(b"text/event-stream"):
                    answered = time.perf_counter()
            await send(message)

        try:
            with bound_contextvars(request_id=request_id):
                await self._app(scope, receive, watched)
        except Exception:
            log.exception("request.failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if status:
                raise
            detail = "It is our fault, and in the log under request_id"
            fault = problems.answer("internal-error", detail, {"request_id": request_id}, SAFE)
            await fault(scope, receive, watched)
        finally:
            _count(scope, status, (answered or time.perf_counter()) - started)


def _request_id(given: Mapping[bytes, bytes]) -> str:
    request_id = given.get(_REQUEST_ID, b"")
    return request_id.decode() if _GIVEN_ID.fullmatch(request_id) else uuid4().hex


def _traceparent(given: Mapping[bytes, bytes]) -> str:
    """Of W3C Trace Context, if the caller has sent one that is well-formed; otherwise it doesn't count."""
    traceparent = given.get(b"traceparent", b"")
    return traceparent.decode() if _TRACEPARENT.fullmatch(traceparent) else ""


def _count(scope: Scope, status: int, seconds: float) -> None:
    # The route's template, never the path itself: there are as many paths as orders.
    route = getattr(scope.get("route"), "path", "none")
    _requests(scope["method"], route, status).inc()
    _seconds(scope["method"], route).observe(seconds)


# Looking for what counts takes longer than counting.
_requests = cache(REQUESTS.labels)
_seconds = cache(SECONDS.labels)
