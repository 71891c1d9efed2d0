"""What each problem is and what helps: where the `type` of a problem leads, for people and for programs."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.problems import PROBLEMS, HttpProblem
from api.route import Route
from api.schemas import Listing, ProblemPage

router = APIRouter(prefix="/problems", tags=["problems"], route_class=Route)

HELP: Mapping[str, str] = {
    "malformed-request": "The request isn't what HTTP or JSON ask for, or could be read in two ways: a key twice, NaN, "
    "bytes that aren't UTF-8, a header that can't be read. `detail` says which. Sending it again won't help.",
    "unauthorized": "The gateway asks for a key: send `Authorization: Bearer <key>`.",
    "forbidden": "The key is known, but may not do this. Use one with the scope that `detail` names.",
    "origin-not-allowed": "A browser sent this write for a page of another origin. If that page is yours, add its "
    "origin to WAYBILL_CORS_ORIGINS.",
    "not-found": "There is nothing at this path. Paths have no slash at their end.",
    "order-not-found": "There is no such order, or there isn't one yet. Right after a write, ask with `min_position`.",
    "shipment-not-found": "There is no such shipment, or there isn't one yet: an order gets its own when completed.",
    "parked-not-found": "Nothing is parked there: it may have been retried or discarded meanwhile.",
    "method-not-allowed": "The path exists, but doesn't take this method: the header `Allow` names those it takes.",
    "request-timeout": "The request did not come completely within the time that the gateway gives it, so nothing was "
    "done. Send it again, over a better line.",
    "order-already-created": "There is an order with this id. If it was you who created it: with an `Idempotency-Key` "
    "the same request gets the first answer again.",
    "order-already-completed": "A completed order doesn't change any more.",
    "order-deleted": "The order was deleted. Its id isn't used again; its number may be.",
    "order-number-taken": "Another order has this number. Choose another one, or delete that order while it is open.",
    "products-blocked": "The order has products that must not be sold: `product_ids`. Have them unblocked "
    "(DELETE /blocked-products/{id}), or delete the order.",
    "shipment-already-created": "The order has its shipment already.",
    "shipment-already-completed": "The shipment has gone out already: nothing is left to do.",
    "history-unreadable": "One of the recorded events can't be read, so nobody can decide what may come next. `detail` "
    "names it; an operator has to look.",
    "precondition-failed": "It has changed since you read it: `version` says where it is now. Read it again, decide "
    "anew, and send the new ETag.",
    "content-too-large": "The body has more bytes than the gateway takes (WAYBILL_MAX_BODY). Nothing was done.",
    "uri-too-long": "The path with its query has more bytes than the gateway takes.",
    "unsupported-media-type": "A body is JSON: `Content-Type: application/json`, in UTF-8, not compressed.",
    "validation-failed": "The request can be read, but breaks rules. `errors` has all of them, each with an RFC 6901 "
    "pointer into the body, or with / and the name of a parameter. It may be mended under the same Idempotency-Key.",
    "idempotency-key-reused": "This key was sent with another request before. A key names one request, for ever: take "
    "a new one.",
    "too-many-requests": "More is going on than the gateway takes at a time. Nothing was done: wait for `Retry-After` "
    "seconds, then send it again.",
    "headers-too-large": "The headers are more, or have more bytes, than the gateway takes.",
    "internal-error": "A fault of ours. The log has it under `request_id`: tell an operator.",
    "unavailable": "Something that is needed for this isn't there at the moment. If it was a write, nobody knows "
    "whether it was done: send it again with the same Idempotency-Key after `Retry-After` seconds.",
}

_STYLE = "body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}code{font-size:.95em}"
_CSP = (
    "default-src 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


@router.get("", response_model=Listing[ProblemPage])
async def list_problems(request: Request) -> Response:
    """Every problem that an answer may be, for people (`Accept: text/html`) or as JSON."""
    pages = [_page(code) for code in PROBLEMS]
    rows = "".join(
        f'<li><a href="/problems/{page.code}"><code>{page.code}</code></a> {page.status} {escape(page.title)}</li>'
        for page in pages
    )
    return _shown(request, Listing(items=pages), "Problems", f"<ul>{rows}</ul>")


@router.get("/{code}", response_model=ProblemPage)
async def read_problem(
    code: Annotated[str, Path(description="The problem's code.", examples=["validation-failed"])], request: Request
) -> Response:
    """What a problem is, and what helps: the `type` of a problem leads here."""
    if code not in PROBLEMS:
        raise HttpProblem("not-found", "There is no such problem; GET /problems lists them")
    page = _page(code)
    text = f"<p>Status {page.status}, code <code>{page.code}</code></p><p>{escape(page.help)}</p>"
    return _shown(request, page, page.title, f'{text}<p><a href="/problems">All problems</a></p>')


def _page(code: str) -> ProblemPage:
    status, title = PROBLEMS[code]
    return ProblemPage(type=f"/problems/{code}", code=code, status=status, title=title, help=HELP[code])


def _shown(request: Request, page: ProblemPage | Listing[ProblemPage], title: str, content: str) -> Response:
    """As HTML for those who ask for it by name, as browsers do; as JSON for everybody else."""
    kept = {"Cache-Control": "public, max-age=3600", "Vary": "Accept"}
    if "text/html" not in request.headers.get("accept", ""):
        return Response(page.model_dump_json(), headers=kept, media_type="application/json")
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)} - Waybill</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{content}</html>"
    )
    return Response(html, headers=kept | {"Content-Security-Policy": _CSP}, media_type="text/html")
