"""What /docs says besides what the code says for itself: headers, problems and their examples."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import JsonValue

from api.auth import needed
from api.parameters import CONSISTENCY, EVENTUAL
from api.problems import MEDIA_TYPE, PROBLEMS, RETRIABLE, problem
from api.schemas import Accepted, Problem

Responses = dict[int | str, dict[str, Any]]

_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "Its version, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where it is.", "schema": {"type": "string"}},
    "Link": {"description": "The next page, if there is one.", "schema": {"type": "string"}},
    "Vary": {"schema": {"type": "string", "enum": ["Accept"]}},
    "Preference-Applied": {"schema": {"type": "string", "enum": ["respond-async"]}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
    CONSISTENCY: {
        "description": f"`{EVENTUAL}`: the read models had not come to the position within the bound.",
        "schema": {"type": "string", "enum": [EVENTUAL]},
    },
}
_STREAM_EXAMPLE = """\
retry: 1000
id: 6

id: 7
event: Order.OrderCompleted
data: {"event_id": "...", "type": "Order.OrderCompleted", "version": 2, "position": 7, "data": {...}, ...}

:

"""
_ANY_TIME = ("unauthorized", "forbidden", "too-many-requests", "internal-error", "unavailable")

WRITES = ("malformed-request", "idempotency-key-reused")
"""The problems that every write may have."""


def answers(status: int, *headers: str) -> Responses:
    """An answer's headers."""
    return {status: {"headers": {name: _HEADERS[name] for name in headers}}}


LIVE: Responses = {
    200: {
        "description": "A page; with `Accept: text/event-stream` server-sent events: `id` goes into `Last-Event-ID`, "
        "`event` is the type, `data` the event as in a page, and a comment comes when nothing else does.",
        "headers": {name: _HEADERS[name] for name in ("Link", "Vary")},
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}},
    }
}
"""The answer of routes that have events, in pages or live."""


def accepted() -> Responses:
    """The answer to a caller who doesn't want to wait."""
    return {
        202: {
            "model": Accepted,
            "description": "It will be done (`Prefer: respond-async`).",
            **answers(202, "Location", "Preference-Applied")[202],
        }
    }


def problems(*codes: str) -> Responses:
    """The problems that a route may answer with, besides those that every route may."""
    documented: Responses = {}
    for code in (*codes, *_ANY_TIME):
        status, _ = PROBLEMS[code]
        if status not in documented:
            schema = {"$ref": "#/components/schemas/Problem"}
            content = {MEDIA_TYPE: {"schema": schema, "examples": {}}}
            documented[status] = {"description": HTTPStatus(status).phrase, "content": content}
        documented[status]["content"][MEDIA_TYPE]["examples"][code] = {"value": _example(code)}
        if code in RETRIABLE:
            documented[status].update(answers(status, "Retry-After")[status])
        if code == "unauthorized":
            documented[status].update(answers(status, "WWW-Authenticate")[status])
    return documented


def describe(app: FastAPI, *, secured: bool) -> None:
    """Let the app's OpenAPI document have the schema that the problems refer to, and what keys are needed for."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            if secured:
                _secure(document)
            schemas = document["components"]["schemas"]
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= {**schema.pop("$defs"), "Problem": schema}
        return generate()

    app.openapi = openapi


def _secure(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scope = needed(method.upper(), path)
            operation["security"] = [{"key": []}] if scope else []
            if scope:
                operation["description"] = f"{operation.get('description', '')}\n\nA key's scope: `{scope}`.".strip()


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
