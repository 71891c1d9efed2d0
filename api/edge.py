"""What every request has to keep before a route looks at it, and what every answer carries.

What could be read in two ways, by a proxy in front and by us, is read in none. What the server can't bound, because it
knows nothing of paths and bodies, is bounded here.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

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
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        reading = head or scope["method"] == "GET"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _protected(message["headers"], reading=reading)
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            given = dict(scope["headers"])
            if len(given) < len(scope["headers"]):
                scope["headers"] = _one_line_each(scope["headers"])
                given = dict(scope["headers"])
            self._check(scope, given)
        except HttpProblem as refused:
            await problems.answer(refused.code, str(refused.detail))(scope, receive, guarded)
            return
        # Every GET is a HEAD without the body. The server has to go on knowing that it was one.
        inner = {**scope, "method": "GET", HEAD_ONLY: True} if head else scope
        try:
            await self._app(inner, self._bounded(receive), guarded)
        finally:
            scope["route"] = inner.get("route")

    def _check(self, scope: Scope, given: Mapping[bytes, bytes]) -> None:
        _check_target(scope)
        if scope["http_version"] not in {"1.0", "1.1"}:
            raise MalformedRequest("This is HTTP/1.1")
        if scope["http_version"] == "1.1" and not given.get(b"host"):
            raise MalformedRequest("A Host header is needed")
        if given.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HttpProblem("unsupported-media-type", "The body must not be compressed")
        length = given.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._max_body:
            raise self._too_large()
        if b"origin" in given and scope["method"] not in _SAFE_METHODS and not self._is_trusted(given):
            raise HttpProblem("origin-not-allowed", "Pages of this origin may not write: see WAYBILL_CORS_ORIGINS")

    def _is_trusted(self, given: Mapping[bytes, bytes]) -> bool:
        # Without keys, any page that somebody looks at could otherwise post to a gateway on their machine.
        origin = given[b"origin"]
        return origin in self._origins or origin.partition(b"://")[2] == given.get(b"host")

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


def _encoded(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


_OF_DATA = _encoded(SAFE)
# It may be kept, but has to be asked about each time.
_OF_VERSIONS = _encoded({**SAFE, "Cache-Control": "private, no-cache"})


def _protected(headers: Sequence[tuple[bytes, bytes]], *, reading: bool) -> list[tuple[bytes, bytes]]:
    own = {name for name, _ in headers}
    safe = _OF_VERSIONS if reading and b"etag" in own else _OF_DATA
    return [*headers, *(each for each in safe if each[0] not in own)]
