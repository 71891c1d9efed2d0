"""`given(events).when(command).then(events)`: what the domain does, in the words of the people who use it."""

from dataclasses import dataclass
from typing import Any

from domain.aggregates import COMMANDS, Command, Event
from domain.refusals import Refusal


@dataclass(frozen=True)
class Refused:
    """The outcome of a command that may not be done: the code and the message of the contract."""

    code: str
    message: str


def given(*history: Event) -> "Given":
    """What has happened to the aggregate; nothing at all without events."""
    return Given(history)


@dataclass(frozen=True)
class Given:
    history: tuple[Event, ...]

    def when(self, command: Command) -> "When":
        aggregate, _ = COMMANDS[type(command).__name__]
        try:
            return When(tuple(aggregate.decide(command, aggregate.fold(self.history))))
        except Refusal as refusal:
            return When((Refused(refusal.code, refusal.message),), refusal)


@dataclass(frozen=True)
class When:
    outcome: tuple[Any, ...]
    refusal: Refusal | None = None

    def then(self, *expected: Event | Refused) -> "When":
        assert self.outcome == expected, f"{self.outcome!r} instead of {expected!r}"
        return self

    def saying(self, **details: object) -> None:
        """What a machine is told besides the message."""
        assert self.refusal is not None
        assert self.refusal.details == details, f"{self.refusal.details} instead of {details}"
