"""All broken rules of a command at once, each with its JSON pointer and the contract's message."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from domain.refusals import ValidationFailed, Violation

M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], data: Mapping[str, Any]) -> M:
    """The command in `data`. Raises ValidationFailed with every rule that it breaks."""
    try:
        return model.model_validate(dict(data))
    except ValidationError as invalid:
        raise ValidationFailed.because(violations(model, invalid.errors(include_url=False))) from None


def violations(model: type[BaseModel] | None, errors: Iterable[Mapping[str, Any]]) -> list[Violation]:
    """Pydantic's errors in the contract's words. The offending values stay out: they may be secret, or huge.

    Of more than 5,000, which no command has that was meant as one, the first 5,000.
    """
    return [_violation(model, error) for error in islice(errors, _MOST)]


def pointer(path: Sequence[int | str]) -> str:
    """The RFC 6901 pointer to `path`; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def unknown_field(name: str, known: Collection[str]) -> str:
    """What is said of a field that nobody declared: which one may be meant, or which ones there are."""
    near = get_close_matches(name, known, n=1) if len(name) <= _LONGEST_NAME else []
    if near:
        return f"is not a known field; did you mean {near[0]}?"
    return f"is not a known field; known are {', '.join(known)}" if known else "is not a known field"


_MOST = 5000
_LONGEST_NAME = 64

# What pydantic calls it -> the stable code and the message of the contract.
_RULES: dict[str, tuple[str, str]] = {
    "missing": ("missing", "must be present"),
    "uuid": ("invalid-uuid", "must be a valid UUID string"),
    "number": ("invalid-number", "must be a number greater than 0"),
    "digits": ("too-many-digits", "must have at most 12 digits, 3 of them decimals"),
    "string": ("invalid-string", "must be a valid string"),
    "string_type": ("invalid-string", "must be a valid string"),
    "string_too_short": ("invalid-string", "must be a valid string"),
    "string_too_long": ("too-long", "must be a valid string of at most {max_length} characters"),
    "string_unicode": ("invalid-string", "must be a valid string"),
    "value_error": ("invalid-email", "must be a valid email"),
    "literal_error": ("unknown-choice", "must be one of {choices}"),
    "enum": ("unknown-choice", "must be one of {choices}"),
    "timezone_aware": ("invalid-moment", "must be a moment with its offset, such as 2026-01-31T12:00:00Z"),
    "list_type": ("invalid-list", "must be a valid list"),
    "tuple_type": ("invalid-list", "must be a valid list"),
    "too_short": ("invalid-list", "must be a valid list of at least {min_length} item"),
    "too_long": ("too-long", "must be a valid list of at most {max_length} items"),
    "model_type": ("invalid-object", "must be a valid object"),
    "model_attributes_type": ("invalid-object", "must be a valid object"),
    "dict_type": ("invalid-object", "must be a valid object"),
    "int_type": ("invalid-number", "must be a whole number"),
    "int_parsing": ("invalid-number", "must be a whole number"),
    "int_parsing_size": ("invalid-number", "must be a whole number"),
    "greater_than_equal": ("out-of-range", "must be at least {ge}"),
    "less_than_equal": ("out-of-range", "must be at most {le}"),
    "json_invalid": ("malformed", "must be valid JSON"),
}


def _violation(model: type[BaseModel] | None, error: Mapping[str, Any]) -> Violation:
    path: Sequence[int | str] = error["loc"]
    kind: str = error["type"]
    if kind == "extra_forbidden":
        name, known = str(path[-1]), list(_fields_at(model, path[:-1])) if model else []
        # A name that is none is the caller's text like any other: where it stands is all that is said.
        where = path if len(name) <= _LONGEST_NAME and name.isprintable() else path[:-1]
        return Violation(pointer=pointer(where), code="unknown-field", detail=unknown_field(name, known))
    if kind.startswith("datetime_"):
        kind = "timezone_aware"
    # An e-mail address that is no text is no valid e-mail address either.
    if kind.startswith("string_") and path and path[-1] == "business_partner":
        kind = "value_error"
    if kind not in _RULES:
        # A rule of our own has its name and its words with it.
        return Violation(pointer=pointer(path), code=kind.replace("_", "-"), detail=str(error["msg"]))
    code, detail = _RULES[kind]
    context: dict[str, Any] = dict(error.get("ctx") or {})
    if "expected" in context:
        context["choices"] = json.dumps(re.findall(r"'([^']*)'", context["expected"]))
    return Violation(pointer=pointer(path), code=code, detail=detail.format_map(context))


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Iterable[str]:
    """The fields of the model that `path` leads to, through tuples of models."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        inner = [arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type)]
        model = next((arg for arg in inner if issubclass(arg, BaseModel)), model)
    return model.model_fields
