"""The codec server: shows encrypted payloads in clear to Temporal's Web UI and command line, for whoever may see them.

Both send what Temporal keeps, as JSON, to /decode (the command line also to /encode). The keys stay here.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvicorn
from google.protobuf import json_format
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads

from api import problems
from api.auth import find_key, is_loopback
from api.edge import Edge
from api.keys import ApiKey, Scope
from api.problems import HttpProblem, MalformedRequest
from api.server import strict_protocol
from observability import configure_logging
from settings import Settings, SettingsError
from workflows.encryption import Encryption, UnreadablePayload

log = structlog.get_logger(__name__)

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="waybill", charset="UTF-8"'}
_BODY = TypeAdapter(dict[str, Any])
_MAX_BODY = 64 * 1024 * 1024
"""A page of a history, in base64."""


def create_app(settings: Settings) -> Starlette:
    """The codec server as an ASGI application. Pages of WAYBILL_TEMPORAL_UI_URL may use it, with credentials."""
    codec = Encryption(settings.payload_keys, settings.payload_key)
    ui = urlsplit(settings.temporal_ui_url)
    origins = (f"{ui.scheme}://{ui.netloc}", *settings.cors_origins)
    return Starlette(
        routes=[
            Route("/livez", _alive, methods=["GET"]),
            _conversion("/decode", codec.decode, settings.api_keys, "read"),
            _conversion("/encode", codec.encode, settings.api_keys, "write"),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["POST"],
                allow_headers=["Authorization", "Content-Type", "X-Namespace"],
                allow_credentials=True,
            ),
            Middleware(Edge, max_body=_MAX_BODY, origins=origins),
        ],
        exception_handlers={HttpProblem: _refused},
    )


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. Raises SettingsError without keys, or if strangers could reach it."""
    if not settings.payload_keys:
        raise SettingsError("WAYBILL_PAYLOAD_KEYS has to be set: there is nothing to decode without them")
    if not settings.api_keys and not is_loopback(host):
        raise SettingsError(
            f"WAYBILL_API_KEYS has to be set, because {host!r} is not loopback: "
            "`waybill api-key new ID --scope read` makes a key"
        )
    configure_logging(settings.log_level, settings.log_format)
    config = uvicorn.Config(
        create_app(settings),
        host=host,
        port=port,
        loop="uvloop",
        http=strict_protocol(settings.model_copy(update={"max_body": _MAX_BODY})),
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()


def _conversion(
    path: str, convert: Callable[[Sequence[Payload]], Awaitable[list[Payload]]], keys: Sequence[ApiKey], scope: Scope
) -> Route:
    async def endpoint(request: Request) -> Response:
        _authorize(request, keys, scope)
        try:
            payloads = json_format.ParseDict(_BODY.validate_json(await request.body()), Payloads()).payloads
        except (ValidationError, json_format.ParseError):
            raise MalformedRequest('The body has to be {"payloads": [...]}, as Temporal sends it') from None
        try:
            converted = await convert(payloads)
        except UnreadablePayload as unreadable:
            log.warning("codec.unreadable", reason=str(unreadable))
            raise MalformedRequest(f"This can't be decoded: {unreadable}") from None
        return JSONResponse(json_format.MessageToDict(Payloads(payloads=converted)))

    return Route(path, endpoint, methods=["POST"])


def _authorize(request: Request, keys: Sequence[ApiKey], scope: Scope) -> None:
    """A browser sends what it was told in its own dialogue: there, the key is the password, for any name."""
    if not keys:
        return
    key = find_key(keys, _presented(request.headers.get("Authorization", "")))
    if key is None:
        raise HttpProblem("unauthorized", "A key is needed: as a bearer token, or as the password of any user")
    if not key.allows(scope):
        raise HttpProblem("forbidden", f"This takes a key with the scope {scope}")


def _presented(authorization: str) -> str:
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        case _:
            pass
    return ""


async def _alive(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _refused(_: Request, refused: Exception) -> Response:
    assert isinstance(refused, HttpProblem)
    headers = _CHALLENGE if refused.code == "unauthorized" else None
    return problems.answer(refused.code, str(refused.detail), headers=headers)
