"""Why a command may be refused.

A refusal is an outcome of the domain, not a failure: its class says what is the case, its code is stable, and its
message is part of the contract. What a code means in HTTP or Temporal is not the domain's business.
"""

from collections.abc import Sequence
from typing import ClassVar, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue


class Violation(BaseModel):
    """One broken rule of a command: where (an RFC 6901 JSON pointer), which rule, and what it asks for."""

    model_config = ConfigDict(frozen=True)

    pointer: str
    code: str
    detail: str


class Refusal(Exception):
    """The command was refused."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str | None = None, **details: JsonValue) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.details: dict[str, JsonValue] = details
        super().__init__(self.message)

    @staticmethod
    def of(code: str, message: str, details: dict[str, JsonValue]) -> "Refusal":
        """The refusal that was sent over a wire or stored as its code, message and details."""
        kind = REFUSALS.get(code, Refusal)
        refusal = kind.__new__(kind)
        Refusal.__init__(refusal, message, **details)
        return refusal


class ValidationFailed(Refusal):
    """The command breaks one or more rules of its shape."""

    code = "validation-failed"

    @classmethod
    def because(cls, violations: Sequence[Violation]) -> Self:
        summary = "; ".join(f"{v.pointer or 'the command'} {v.detail}" for v in violations[:3])
        if len(violations) > 3:
            summary += f"; and {len(violations) - 3} more"
        return cls(summary, errors=[v.model_dump() for v in violations])

    @property
    def violations(self) -> list[Violation]:
        errors = self.details["errors"]
        assert isinstance(errors, list)
        return [Violation.model_validate(error) for error in errors]


class OrderNotFound(Refusal):
    """Order not found"""

    code = "order-not-found"


class ShipmentNotFound(Refusal):
    """Shipment not found"""

    code = "shipment-not-found"


class OrderAlreadyCreated(Refusal):
    """Order already created"""

    code = "order-already-created"


class OrderAlreadyCompleted(Refusal):
    """Order already completed"""

    code = "order-already-completed"


class OrderWasDeleted(Refusal):
    """Order was deleted"""

    code = "order-deleted"


class OrderNumberTaken(Refusal):
    """Order number already exist"""

    code = "order-number-taken"


class ProductsBlocked(Refusal):
    """Order contains blocked products"""

    code = "products-blocked"

    @classmethod
    def of_products(cls, product_ids: Sequence[UUID]) -> Self:
        ids = [str(product_id) for product_id in product_ids]
        return cls(f"Order contains blocked products: {', '.join(ids)}", product_ids=list[JsonValue](ids))


class ShipmentAlreadyCreated(Refusal):
    """Shipment already created"""

    code = "shipment-already-created"


class ShipmentAlreadyCompleted(Refusal):
    """Shipment already completed"""

    code = "shipment-already-completed"


class PreconditionFailed(Refusal):
    """It is not at the version that If-Match names"""

    code = "precondition-failed"

    @classmethod
    def at(cls, *, expected: int, actual: int) -> Self:
        return cls(f"It is at version {actual}, not {expected}: read it again, then decide anew", version=actual)


class IdempotencyKeyReused(Refusal):
    """This Idempotency-Key belongs to another request: use a new key"""

    code = "idempotency-key-reused"


class HistoryUnreadable(Refusal):
    """One of its events can't be read, so nobody can decide what may come next"""

    code = "history-unreadable"


REFUSALS: dict[str, type[Refusal]] = {kind.code: kind for kind in Refusal.__subclasses__()}
"""Every refusal by its code."""
