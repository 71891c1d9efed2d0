"""Which faults there will be, and when: as a seed has it, so that a run can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "pause", "stall", "black hole", "answer lost", "error after done"]

WORKERS = ("worker-1", "worker-2")
LOAD = "load"
"""The load's own connections: the link between it and the gateway."""
LINKS = (LOAD, *(f"{child} to {server}" for child in ("api", *WORKERS) for server in ("postgres", "temporal")))

# As often as in a pack of cards: after one pack there has been each of them.
_CARDS: dict[tuple[Kind, tuple[str, ...]], int] = {
    ("kill", WORKERS): 3,
    ("kill", ("api",)): 1,
    ("kill", ("postgres",)): 2,
    ("kill", ("temporal",)): 1,
    ("kill", (LOAD,)): 4,
    ("pause", WORKERS): 1,
    ("pause", ("api", "postgres", "temporal")): 1,
    ("stall", LINKS): 2,
    ("black hole", LINKS): 2,
    ("answer lost", (LOAD,)): 1,
    ("answer lost", tuple(f"{worker} to postgres" for worker in WORKERS)): 1,
    ("answer lost", tuple(f"{worker} to temporal" for worker in WORKERS)): 1,
    ("error after done", (LOAD,)): 1,
    ("error after done", tuple(f"{worker} to postgres" for worker in WORKERS)): 1,
}
PACK = sum(_CARDS.values())


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    target: str
    """A process, or the link between two."""
    after: int
    """Commands that are acknowledged between the fault before it and this one; 0: it comes in the middle of that."""
    seconds: float
    """How long it lasts, or how long it waits for something to hit. A kill takes none."""

    @property
    def place(self) -> str:
        """What it is counted under: `worker-2 to postgres` is what `worker-1 to postgres` is."""
        return self.target.replace("-1", "").replace("-2", "")


def deal(seed: int, apart: int, longest: float) -> Iterator[Fault]:
    """Faults without end, `apart` acknowledged commands apart on average, of up to `longest` seconds."""
    chance = random.Random(seed)
    while True:
        pack = [card for card, times in _CARDS.items() for _ in range(times)]
        chance.shuffle(pack)
        for kind, targets in pack:
            seconds = 0.0 if kind == "kill" else chance.uniform(0.2, 1) ** 2 * longest
            yield Fault(kind, chance.choice(targets), chance.randint(0, 2 * apart), seconds)
