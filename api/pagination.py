"""Keyset pages: a page goes on after the last item of the one before, wherever new items have come in meanwhile."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query, Request, Response

from domain.refusals import ValidationFailed, Violation

T = TypeVar("T")

# Said to readers; what it really has to be, only `decode` knows.
_CURSOR = {"pattern": "^[A-Za-z0-9_-]{11}$"}

Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
After = Annotated[
    str | None, Query(description="The page after this one: `next` of the page before.", json_schema_extra=_CURSOR)
]

MAX_POSITION = 2**63 - 1


def cut(
    request: Request, response: Response, found: Sequence[T], limit: int, cursor: Callable[[T], str]
) -> tuple[Sequence[T], str | None]:
    """The page and the cursor of the next one; None, and no Link header, on the last.

    `found` has one item more than `limit` if there is a next page.
    """
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    return page, link(request, response, cursor(page[-1]))


def link(request: Request, response: Response, following: str) -> str:
    """Say in the answer's headers where the next page is."""
    response.headers["Link"] = f'<{_reference(request, following)}>; rel="next"'
    return following


def following(request: Request, response: Response, end: int | None) -> str | None:
    """The cursor of the page that goes on before the position `end`; None, and no Link header, if there is none."""
    return None if end is None else link(request, response, encode(end))


def encode(position: int) -> str:
    """Opaque, so that nobody computes with it."""
    return urlsafe_b64encode(position.to_bytes(8)).rstrip(b"=").decode()


def decode(cursor: str | None) -> int | None:
    """The position that `encode` was given. Raises ValidationFailed for what it never gave."""
    if cursor is None:
        return None
    try:
        position = int.from_bytes(urlsafe_b64decode(cursor + "="))
    except (Error, ValueError):
        position = 0
    if not 0 < position <= MAX_POSITION or encode(position) != cursor:
        raise ValidationFailed.because(
            [Violation(pointer="/after", code="invalid-cursor", detail="must be the `next` of another page")]
        )
    return position


def _reference(request: Request, after: str) -> str:
    """Relative to the server: what a proxy calls it is not known here."""
    url = request.url.include_query_params(after=after)
    return f"{url.path}?{url.query}"
