"""All broken rules of a command at once, each with its JSON pointer and the contract's message."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
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
    """Pydantic's errors in the contract's words. The offending values stay out: they may be secret, or huge."""
    return [_violation(model, error) for error in errors]


def pointer(path: Sequence[int | str]) -> str:
    """The RFC 6901 pointer to `path`; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


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
    "literal_error": ("unknown-choice", 'must be one of ["KG", "MT"]'),
    "list_type": ("invalid-list", "must be a valid list"),
    "tuple_type": ("invalid-list", "must be a valid list"),
    "too_short": ("invalid-list", "must be a valid list of at least {min_length} item"),
    "too_long": ("too-long", "must be a valid list of at most {max_length} items"),
    "model_type": ("invalid-object", "must be a valid object"),
    "model_attributes_type": ("invalid-object", "must be a valid object"),
    "dict_type": ("invalid-object", "must be a valid object"),
    "json_invalid": ("malformed", "must be valid JSON"),
}


def _violation(model: type[BaseModel] | None, error: Mapping[str, Any]) -> Violation:
    path: Sequence[int | str] = error["loc"]
    kind: str = error["type"]
    if kind == "extra_forbidden":
        return Violation(pointer=pointer(path), code="unknown-field", detail=_unknown_field(model, path))
    # An e-mail address that is no text is no valid e-mail address either.
    if kind.startswith("string_") and path and path[-1] == "business_partner":
        kind = "value_error"
    if kind not in _RULES:
        return Violation(pointer=pointer(path), code="invalid", detail=str(error["msg"]))
    code, detail = _RULES[kind]
    return Violation(pointer=pointer(path), code=code, detail=detail.format_map(error.get("ctx") or {}))


def _unknown_field(model: type[BaseModel] | None, path: Sequence[int | str]) -> str:
    known = list(_fields_at(model, path[:-1])) if model else []
    near = get_close_matches(str(path[-1]), known, n=1)
    if near:
        return f"is not a known field; did you mean {near[0]}?"
    return f"is not a known field; known are {', '.join(known)}" if known else "is not a known field"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Iterable[str]:
    """The fields of the model that `path` leads to, through tuples of models."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        inner = [arg for arg in getattr(annotation, "__args__", ()) if isinstance(arg, type)]
        model = next((arg for arg in inner if issubclass(arg, BaseModel)), model)
    return model.model_fields
