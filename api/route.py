"""How requests are read: JSON to the letter, and what breaks a rule is told in the contract's words.

json.loads alone would drop duplicate keys, take NaN, and round decimals.
"""

import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.problems import HttpProblem, MalformedRequest
from domain.refusals import ValidationFailed
from domain.validation import violations


class Route(APIRoute):
    """A route whose body is strict JSON and whose validation errors are the domain's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        in_full, in_short = super().get_route_handler(), self._without_query()
        model = _model(self)

        async def handle_strictly(request: Request) -> Response:
            handle = in_full if request.scope["query_string"] else in_short
            try:
                return await handle(_JsonRequest(request.scope, request.receive) if model else request)
            except RequestValidationError as invalid:
                raise await self.refusal(request, model, invalid) from None

        return handle_strictly

    def _without_query(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler for requests without a query: looking for each parameter of it costs more than a look-up by key.

        What the parameters are then is said by the defaults of the route's function.
        """
        whole = self.dependant
        if any(field.field_info.is_required() for field in whole.query_params):
            return super().get_route_handler()
        self.dependant = replace(whole, query_params=[])
        try:
            return super().get_route_handler()
        finally:
            self.dependant = whole

    async def refusal(
        self, _request: Request, model: type[BaseModel] | None, invalid: RequestValidationError
    ) -> ValidationFailed:
        """A pointer leads into the body; what is wrong with a parameter is under the parameter's name."""
        errors = [{**error, "loc": error["loc"][1:]} for error in invalid.errors()]
        return ValidationFailed.because(violations(model, errors))


def _model(route: APIRoute) -> type[BaseModel] | None:
    annotation: Any = route.body_field and route.body_field.field_info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


class _JsonRequest(Request):
    async def body(self) -> bytes:
        body = await super().body()
        if not body:
            raise MalformedRequest("A body is needed: a JSON object")
        media_type, _, _ = self.headers.get("content-type", "").partition(";")
        if media_type.strip().lower() != "application/json":
            raise HttpProblem("unsupported-media-type", "The body has to be application/json")
        return body

    async def json(self) -> Any:
        return parse(await self.body())


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
