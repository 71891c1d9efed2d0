"""How an order's run is started, and how one is woken that may have missed something."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from workflows.messages import OrderStart, workflow_id
from workflows.order import BUSINESS_PARTNER, ORDER_NUMBER, OrderWorkflow

# A worker that dies in the middle of a local activity is missed after this time, and another takes over.
_TASK_TIMEOUT = timedelta(seconds=5)
_RPC_TIMEOUT = timedelta(seconds=10)


def start_options(start: OrderStart, order_number: str, business_partner: str, task_queue: str) -> Mapping[str, Any]:
    """How a run is started, whoever starts it: one run per order, and one that is there is left alone."""
    searched = {ORDER_NUMBER: order_number, BUSINESS_PARTNER: business_partner} if not start.discreet else {}
    return {
        "id": workflow_id(start.order_id),
        "task_queue": task_queue,
        "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
        "task_timeout": _TASK_TIMEOUT,
        "static_summary": f"{order_number} for {business_partner}",
        "search_attributes": TypedSearchAttributes(
            [SearchAttributePair(key, value) for key, value in searched.items()]
        ),
    }


async def wake(
    client: Client,
    order_id: UUID,
    order_number: str,
    business_partner: str,
    *,
    task_queue: str,
    idle_seconds: float,
    step_seconds: float,
    discreet: bool = False,
) -> None:
    """Let the order's run look up where the order stands, and do what it owes; a run is started if there is none.

    Raises ConnectionError if Temporal is away, or refuses us; RPCError if it refuses this order.
    """
    start = OrderStart.reviving(order_id, idle_seconds=idle_seconds, step_seconds=step_seconds, discreet=discreet)
    try:
        await client.start_workflow(
            OrderWorkflow.run,
            start,
            **start_options(start, order_number, business_partner, task_queue),
            start_signal="look_up",
            rpc_timeout=_RPC_TIMEOUT,
        )
    except RPCError as error:
        if error.status == RPCStatusCode.INVALID_ARGUMENT:
            raise
        raise ConnectionError(f"Temporal: {error.status.name}") from error
