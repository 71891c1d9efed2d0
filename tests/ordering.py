"""The words in which tests speak to the order process: a worker, and commands as the gateway sends them."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from activities import all_activities
from domain.commands import CommandRequest, Receipt
from domain.ids import shipment_id
from domain.refusals import Refusal
from eventstore.store import EventStore
from workflows.messages import OrderStart, workflow_id
from workflows.order import OrderWorkflow
from workflows.worker import order_worker

PRODUCT = "0b1e7e52-0000-4000-8000-000000000001"
BLOCKED = "55e76be0-b83e-4b3c-addd-f3d9e8835be2"


@dataclass
class Orders:
    """Sends commands as the gateway does, to the runs of one worker."""

    client: Client
    store: EventStore
    task_queue: str
    start: Callable[[UUID], OrderStart] = field(default=lambda order_id: OrderStart(order_id=order_id))
    task_timeout: timedelta = timedelta(seconds=5)
    """After this time a worker that has died in the middle of a command is missed."""

    async def send(self, update: str, request: CommandRequest, order_id: UUID) -> Receipt:
        start = WithStartWorkflowOperation(
            OrderWorkflow.run,
            self.start(order_id),
            id=workflow_id(order_id),
            task_queue=self.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            task_timeout=self.task_timeout,
        )
        # Each sending is an update of its own: to one that it knows Temporal gives the old answer, even if the
        # run is over, and even if that was "unavailable". The command's id makes the command one.
        update_id = f"{request.command_id}-{uuid4()}"
        try:
            return await self.client.execute_update_with_start_workflow(
                update, request, start_workflow_operation=start, id=update_id, result_type=Receipt
            )
        except WorkflowUpdateFailedError as failed:
            raise _refusal(failed.cause) from failed

    async def create(self, order_id: UUID, number: str = "", items: int = 1, **request: Any) -> Receipt:
        data = {
            "id": str(order_id),
            "order_number": number or f"N-{order_id}",
            "business_partner": "buyer@example.com",
            "items": [{"product_id": PRODUCT, "quantity": n + 1, "uom": "KG"} for n in range(items)],
        }
        return await self.send("create_order", command("CreateOrder", order_id, data, **request), order_id)

    async def add(self, order_id: UUID, product: str = PRODUCT, **request: Any) -> Receipt:
        data = {"id": str(order_id), "product_id": product, "quantity": 1.5, "uom": "MT"}
        return await self.send("add_order_item", command("AddOrderItem", order_id, data, **request), order_id)

    async def complete(self, order_id: UUID, **request: Any) -> Receipt:
        sent = command("CompleteOrder", order_id, {"id": str(order_id)}, **request)
        return await self.send("complete_order", sent, order_id)

    async def delete(self, order_id: UUID, **request: Any) -> Receipt:
        sent = command("DeleteOrder", order_id, {"id": str(order_id)}, **request)
        return await self.send("delete_order", sent, order_id)

    async def ship(self, order_id: UUID, **request: Any) -> Receipt:
        sent = command("CompleteShipment", order_id, {"id": str(shipment_id(order_id))}, **request)
        return await self.send("complete_shipment", sent, order_id)

    async def types(self, stream: UUID) -> list[str]:
        return [event.type.split(".")[1] for event in await self.store.read_stream(str(stream))]


def command(name: str, order_id: UUID, data: dict[str, Any], **request: Any) -> CommandRequest:
    asked: dict[str, Any] = {"command": name, "data": data, "command_id": uuid4(), "correlation_id": order_id}
    return CommandRequest.model_validate(asked | request)


def _refusal(cause: BaseException | None) -> Refusal:
    assert isinstance(cause, ApplicationError)
    return Refusal.of(str(cause.type), cause.message, cause.details[0] if cause.details else {})


@asynccontextmanager
async def working(client: Client, store: EventStore, *, sandboxed: bool = True, **more: Any) -> AsyncGenerator[Orders]:
    """A worker on a task queue of its own."""
    queue = f"test-{uuid4()}"
    activities = all_activities(store, claim_lease=5, snapshot_interval=lambda _: 100)
    async with order_worker(client, activities, task_queue=queue, sandboxed=sandboxed, **more):
        yield Orders(client, store, queue)
