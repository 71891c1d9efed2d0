"""Errors as application/problem+json (RFC 9457): one table says what each code is in HTTP.

A problem never quotes what the caller sent: it may be secret, huge, or not even encodable.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from pydantic import JsonValue
from starlette.exceptions import HTTPException

from domain.refusals import Refusal
from eventstore.appender import UNAVAILABLE

log = structlog.get_logger(__name__)

PROBLEMS: Mapping[str, tuple[int, str]] = {
    "malformed-request": (400, "The request can't be read"),
    "unauthorized": (401, "Who are you?"),
    "not-found": (404, "There is nothing here"),
    "order-not-found": (404, "Order not found"),
    "shipment-not-found": (404, "Shipment not found"),
    "method-not-allowed": (405, "That can't be done here"),
    "order-already-created": (409, "Order already created"),
    "order-already-completed": (409, "Order already completed"),
    "order-deleted": (409, "Order was deleted"),
    "order-number-taken": (409, "Order number already exist"),
    "products-blocked": (409, "Order contains blocked products"),
    "shipment-already-created": (409, "Shipment already created"),
    "shipment-already-completed": (409, "Shipment already completed"),
    "precondition-failed": (412, "It has changed"),
    "unsupported-media-type": (415, "The body has to be application/json"),
    "validation-failed": (422, "Rules are broken"),
    "idempotency-key-reused": (422, "The Idempotency-Key belongs to another request"),
    "too-many-requests": (429, "Too many requests"),
    "internal-error": (500, "Something is wrong here"),
    "unavailable": (503, "Not available at the moment"),
}
"""Status and title of every code that there is."""

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
_RETRIABLE = ("too-many-requests", "unavailable")
_CODE_OF_STATUS = {404: "not-found", 405: "method-not-allowed", 415: "unsupported-media-type"}


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
    if code in _RETRIABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    # ASCII with escapes: a lone surrogate in a field's name has no UTF-8.
    body = json.dumps(problem(code, detail, members))
    return Response(body, PROBLEMS[code][0], headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make everything that is raised in a route a problem."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, _store_unavailable)


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for its OpenAPI description. Every route may be out of order or unavailable."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in (*codes, "internal-error", "unavailable"):
        status, _ = PROBLEMS[code]
        if status not in by_status:
            schema = {"$ref": "#/components/schemas/Problem"}
            content = {MEDIA_TYPE: {"schema": schema, "examples": {}}}
            by_status[status] = {"description": HTTPStatus(status).phrase, "content": content}
        by_status[status]["content"][MEDIA_TYPE]["examples"][code] = {"value": _example(code)}
        if code in _RETRIABLE:
            header = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            by_status[status]["headers"] = {"Retry-After": header}
    return by_status


def _example(code: str) -> dict[str, JsonValue]:
    match code:
        case "validation-failed":
            pointer, detail = "/items/0/quantity", "must be a number greater than 0"
            errors: list[JsonValue] = [{"pointer": pointer, "code": "invalid-number", "detail": detail}]
            return problem(code, f"{pointer} {detail}", {"errors": errors})
        case "products-blocked":
            product_id = "55e76be0-b83e-4b3c-addd-f3d9e8835be2"
            return problem(code, f"Order contains blocked products: {product_id}", {"product_ids": [product_id]})
        case "precondition-failed":
            return problem(code, "It is at version 3, not 2: read it again, then decide anew", {"version": 3})
        case _:
            return problem(code, PROBLEMS[code][1])


async def _refused(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return answer(refusal.code, refusal.message, refusal.details)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, HttpProblem):
        return answer(error.code, error.detail)
    code = _CODE_OF_STATUS.get(error.status_code, "malformed-request")
    return answer(code, PROBLEMS[code][1], headers=error.headers)


async def _store_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("store.unavailable", error=type(error).__name__)
    return answer("unavailable", "A database can't be reached: try again")
