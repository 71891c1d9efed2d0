"""What MemoryStore keeps beside the events: claims, answers to commands, products that must not be sold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from eventstore.store import Answer, Append, BlockedProduct, Claim, ReserveOutcome

_BLOCKED_FROM_THE_START = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")


@dataclass(frozen=True, slots=True)
class _Held:
    """A claim's holder. A confirmed claim has no lease."""

    owner: UUID
    command_id: UUID
    lease_until: datetime | None


class KeptInMemory:
    """The part of an EventStore (see store.py) that knows nothing of streams."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._claims: dict[tuple[str, str], _Held] = {}
        self._answers: dict[UUID, Answer] = {}
        self._blocked = {_BLOCKED_FROM_THE_START: clock()}

    # --- Claims

    async def reserve(self, claim: Claim, command_id: UUID, *, lease_seconds: float) -> ReserveOutcome:
        key, now = (claim.kind, claim.key), self._clock()
        held = self._claims.get(key)
        if held and held.lease_until is None:
            return "reserved" if held.owner == claim.owner else "taken"
        if held and held.lease_until and held.owner != claim.owner and held.lease_until >= now:
            return "leased"
        self._claims[key] = _Held(claim.owner, command_id, now + timedelta(seconds=lease_seconds))
        return "reserved"

    async def release(self, claim: Claim, command_id: UUID) -> bool:
        held = self._claims.get((claim.kind, claim.key))
        if not held or (held.owner, held.command_id) != (claim.owner, command_id) or held.lease_until is None:
            return False
        del self._claims[claim.kind, claim.key]
        return True

    async def claim_owner(self, kind: str, key: str) -> UUID | None:
        held = self._claims.get((kind, key))
        return held.owner if held and held.lease_until is None else None

    def _is_held(self, claim: Claim) -> bool:
        """Whether its owner holds it: a lease that has run out still counts, until another takes the key."""
        held = self._claims.get((claim.kind, claim.key))
        return held is not None and held.owner == claim.owner

    def _settle(self, append: Append) -> None:
        """Confirm and give back the claims that the append carries."""
        for claim in append.confirm:
            key = claim.kind, claim.key
            self._claims[key] = replace(self._claims[key], lease_until=None)
        for claim in append.release:
            if self._is_held(claim):
                del self._claims[claim.kind, claim.key]

    def _free(self, owner: str) -> None:
        """Give up all claims of an owner that is removed for good."""
        self._claims = {key: held for key, held in self._claims.items() if str(held.owner) != owner}

    # --- Answers

    async def remember(self, answer: Answer) -> Answer:
        return self._answers.setdefault(answer.command_id, answer)

    # --- Products

    async def blocked_products(self, among: Sequence[UUID] | None = None) -> list[BlockedProduct]:
        return [
            BlockedProduct(product_id, self._blocked[product_id])
            for product_id in sorted(self._blocked)
            if among is None or product_id in among
        ]

    async def block_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        if not self._is_first(once):
            return False
        news = product_id not in self._blocked
        self._blocked.setdefault(product_id, self._clock())
        return news

    async def unblock_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        return self._is_first(once) and self._blocked.pop(product_id, None) is not None

    def _is_first(self, answer: Answer | None) -> bool:
        if answer is None:
            return True
        if answer.command_id in self._answers:
            return False
        self._answers[answer.command_id] = answer
        return True
