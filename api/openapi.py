"""What /docs says besides what the code says for itself: headers, problems and their examples."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import JsonValue

from api.auth import needed
from api.parameters import CONSISTENCY, EVENTUAL
from api.problems import MEDIA_TYPE, PROBLEMS, RETRIABLE, problem
from api.schemas import Accepted, Problem
from api.telemetry import REQUEST_ID

_SAMPLES: Mapping[str, JsonValue] = {
    "uuid": "1e0c1f0a-6c0d-5a4b-9c8e-3a5d1f2b7c90",
    "date-time": "2026-01-31T12:00:00Z",
    "integer": 1,
    "number": 1,
    "string": "text",
    "boolean": True,
    "null": None,
    "object": {},
}

Responses = dict[int | str, dict[str, Any]]

_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "Its version, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where it is.", "schema": {"type": "string"}},
    "Link": {"description": "The next page, if there is one.", "schema": {"type": "string"}},
    "Vary": {"schema": {"type": "string", "enum": ["Accept"]}},
    "Preference-Applied": {"schema": {"type": "string", "enum": ["respond-async"]}},
    REQUEST_ID: {
        "description": "What the log has it under: the caller's own, or a new one.",
        "schema": {"type": "string"},
    },
    "Allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}},
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
# What every route may answer with, before it has a say in it, or when something fails.
_ANY_TIME = (
    "malformed-request",
    "unauthorized",
    "forbidden",
    "not-found",
    "method-not-allowed",
    "request-timeout",
    "uri-too-long",
    "validation-failed",
    "headers-too-large",
    "too-many-requests",
    "internal-error",
    "unavailable",
)
_METHODS = frozenset({"get", "put", "post", "delete"})

WRITES = (
    "origin-not-allowed",
    "content-too-large",
    "unsupported-media-type",
    "idempotency-key-reused",
)
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
    for code in codes:
        status, _ = PROBLEMS[code]
        if status not in documented:
            schema = {"$ref": "#/components/schemas/Problem"}
            content = {MEDIA_TYPE: {"schema": schema, "examples": {}}}
            documented[status] = {"description": HTTPStatus(status).phrase, "content": content}
        documented[status]["content"][MEDIA_TYPE]["examples"][code] = {"value": _example(code)}
        if code == "method-not-allowed":
            documented[status].update(answers(status, "Allow")[status])
        if code in RETRIABLE:
            documented[status].update(answers(status, "Retry-After")[status])
        if code == "unauthorized":
            documented[status].update(answers(status, "WWW-Authenticate")[status])
    return documented


def describe(app: FastAPI, *, secured: bool) -> None:
    """Complete the app's OpenAPI document: the problems that are everywhere, their schema, examples of all answers, and
    what takes a key.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            if secured:
                _secure(document)
            schemas = document["components"]["schemas"]
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= {**schema.pop("$defs"), "Problem": schema}
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path in document["paths"].values():
                for method in _METHODS & path.keys():
                    _complete(path[method]["responses"], schemas)
                    for parameter in path[method].get("parameters", ()):
                        parameter["schema"] = _without_null(parameter["schema"])
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


def _complete(responses: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Add to one operation's answers what all have."""
    if "HTTPValidationError" in str(responses.get("422")):
        # FastAPI's own idea of a validation error, which no answer here is.
        del responses["422"]
    for status, everywhere in problems(*_ANY_TIME).items():
        own = responses.setdefault(str(status), everywhere)
        content = own.setdefault("content", {}).setdefault(MEDIA_TYPE, everywhere["content"][MEDIA_TYPE])
        content["examples"] = everywhere["content"][MEDIA_TYPE]["examples"] | content["examples"]
        own.setdefault("headers", {}).update(everywhere.get("headers", {}))
    for answer in responses.values():
        answer.setdefault("headers", {})[REQUEST_ID] = _HEADERS[REQUEST_ID]
        json = answer.get("content", {}).get("application/json")
        if json and json.get("schema") and "example" not in json and "examples" not in json:
            json["example"] = _sample(json["schema"], schemas)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which may be left out, but has no way to be null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return {**choices[0], **{key: schema[key] for key in schema if key != "anyOf"}} if len(choices) == 1 else schema


def _sample(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> JsonValue:
    """A value of this schema, made of the examples that its fields have."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for choices in ("examples", "enum"):
        if choices in schema:
            return schema[choices][0]
    if "anyOf" in schema:
        return _sample(schema["anyOf"][0], schemas)
    if "properties" in schema:
        return {name: _sample(field, schemas) for name, field in schema["properties"].items()}
    if "items" in schema:
        return [_sample(schema["items"], schemas)]
    return _SAMPLES[schema.get("format") or schema.get("type", "object")]


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
