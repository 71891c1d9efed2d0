"""Undo of step 3: give the business key back when a later step has refused."""

from dataclasses import dataclass

from temporalio import activity

from activities.reserve_uniqueness import claims
from domain.commands import CommandRequest
from domain.values import Value
from eventstore.store import EventStore


class Released(Value):
    released: int


@dataclass(frozen=True)
class ReleaseUniqueness:
    store: EventStore

    @activity.defn(name="ReleaseUniqueness")
    async def run(self, request: CommandRequest) -> Released:
        """Only what this command has reserved and no append has confirmed: an order keeps the number it lives by."""
        given_back = [await self.store.release(claim, request.command_id) for claim in claims(request)]
        return Released(released=sum(given_back))
