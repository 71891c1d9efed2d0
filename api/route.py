"""How requests are read: queries and JSON to the letter, and what breaks a rule is told in the contract's words.

json.loads alone would drop duplicate keys, take NaN, and round decimals; a query's number could be written in a dozen
ways; and what a route doesn't know, be it a parameter or a body, would be dropped in silence.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from decimal import Decimal
from typing import Any, NoReturn, cast, get_args, get_origin

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import AwareDatetime, BaseModel
from starlette.types import Receive, Scope, Send

from api.problems import HttpProblem, MalformedRequest
from domain.refusals import ValidationFailed, Violation
from domain.validation import pointer, unknown_field, violations

_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_FORMS: Mapping[Any, tuple[re.Pattern[str], str, str]] = {
    int: (_WHOLE_NUMBER, "invalid-number", "must be a whole number"),
    AwareDatetime: (_MOMENT, "invalid-moment", "must be a moment with its offset, such as 2026-01-31T12:00:00Z"),
}
"""How a parameter is written whose type could be read from other texts, too."""


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route whose query and body are read strictly, and whose validation errors are the domain's."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._in_short = _in_short(self)
        # FastAPI leaves it open whether a header's name is written in its way or in Python's.
        self._headers = {field.alias.replace("_", "-").lower().encode() for field in self.dependant.header_params}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_short and scope["method"] == "GET" and not self._asks(scope):
            request = Request(scope, receive, send)
            async with asyncio.timeout(_patience(request)):
                answer = await self._in_short(request)
            await answer(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        model = _model(self)
        parameters = dict(_query_parameters(self.dependant))
        takes_nothing = model is None and not {"GET", "HEAD"} & set(self.methods or ())

        async def handle_strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                _check_query(request, parameters)
            if takes_nothing:
                await _refuse_body(request)
            try:
                # Whatever a route waits for has bounds of its own; this one is for their sum.
                async with asyncio.timeout(_patience(request)):
                    return await handle(_JsonRequest(request.scope, request.receive) if model else request)
            except RequestValidationError as invalid:
                raise await self.refusal(request, model, invalid) from None

        return handle_strictly

    def _asks(self, scope: Scope) -> bool:
        """Whether the request says more than its path."""
        return bool(scope["query_string"]) or not self._headers.isdisjoint(name for name, _ in scope["headers"])

    async def refusal(
        self, _request: Request, model: type[BaseModel] | None, invalid: RequestValidationError
    ) -> ValidationFailed:
        """A pointer leads into the body; what is wrong with a parameter is under the parameter's name."""
        errors = [{**error, "loc": error["loc"][1:]} for error in invalid.errors()]
        return ValidationFailed.because(violations(model, errors))


def _in_short(route: APIRoute) -> Handler | None:
    """The handler for requests that say nothing but a path; None if the route always has to know more.

    FastAPI looks for each parameter all the same, and in several rounds, which takes longer than the look-up of a row.
    What the parameters are then is said by the defaults of the route's function.
    """
    asked, shown = route.dependant, route.response_field
    answer_to: Callable[..., Awaitable[Any]] = route.endpoint
    required = any(field.field_info.is_required() for field in (*asked.query_params, *asked.header_params))
    if route.methods != {"GET"} or shown is None or required or not all(map(_asks_nothing, asked.dependencies)):
        return None

    async def handle(request: Request) -> Response:
        told = Response()
        told.raw_headers.clear()
        values: dict[str, Any] = {}
        for field in asked.path_params:
            # What is in a path is the name of something, or a refusal is raised.
            values[field.name], _ = field.validate(request.path_params[field.alias])
        for needed in asked.dependencies:
            values[str(needed.name)] = await _made(needed, request)
        if asked.request_param_name:
            values[asked.request_param_name] = request
        if asked.response_param_name:
            values[asked.response_param_name] = told
        answered = await answer_to(**values)
        if isinstance(answered, Response):
            return answered
        answer = Response(shown.serialize_json(answered), media_type="application/json")
        answer.raw_headers += told.raw_headers
        return answer

    return handle


