"""A command on its way, and the answer it gets."""

from typing import Any
from uuid import UUID

from pydantic import Field, JsonValue

from domain.aggregates import COMMANDS, Command
from domain.refusals import ValidationFailed, Violation
from domain.validation import parse
from domain.values import Value


class CommandRequest(Value):
    """A command as it was asked for, not yet checked, with what has to be known about the asking.

    The command is kept as plain JSON, so that whoever sends it, all its broken rules are told at once.
    """

    command: str
    """The command's name: CreateOrder, ..."""
    data: dict[str, JsonValue]
    command_id: UUID
    """Makes the command one: however often the request comes, its effect comes once."""
    causation_id: UUID | None = None
    """The event that this command follows from; None for a command that somebody sent."""
    correlation_id: UUID
    actor: str = "anonymous"
    fingerprint: str = ""
    """Digest of the request under an Idempotency-Key; empty without one."""
    expected_version: int | None = None
    """Refuse unless the aggregate is at this version (If-Match)."""
    request_id: str = ""
    traceparent: str = ""
    """The caller's place in a distributed trace (W3C Trace Context); empty without one."""
    unattended: bool = False
    """Nobody waits for the answer: it is tried until it is decided, however long the stores stay away."""

    @property
    def keyed(self) -> bool:
        """Whether the caller named the command, and so may ask for its answer again at any time."""
        return bool(self.fingerprint)

    @property
    def stream_id(self) -> str:
        return str(self.parse().id)

    def parse(self) -> Command:
        """The command itself. Raises ValidationFailed with every rule that it breaks."""
        if self.command not in COMMANDS:
            detail = f"must be one of {', '.join(COMMANDS)}"
            raise ValidationFailed.because([Violation(pointer="", code="unknown-command", detail=detail)])
        _, model = COMMANDS[self.command]
        command: Any = parse(model, self.data)
        return command


class Receipt(Value):
    """What a command did: the same, however often it is asked for."""

    id: UUID
    """The aggregate: an order, or a shipment."""
    order_id: UUID
    order_number: str | None = None
    """None in answers about shipments."""
    status: str
    """The aggregate's status after the command: OPEN, COMPLETED, DELETED."""
    version: int
    """The aggregate's version after the command, from 1."""
    position: int
    """The position of the command's event in the global sequence: a reader who has seen it sees the effect."""
    event_id: UUID
    shipment_id: UUID | None = None
    """The shipment that a completed order becomes."""
    settled_position: int = Field(default=0)
    """Position of the event that followed from this one at once; 0 if none does, or if this is an old answer;
    -1 if one is still to come."""
