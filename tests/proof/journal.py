"""What the load and the faults have to tell afterwards: each call, what became of it, and each fault.

A line is written before a call is sent and another when it is known what came of it, so nothing that may have had an
effect is missing.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from proof.plan import Fault
from tests.chaos import journal as lines_of

LATER = frozenset({429, 500, 502, 503, 504})
"""Answers that don't say what became of the command."""


@dataclass(slots=True)
class Call:
    """One request, once sent. Times are in seconds, of one clock."""

    number: int
    method: str
    path: str
    body: Any
    key: str | None
    """The Idempotency-Key; None for a read, and for a write without one."""
    began: float
    at_least: int = 0
    """A read's: the version that it has to show, for a write has been answered with it."""
    ended: float | None = None
    status: int | None = None
    """None: no answer has come."""
    answer: Any = None
    etag: str | None = None
    location: str | None = None
    eventual: bool = False
    """The answer says that the read models may lag behind it."""
    error: str | None = None

    @property
    def request_id(self) -> str:
        return f"call-{self.number}"

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def done(self) -> bool:
        """Whether a write was acknowledged."""
        return self.writes and self.status is not None and self.status < 300

    @property
    def code(self) -> str:
        """The problem's."""
        return str(self.answer.get("code", "")) if isinstance(self.answer, dict) else ""

    @property
    def final(self) -> bool:
        """Whether the answer says, for ever, what became of the command. What isn't there yet may come."""
        return self.status is not None and self.status not in LATER and self.status != 404

    @property
    def outcome(self) -> tuple[Any, ...]:
        """What has to be the same whenever the request is sent again.

        A completed order's tag tells of its shipment, too, if that is there already.
        """
        return self.status, self.answer, self.etag and self.etag.strip('"').partition(".")[0], self.location


@dataclass(slots=True)
class Struck:
    """A fault that was carried out."""

    fault: Fault
    began: float
    hits: int
    """Processes killed or paused, connections cut off, answers lost: 0 if there was nothing to hit."""


class Journal:
    """Kept in memory for the checks, and in a file for people: one line of JSON per fact."""

    def __init__(self, path: Path) -> None:
        self._file = lines_of.Journal(path)
        self._numbers = count(1)
        self.calls: list[Call] = []
        self.done: set[str] = set()
        """Commands that have been acknowledged, by their keys or, without one, by their requests."""
        self.struck: list[Struck] = []
        self.gone: set[str | None] = set()
        """Keys whose customers have gone away before they had an answer."""

    def begin(self, method: str, path: str, body: Any, key: str | None, at_least: int = 0) -> Call:
        call = Call(next(self._numbers), method, path, body, key, time.monotonic(), at_least)
        self.calls.append(call)
        facts: dict[str, Any] = {"method": method, "path": path, "body": body, "key": key, "at_least": at_least}
        self._file.note(call=call.number, began=call.began, **facts)
        return call

    def end(self, call: Call, **known: Any) -> None:
        call.ended = time.monotonic()
        for name, value in known.items():
            setattr(call, name, value)
        if call.done:
            self.done.add(call.key or call.request_id)
        self._file.note(call=call.number, ended=call.ended, **known)

    def go_away(self, key: str | None) -> None:
        self.gone.add(key)
        self._file.note(gone_away=key)

    def strike(self, fault: Fault, began: float, hits: int) -> None:
        self.struck.append(Struck(fault, began, hits))
        self._file.note(fault=asdict(fault), began=began, hits=hits)


def acknowledged(calls: Iterable[Call]) -> list[Call]:
    """Every command that was acknowledged, by the first answer that said so."""
    first: dict[str, Call] = {}
    for call in sorted((call for call in calls if call.done), key=lambda call: call.ended or 0):
        first.setdefault(call.key or call.request_id, call)
    return list(first.values())
