"""What a request works with: the resources that app.py opened, and how a command passes through them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request, Response
from temporalio.client import Client

from api.commands import Commands
from api.consistency import NAMES, Consistency
from api.counting import ParkedCounts
from api.live import Live
from api.parameters import CONSISTENCY, EVENTUAL
from api.preconditions import expected_versions
from api.schemas import Accepted
from domain.commands import CommandRequest, Receipt
from domain.refusals import PreconditionFailed
from eventstore.postgres import PostgresStore
from projections.parking import Place
from projections.queries import ReadStore
from settings import Settings
from workflows.messages import workflow_id


@dataclass(frozen=True)
class Gateway:
    """Everything that is open while the gateway runs."""

    settings: Settings
    store: PostgresStore
    read_store: ReadStore
    temporal: Client
    commands: Commands
    consistency: Consistency
    live: Live
    parking: Sequence[Place]
    """Where there are parked events."""
    parked: ParkedCounts

    async def perform(self, request: CommandRequest, order_id: UUID, response: Response) -> Receipt:
        """Let the command be done, and wait, within a bound, until the read models have seen what came of it."""
        receipt = await self.commands.perform(request, order_id)
        await self.settle(response, max(receipt.position, receipt.settled_position))
        if receipt.settled_position < 0:
            response.headers[CONSISTENCY] = EVENTUAL
        return receipt

    async def submit(self, request: CommandRequest, order_id: UUID, location: str) -> Response:
        """See to it that the command will be done, and say where its effect is to be seen."""
        await self.commands.submit(request, order_id)
        accepted = Accepted(id=request.parse().id, **self.run_of(order_id))
        headers = {"Location": location, "Preference-Applied": "respond-async"}
        return Response(accepted.model_dump_json(), 202, headers, "application/json")

    async def settle(self, response: Response, position: int, projections: Collection[str] = NAMES) -> None:
        """Wait until the projections have come to `position`; if it takes too long, the answer says so."""
        within = self.settings.consistency_timeout
        if not await self.consistency.reached(position, projections=projections, within=within):
            response.headers[CONSISTENCY] = EVENTUAL

    async def expected_version(self, if_match: str | None, stream_id: UUID) -> int | None:
        """The version that If-Match asks for; None if any will do. A tag that can't be one of ours never matches."""
        versions = expected_versions(if_match)
        if versions == "any":
            return None
        if len(versions) == 1:
            return max(versions)
        current = await self.store.stream_version(str(stream_id))
        if not current:
            return None  # There is nothing to be at a version: that is what the caller has to hear.
        if not versions:
            raise PreconditionFailed
        return current if current in versions else max(versions)

    def run_of(self, order_id: UUID) -> dict[str, Any]:
        """Where the order's run is to be found."""
        name, namespace = workflow_id(order_id), self.temporal.namespace
        url = f"{self.settings.temporal_ui_url}/namespaces/{namespace}/workflows/{name}"
        return {"workflow_id": name, "workflow_url": url}


# Async, like all dependencies here: FastAPI hands plain functions to a thread, which costs more than they do.
async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


Resources = Annotated[Gateway, Depends(_gateway)]
