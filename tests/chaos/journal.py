"""Accounts that outlive whoever keeps them: one line of JSON per fact, written before the next step is taken."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from tests.chaos.checker import Attempt, Tenure


class Journal:
    """A line is in the file when `note` returns, as far as a killed process is concerned."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, **facts: Any) -> None:
        # asyncpg has a UUID of its own.
        os.write(self._file, orjson.dumps(facts, default=str) + b"\n")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(orjson.loads, path.read_bytes().splitlines())


def attempts(path: Path) -> list[Attempt]:
    """What a writer noted: a line when it begins an append, and one when it has heard of it."""
    found: dict[int, Attempt] = {}
    for line in lines(path):
        number = line.pop("attempt")
        if "began" in line:
            line["event_ids"] = tuple(map(UUID, line["event_ids"]))
            found[number] = Attempt(path.stem, **line)
        else:
            for name, value in line.items():
                setattr(found[number], name, value)
    return list(found.values())


def tenures(path: Path) -> list[Tenure]:
    """What a witness noted: when it owned the subscription, what it saw, what it acknowledged."""
    found: list[Tenure] = []
    for line in lines(path):
        match line:
            case {"checkpoint": checkpoint}:
                found.append(Tenure(checkpoint, acknowledged=checkpoint))
            case {"saw": saw}:
                found[-1].saw += [(number, UUID(event_id)) for number, event_id in saw]
            case {"tries": number}:
                found[-1].tried = number
            case {"acknowledged": number}:
                found[-1].acknowledged = number
            case _:
                raise AssertionError(f"{path}: {line}")
    return found
