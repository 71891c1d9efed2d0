"""Who may do what. It is asked before there is a route, so that no route can forget to ask: what isn't open is closed.

Without keys everybody may do everything, which is why a gateway without keys listens on loopback only.
"""

import ipaddress
from collections.abc import Sequence
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api import problems
from api.keys import ApiKey, Scope, digest
from domain.commands import CommandRequest

ANONYMOUS: str = CommandRequest.model_fields["actor"].default

OPEN = ("/livez", "/readyz", "/docs", "/openapi.json", "/static-offline-docs", "/problems")
"""Paths, with all below them, that need no key: what load balancers ask for, and what is the same for everybody."""
ADMIN = ("/blocked-products", "/parked", "/projections")
"""What is there for all orders: to change it takes more than to write orders."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request takes; None if it takes no key."""
    if _is_below(OPEN, path):
        return None
    if method in _READING:
        return "read"
    return "admin" if _is_below(ADMIN, path) else "write"


class Authentication:
    """ASGI middleware. Puts into the request's state the `actor`, and whether it is a `stranger`."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[ApiKey]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = self._known(Headers(scope=scope).get("Authorization", ""))
        state = scope.setdefault("state", {})
        state["actor"] = key.id if key else ANONYMOUS
        state["stranger"] = bool(self._keys) and key is None
        wanted = needed(scope["method"], scope["path"]) if self._keys else None
        if wanted is None or (key and key.allows(wanted)):
            await self._app(scope, receive, send)
        elif key is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="waybill"'}
            detail = "A key is needed, and has to be a valid one: Authorization: Bearer <key>"
            await problems.answer("unauthorized", detail, headers=challenge)(scope, receive, send)
        else:
            challenge = {"WWW-Authenticate": f'Bearer realm="waybill", error="insufficient_scope", scope="{wanted}"'}
            detail = f"This takes a key with the scope {wanted}"
            await problems.answer("forbidden", detail, headers=challenge)(scope, receive, send)

    def _known(self, authorization: str) -> ApiKey | None:
        scheme, _, presented = authorization.partition(" ")
        return find_key(self._keys, presented.strip()) if scheme.lower() == "bearer" else None


def find_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """What is known of the key that somebody presents."""
    hashed = digest(presented)
    # All are compared, each in the same time: how long it takes says nothing of how near a guess was.
    known = [key for key in keys if compare_digest(key.digest, hashed)]
    return known[0] if known else None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach what listens on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_below(paths: Sequence[str], path: str) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in paths)
