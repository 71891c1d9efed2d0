"""What a schema can't tell schemathesis about the API; and what it doesn't tell us: how much it has done of what."""

import atexit
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, HookContext, Response

# Requests by phase, `checks` and `failures`, for whoever has started the run.
_tally: Counter[str] = Counter()
if "FUZZ_TALLY" in os.environ:
    atexit.register(lambda: Path(os.environ["FUZZ_TALLY"]).write_text(json.dumps(_tally)))

_WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)

# "An e-mail address" is less than RFC 5322 allows: no quotes, no comments, no host without a dot.
schemathesis.openapi.format("email", st.builds("{}.{}@{}.example.com".format, _WORD, _WORD, _WORD))
# Any character that is seen, and not only spaces.
schemathesis.openapi.format(
    "printable",
    st.text(
        st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=64
    )
    .filter(str.strip)
    .filter(str.isprintable),
)

INEXPRESSIBLE: Mapping[str, str] = {
    "idempotency-key-reused": "what else was sent under the key is state, not shape; its status is 422 by contract",
    "invalid-cursor": "a cursor is opaque: only the gateway knows which it has given out",
    "ambiguous": "OpenAPI has no way to say that two parameters exclude each other",
    "too-many-digits": "JSON Schema counts no digits; and 9 * 0.001 is no multiple of 0.001 in floats",
    "too-long": "an address has limits for each of its parts, too",
}
"""Codes with which requests may be refused that the schema calls valid, and why it can't say so."""


_TAGS = re.compile(r'(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)')


@schemathesis.hook
def filter_failure(context: HookContext, failure: Any, case: Any, response: Any) -> bool:
    is_one = _is_failure(failure, case, response)
    _tally["failures"] += is_one
    return is_one


def _is_failure(failure: Any, case: Any, response: Any) -> bool:
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    # A slip of schemathesis 4.32: where it tries one header alone, it takes a value that it means to be wrong.
    tags = [value for name, value in case.headers.items() if name.lower() in {"if-match", "if-none-match"}]
    if not all(_TAGS.fullmatch(value) for value in tags):
        return False
    problem = response.json()
    codes = {problem["code"], *(error["code"] for error in problem.get("errors", ()))} - {"validation-failed"}
    return not codes <= INEXPRESSIBLE.keys()


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """A quantity that the schema allows, with as many digits as we allow: only so do orders come about."""
    order: dict[str, Any] = body if isinstance(body, dict) else {}
    items: list[Any] = order["items"] if isinstance(order.get("items"), list) else []
    for item in (order, *items):
        quantity: Any = item.get("quantity") if isinstance(item, dict) else None
        if type(quantity) in (int, float) and 0 < quantity < 10**12 and abs(quantity - round(quantity, 3)) < 1e-9:
            item["quantity"] = round(quantity % 10**9, 3) or 1
    return body


@schemathesis.hook
def before_call(context: HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """A live stream has no end: what is fuzzed is the page that the same route answers with."""
    _tally[case.meta.phase.name.value] += 1
    if case.path.endswith("/events"):
        case.headers["Accept"] = "application/json"


@schemathesis.check
def counted(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Passes: it says that this response was checked."""
    _tally["checks"] += 1
