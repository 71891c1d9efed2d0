"""Every request has an id, is counted, timed and traced, and ends in an answer, whatever goes wrong."""

import re
import time
from collections.abc import Mapping
from functools import cache
from uuid import uuid4

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

import tracing
from api import problems
from api.edge import SAFE

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
_REQUEST_ID = REQUEST_ID.lower().encode()
_GIVEN_ID = re.compile(rb"[\x21-\x7e]{1,64}")
# Asked for every few seconds, by machines: nobody wants to see that.
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})

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
        request_id, traceparent = _request_id(given), _traceparent(given)
        span = tracing.NO_SPAN
        if tracing.is_on() and scope["path"] not in _UNTRACED:
            span = tracing.root(scope["method"], traceparent)
            traceparent = span.traceparent
        scope.setdefault("state", {}).update(request_id=request_id, traceparent=traceparent)
        with bound_contextvars(request_id=request_id), tracing.within(span):
            await self._answered(scope, receive, send, span)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, span: tracing.Span) -> None:
        request_id: str = scope["state"]["request_id"]
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
                    _tell(span, scope, status)
                    span.end()
            await send(message)

        try:
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
            _tell(span, scope, status)


def _request_id(given: Mapping[bytes, bytes]) -> str:
    request_id = given.get(_REQUEST_ID, b"")
    return request_id.decode() if _GIVEN_ID.fullmatch(request_id) else uuid4().hex


def _traceparent(given: Mapping[bytes, bytes]) -> str:
    """Of W3C Trace Context, if the caller has sent one that is well-formed; otherwise it doesn't count."""
    traceparent = given.get(b"traceparent", b"").decode("latin-1")
    return traceparent if tracing.TRACEPARENT.fullmatch(traceparent) else ""


def _route(scope: Scope) -> str:
    """Its template, never the path itself: there are as many paths as orders, and anybody may make up more."""
    return getattr(scope.get("route"), "path", "none")


def _tell(span: tracing.Span, scope: Scope, status: int) -> None:
    if span is tracing.NO_SPAN:
        return
    method, route = scope["method"], _route(scope)
    about = {"http.request.method": method, "http.route": route, "http.response.status_code": status}
    span.tell(about, name=f"{method} {route}")
    if status >= 500 or not status:
        span.failed(str(status))


def _count(scope: Scope, status: int, seconds: float) -> None:
    route = _route(scope)
    _requests(scope["method"], route, status).inc()
    _seconds(scope["method"], route).observe(seconds)


# Looking for what counts takes longer than counting.
_requests = cache(REQUESTS.labels)
_seconds = cache(SECONDS.labels)
