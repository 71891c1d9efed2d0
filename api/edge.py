"""What every request has to keep before a route looks at it, and what every answer carries.

What could be read in two ways, by a proxy in front and by us, is read in none. What the server can't bound, because it
knows nothing of paths and bodies, is bounded here.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.problems import HttpProblem, MalformedRequest

SAFE: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer that has none of its own: it is data, and nobody's business but the caller's."""

HEAD_ONLY = "waybill.head_only"
"""In the scope of a request whose answer's body nobody will see: one without end must not be begun."""

# Lists by their nature: several lines mean the same as one (RFC 9110, section 5.3).
_LISTS = frozenset({b"accept", b"if-match", b"if-none-match", b"prefer"})
# What decides about the request: if there are two of it, whoever else reads them may take the other one.
_SINGLE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"origin",
        b"traceparent",
        b"transfer-encoding",
    }
)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Edge:
    """ASGI middleware around the routes. `max_body` is in bytes; `origins` may send writes from a browser."""

    def __init__(self, app: ASGIApp, *, max_body: int, origins: Sequence[str]) -> None:
        self._app = app
        self._max_body = max_body
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _protect(MutableHeaders(scope=message), reading=scope["method"] in {"GET", "HEAD"})
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            scope["headers"] = _one_line_each(scope["headers"])
            self._check(scope)
        except HttpProblem as refused:
            await problems.answer(refused.code, str(refused.detail))(scope, receive, guarded)
            return
        # Every GET is a HEAD without the body. The server has to go on knowing that it was one.
        inner = {**scope, "method": "GET", HEAD_ONLY: True} if head else scope
        try:
            await self._app(inner, self._bounded(receive), guarded)
        finally:
            scope["route"] = inner.get("route")

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        _check_target(scope)
        if scope["http_version"] not in {"1.0", "1.1"}:
            raise MalformedRequest("This is HTTP/1.1")
        if scope["http_version"] == "1.1" and not headers.get("host"):
            raise MalformedRequest("A Host header is needed")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpProblem("unsupported-media-type", "The body must not be compressed")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            raise self._too_large()
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _SAFE_METHODS and not self._is_trusted(origin, headers):
            raise HttpProblem("origin-not-allowed", "Pages of this origin may not write: see WAYBILL_CORS_ORIGINS")

    def _is_trusted(self, origin: str, headers: Headers) -> bool:
        # Without keys, any page that somebody looks at could otherwise post to a gateway on their machine.
        return origin in self._origins or origin.partition("://")[2] == headers.get("host")

    def _bounded(self, receive: Receive) -> Receive:
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> HttpProblem:
        return HttpProblem("content-too-large", f"A body may have {self._max_body} bytes")


def _one_line_each(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Lists in one line; raises MalformedRequest for two of what there may be one of."""
    merged: dict[bytes, bytes] = {}
    others: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name in _LISTS:
            merged[name] = merged[name] + b", " + value if name in merged else value
        elif name not in _SINGLE:
            others.append((name, value))
        elif name in merged:
            raise MalformedRequest(f"There may be one {name.decode().title()} header")
        else:
            merged[name] = value
    return [*merged.items(), *others]


def _check_target(scope: Scope) -> None:
    """Raises for a path or a query that isn't plain text in UTF-8, or that hides a slash."""
    try:
        path = unquote_to_bytes(scope.get("raw_path") or scope["path"]).decode()
        unquote_to_bytes(scope["query_string"]).decode()
    except UnicodeDecodeError:
        raise MalformedRequest("The path and the query have to be UTF-8") from None
    if b"%2f" in scope.get("raw_path", b"").lower() or "\\" in path or not path.isprintable():
        raise HttpProblem("not-found", "No such path")


def _protect(headers: MutableHeaders, *, reading: bool) -> None:
    if reading and "etag" in headers:
        # It may be kept, but has to be asked about each time.
        headers.setdefault("Cache-Control", "private, no-cache")
    for name, value in SAFE.items():
        headers.setdefault(name, value)
