"""Step 1: is this a command at all, and is it news?"""

from collections.abc import Mapping
from dataclasses import dataclass

from temporalio import activity

from activities.failures import recalled, refusing, require_same_request
from domain.commands import CommandRequest, Receipt
from domain.ids import event_id
from domain.order import CreateOrder
from domain.refusals import ValidationFailed, Violation
from domain.values import Value
from eventstore.claims import ORDER_NUMBER
from eventstore.store import EventStore


class Validated(Value):
    command: str
    done_before: bool = False
    """Only its answer is to be given again: the command has its event already, or had it once."""
    receipt: Receipt | None = None
    """The answer, if the event was removed for good."""


@dataclass(frozen=True)
class ValidateCommand:
    store: EventStore

    @activity.defn(name="ValidateCommand")
    async def run(self, request: CommandRequest) -> Validated:
        """Refuses with every broken rule at once, or with the answer that this command got before."""
        async with refusing(self.store, request):
            try:
                request.parse()
            except ValidationFailed as failed:
                if request.command == CreateOrder.__name__:
                    failed = await with_taken_number(self.store, request.data, failed)
                raise failed from None
            return await self._validated(request)

    async def _validated(self, request: CommandRequest) -> Validated:
        if not request.keyed:
            return Validated(command=request.command)
        known = await self.store.recall(request.command_id, event_id(request.command_id, 0))
        if known.event:
            require_same_request(request, known.event.metadata)
            return Validated(command=request.command, done_before=True)
        receipt = recalled(request, known.answer) if known.answer else None
        return Validated(command=request.command, done_before=receipt is not None, receipt=receipt)


async def with_taken_number(
    store: EventStore, new_order: Mapping[str, object], failed: ValidationFailed
) -> ValidationFailed:
    """Whoever has to mend a new order anyway should hear at once that its number is taken, too."""
    number = new_order.get("order_number")
    if not isinstance(number, str) or not number.isprintable():
        return failed
    owner = await store.claim_owner(ORDER_NUMBER, number)
    if owner is None or str(owner) == new_order.get("id"):
        return failed
    taken = Violation(pointer="/order_number", code="taken", detail="already exist")
    return ValidationFailed.because([*failed.violations, taken])
