"""What requests carry besides a body: ids in paths, and the headers that every write takes."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, Header, Path, Query, Request
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from api.pagination import MAX_POSITION
from api.problems import MalformedRequest
from domain.aggregates import Command
from domain.commands import CommandRequest
from domain.ids import correlation_id, keyed_command_id
from domain.refusals import OrderNotFound, Refusal, ShipmentNotFound
from domain.values import Id

CONSISTENCY = "Waybill-Consistency"
EVENTUAL = "eventual"

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UUID: TypeAdapter[UUID] = TypeAdapter(Id)

# --- Ids in paths: what is no UUID is the name of nothing


def _or(refusal: type[Refusal]) -> BeforeValidator:
    def uuid(text: str) -> UUID:
        try:
            return _UUID.validate_python(text)
        except ValidationError:
            raise refusal from None

    return BeforeValidator(uuid, json_schema_input_type=UUID)


OrderId = Annotated[UUID, Path(description="The order's id."), _or(OrderNotFound)]
ShipmentId = Annotated[UUID, Path(description="The shipment's id."), _or(ShipmentNotFound)]

# --- Headers

_TAG = r'(W/)?"[!#-~]*"'
# Said to readers and generators of requests: what breaks it is a malformed request, not a broken rule.
_ENTITY_TAGS = {"pattern": rf"^(\*|{_TAG}(, ?{_TAG})*)$"}

MinPosition = Annotated[
    int,
    Query(
        ge=0,
        le=MAX_POSITION,
        description="Wait, within a bound, until the read model has seen this position (of a write's answer). If it "
        f"takes too long, the header `{CONSISTENCY}: {EVENTUAL}` says so.",
    ),
]

IfMatch = Annotated[
    str | None,
    Header(
        description='Only if it is at this version: `"7"`, or an `ETag` as it was sent. Otherwise 412.',
        examples=['"7"'],
        json_schema_extra=_ENTITY_TAGS,
    ),
]

IfNoneMatch = Annotated[
    str | None,
    Header(description="304 if this `ETag` is still current.", examples=['"7"'], json_schema_extra=_ENTITY_TAGS),
]


@dataclass(frozen=True, slots=True)
class Asking:
    """How a write is asked for."""

    command_id: UUID
    """The same for the same Idempotency-Key; a new one without a key."""
    keyed: bool
    asynchronous: bool
    """The caller doesn't want to wait."""
    actor: str
    request_id: str
    traceparent: str

    def to(self, command: Command, order_id: UUID, expected_version: int | None = None) -> CommandRequest:
        """The command as the order's run is to get it."""
        name, data = type(command).__name__, command.model_dump(mode="json")
        return CommandRequest(
            command=name,
            data=data,
            command_id=self.command_id,
            correlation_id=correlation_id(order_id),
            actor=self.actor,
            fingerprint=self.fingerprint(name, data),
            expected_version=expected_version,
            request_id=self.request_id,
            traceparent=self.traceparent,
            unattended=self.asynchronous,
        )

    def fingerprint(self, what: str, data: object) -> str:
        """Digest of what is asked for, in a canonical form; empty without a key."""
        if not self.keyed:
            return ""
        canonical = json.dumps([what, data], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


async def _asking(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1 to 255 visible characters that name this write. Sent again with the same key, it has one "
            "effect and gets the same answer, for ever; another write with the same key is refused.",
            examples=["load-SO-10248"],
            json_schema_extra={"pattern": "^[!-~]{1,255}$"},
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`respond-async`: answer 202 as soon as the order's run has accepted the command.",
            examples=["respond-async"],
        ),
    ] = None,
) -> Asking:
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise MalformedRequest("Idempotency-Key has to be 1 to 255 visible ASCII characters")
    actor: str = request.state.actor
    preferences = (preference.partition(";")[0].strip().lower() for preference in (prefer or "").split(","))
    return Asking(
        command_id=uuid4() if idempotency_key is None else keyed_command_id(actor, idempotency_key),
        keyed=idempotency_key is not None,
        asynchronous="respond-async" in preferences,
        actor=actor,
        request_id=request.state.request_id,
        traceparent=request.state.traceparent,
    )


Headers = Annotated[Asking, Depends(_asking)]
