"""Step 3: claim the business key for this order, before anything is written."""

from dataclasses import dataclass

from prometheus_client import Counter
from temporalio import activity

from activities.failures import CLAIM_LEASED, benign, refusing
from domain.commands import CommandRequest
from domain.order import CreateOrder
from domain.refusals import OrderNumberTaken
from domain.values import Value
from eventstore.claims import ORDER_NUMBER
from eventstore.store import Claim, EventStore

CLAIMS = Counter("waybill_claims", "Business keys that orders have asked for, by what they were told.", ["outcome"])
_count = {outcome: CLAIMS.labels(outcome) for outcome in ("reserved", "taken", "leased")}


class Reserved(Value):
    kind: str
    key: str


def claims(request: CommandRequest) -> tuple[Claim, ...]:
    """The business keys that the command's events will hold."""
    command = request.parse()
    return (Claim(ORDER_NUMBER, command.order_number, command.id),) if isinstance(command, CreateOrder) else ()


@dataclass(frozen=True)
class ReserveUniqueness:
    store: EventStore
    lease_seconds: float

    @activity.defn(name="ReserveUniqueness")
    async def run(self, request: CommandRequest) -> Reserved:
        """Refuses if another order has the number for good; is tried again while another only has reserved it."""
        async with refusing(self.store, request):
            (claim,) = claims(request)
            outcome = await self.store.reserve(claim, request.command_id, lease_seconds=self.lease_seconds)
            _count[outcome].inc()
            if outcome == "taken":
                raise OrderNumberTaken(
                    errors=[{"pointer": "/order_number", "code": "taken", "detail": "already exist"}]
                )
            if outcome == "leased":
                raise benign("Another order is just being created with this number", CLAIM_LEASED, retry=True)
            return Reserved(kind=claim.kind, key=claim.key)
