"""Errors as application/problem+json (RFC 9457): one table says what each code is in HTTP.

A problem never quotes what the caller sent: it may be secret, huge, or not even encodable.
"""

import json
from collections.abc import Mapping

import asyncpg
import structlog
from fastapi import FastAPI, Request, Response
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from domain.refusals import Refusal
from eventstore.appender import UNAVAILABLE
from eventstore.codec import UndecodableEvent
from eventstore.store import StreamDeleted

log = structlog.get_logger(__name__)

PROBLEMS: Mapping[str, tuple[int, str]] = {
    "malformed-request": (400, "Malformed request"),
    "origin-not-allowed": (403, "Origin not allowed"),
    "unauthorized": (401, "Unauthorized"),
    "forbidden": (403, "Forbidden"),
    "not-found": (404, "Not found"),
    "order-not-found": (404, "Order not found"),
    "shipment-not-found": (404, "Shipment not found"),
    "parked-not-found": (404, "Nothing is parked there"),
    "method-not-allowed": (405, "Method not allowed"),
    "request-timeout": (408, "Request timeout"),
    "order-already-created": (409, "Order already created"),
    "order-already-completed": (409, "Order already completed"),
    "order-deleted": (409, "Order was deleted"),
    "order-number-taken": (409, "Order number already exist"),
    "products-blocked": (409, "Order contains blocked products"),
    "shipment-already-created": (409, "Shipment already created"),
    "shipment-already-completed": (409, "Shipment already completed"),
    "history-unreadable": (409, "History can't be read"),
    "precondition-failed": (412, "Precondition failed"),
    "content-too-large": (413, "Content too large"),
    "uri-too-long": (414, "URI too long"),
    "unsupported-media-type": (415, "Unsupported media type"),
    "validation-failed": (422, "Validation failed"),
    "idempotency-key-reused": (422, "Idempotency-Key reused"),
    "too-many-requests": (429, "Too many requests"),
    "headers-too-large": (431, "Headers too large"),
    "internal-error": (500, "Internal error"),
    "unavailable": (503, "Unavailable"),
}
"""Status and title of every code that there is."""

# What some path takes: the answer to OPTIONS *, which asks about the server as such.
_ALL_METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
RETRIABLE = frozenset({"too-many-requests", "unavailable"})


class HttpProblem(HTTPException):
    """What the gateway itself refuses; the domain has its Refusals."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(PROBLEMS[code][0], detail)
        self.code = code


class MalformedRequest(HttpProblem):
    def __init__(self, detail: str) -> None:
        super().__init__("malformed-request", detail)


class Unavailable(HttpProblem):
    def __init__(self, detail: str) -> None:
        super().__init__("unavailable", detail)


class TooManyRequests(HttpProblem):
    def __init__(self, detail: str) -> None:
        super().__init__("too-many-requests", detail)


def problem(code: str, detail: str, members: Mapping[str, JsonValue] | None = None) -> dict[str, JsonValue]:
    """The problem's document; `members` are those that this code has besides."""
    status, title = PROBLEMS[code]
    return {
        "type": f"/problems/{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **(members or {}),
    }


def answer(
    code: str,
    detail: str,
    members: Mapping[str, JsonValue] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem as an answer."""
    headers = dict(headers or {})
    if code in RETRIABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    # ASCII with escapes: a lone surrogate in a field's name has no UTF-8.
    body = json.dumps(problem(code, detail, members))
    return Response(body, PROBLEMS[code][0], headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make everything that is raised in a route a problem."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(StreamDeleted, _deleted)
    app.add_exception_handler(UndecodableEvent, _unreadable)
    # The read model's rows are not those of this version yet: /readyz says so.
    for kind in (*UNAVAILABLE, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        app.add_exception_handler(kind, _store_unavailable)


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return answer(refusal.code, refusal.message, refusal.details)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, HttpProblem):
        return answer(error.code, error.detail)
    if error.status_code == 405:
        allowed = {"Allow": ", ".join(_methods_of(request, error))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        return answer("method-not-allowed", "This path doesn't take that method", headers=allowed)
    if error.status_code == 404:
        if request.method == "OPTIONS" and request.scope["path"] == "*":
            return Response(status_code=204, headers={"Allow": _ALL_METHODS})
        return answer("not-found", "No such path")
    return answer("malformed-request", "The request can't be read")


def _methods_of(request: Request, error: HTTPException) -> list[str]:
    """The router names the methods of one route only; a path may have several."""
    app: FastAPI = request.app
    path = getattr(request.scope.get("route"), "path", "")
    documented = map(str.upper, app.openapi()["paths"].get(path, ()))
    methods = {*(error.headers or {}).get("Allow", "").split(", "), *documented}
    return sorted(({*methods, "HEAD"} if "GET" in methods else methods) | {"OPTIONS"})


async def _deleted(_request: Request, _error: Exception) -> Response:
    return answer("not-found", "Its events were deleted")


async def _unreadable(_request: Request, error: Exception) -> Response:
    return answer("history-unreadable", str(error))


async def _store_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("store.unavailable", error=type(error).__name__)
    return answer("unavailable", "A database can't be reached: try again")