async def _made(dependency: Dependant, request: Request) -> Any:
    make: Any = dependency.call
    return await make(**{str(dependency.request_param_name): request})


def _asks_nothing(dependency: Dependant) -> bool:
    """Whether it makes what it makes of the request as a whole."""
    return dependency == Dependant(
        name=dependency.name,
        call=dependency.call,
        path=dependency.path,
        request_param_name=dependency.request_param_name,
        concurrency=dependency.concurrency,
    )


def _model(route: APIRoute) -> type[BaseModel] | None:
    annotation: Any = route.body_field and route.body_field.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


# --- Queries


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, tuple[object, ...]]]:
    """The name of each parameter, and the types that its annotation names."""
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        yield field.alias, (annotation, *get_args(annotation))
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def _check_query(request: Request, parameters: Mapping[str, tuple[object, ...]]) -> None:
    """Raises ValidationFailed for parameters that are unknown, given twice, or not written as they should be."""
    broken: dict[str, tuple[str, str]] = {}
    for name, value in request.query_params.multi_items():
        types = parameters.get(name)
        if types is None:
            broken[name if len(name) <= 64 and name.isprintable() else ""] = (
                "unknown-parameter",
                unknown_field(name, list(parameters)).replace("field", "parameter"),
            )
        elif not any(get_origin(kind) is list for kind in types) and len(request.query_params.getlist(name)) > 1:
            broken[name] = ("ambiguous", "must be given once")
        elif not value.isprintable():
            broken[name] = ("invalid-string", "must be a valid string")
        else:
            for form, code, detail in (_FORMS[kind] for kind in _FORMS if kind in types):
                if not form.fullmatch(value):
                    broken[name] = (code, detail)
    if broken:
        raise ValidationFailed.because(
            [
                Violation(pointer=pointer([name]) if name else "", code=code, detail=detail)
                for name, (code, detail) in broken.items()
            ]
        )


# --- Bodies


def _patience(request: Request) -> float:
    """Somewhat longer than a command may take, which knows better what to say then."""
    seconds: float = request.app.state.gateway.settings.request_timeout
    return seconds + 5


async def _refuse_body(request: Request) -> None:
    """For routes that take none: an empty object says nothing, anything else would be dropped in silence."""
    content = await request.body()
    if not content:
        return
    _require_json(request)
    body = parse(content)
    if not isinstance(body, dict):
        raise ValidationFailed.because([Violation(pointer="", code="invalid-object", detail="must be a valid object")])
    if names := list(cast("dict[str, Any]", body)):
        errors = [{"loc": [name], "type": "extra_forbidden", "msg": ""} for name in names]
        raise ValidationFailed.because(violations(None, errors))


class _JsonRequest(Request):
    async def body(self) -> bytes:
        body = await super().body()
        if not body:
            raise MalformedRequest("A body is needed: a JSON object")
        _require_json(self)
        return body

    async def json(self) -> Any:
        return parse(await self.body())


def _require_json(request: Request) -> None:
    media_type, _, parameter = request.headers.get("content-type", "").lower().partition(";")
    if media_type.strip() != "application/json" or parameter.strip() not in {"", "charset=utf-8"}:
        raise HttpProblem("unsupported-media-type", "The body has to be application/json, in UTF-8")


def parse(body: bytes) -> Any:
    """The JSON value of a body, decimals exact. Raises MalformedRequest for what isn't JSON, or is ambiguous."""
    try:
        return json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unambiguous,
        )
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"Not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise MalformedRequest("Not JSON: it has to be UTF-8") from None
    except RecursionError:
        raise MalformedRequest("Nested too deeply") from None
    except (ValueError, ArithmeticError):
        raise MalformedRequest("A number has too many digits") from None


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedRequest(f"Not JSON: {name} is no number")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise MalformedRequest("An object has the same key twice")
    return members
