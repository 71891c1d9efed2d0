"""Commands on their way to the order's run.

A command may be sent again whenever it is not known what became of it: its id makes it one. An order that never was
gets no run: a run is started for a new order, or for one that the event store knows.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import structlog
from prometheus_client import Counter, Histogram
from structlog.contextvars import bound_contextvars
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

import tracing
from activities.failures import recalled
from api.problems import HttpProblem, TooManyRequests, Unavailable
from domain.commands import CommandRequest, Receipt
from domain.ids import event_id
from domain.order import CreateOrder, OrderCreated
from domain.refusals import REFUSALS, OrderNotFound, Refusal, ShipmentNotFound
from domain.shipment import ShipmentCreated
from eventstore.codec import decode
from eventstore.store import EventStore
from settings import Settings
from workflows.messages import OrderStart, workflow_id
from workflows.order import OrderWorkflow
from workflows.pipeline import UNAVAILABLE
from workflows.runs import start_options

log = structlog.get_logger(__name__)

COMMANDS = Counter(
    "waybill_commands",
    "Commands answered: `done`, `accepted` where the caller doesn't wait, or the code of the problem.",
    ["command", "outcome"],
)
SECONDS = Histogram(
    "waybill_command_seconds",
    "From a command's sending to the answer of the order's run, without the wait for read models.",
    ["command"],
    buckets=(0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.35, 0.5, 1, 2, 5, 10, 30),
)
# Looking for what counts takes longer than counting.
_commands = cache(COMMANDS.labels)
_seconds = cache(SECONDS.labels)

UPDATES: Mapping[str, Any] = {
    "CreateOrder": OrderWorkflow.create_order,
    "AddOrderItem": OrderWorkflow.add_order_item,
    "CompleteOrder": OrderWorkflow.complete_order,
    "DeleteOrder": OrderWorkflow.delete_order,
    "CompleteShipment": OrderWorkflow.complete_shipment,
}
"""The update that takes each command."""

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.05
# The server takes ten updates of a run at a time; at one more it drops what the run is working on, to begin again.
# An order does one thing after the other anyway, so a few are enough: three gateways fit.
_AT_ONCE = 3
# A refusal that comes at once is told at once, even to a caller who doesn't wait.
_PROMPT_SECONDS = 0.05
# What the server says of an update whose run ended before it was through with it.
_CUT_OFF = frozenset({"AcceptedUpdateCompletedWorkflow", "UnprocessedUpdate"})
_NO_RUN = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.ABORTED})
_OUT_OF_ORDER = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.INTERNAL,
        RPCStatusCode.UNKNOWN,
        # The order's run can't go on: its worker fails.
        RPCStatusCode.FAILED_PRECONDITION,
    }
)
_WHO_KNOWS = (
    "Whether the command was done is not known: the same request with the same Idempotency-Key finds out, "
    "and does it if it wasn't"
)


class _DoneBefore(Exception):
    """The command was done once, and its order was removed for good."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt


class Commands:
    """Sends commands to the runs of their orders, and brings back what became of them."""

    def __init__(self, temporal: Client, store: EventStore, settings: Settings) -> None:
        self._temporal = temporal
        self._store = store
        self._settings = settings
        self._under_way = 0
        self._gates: WeakValueDictionary[UUID, asyncio.Semaphore] = WeakValueDictionary()

    async def perform(self, request: CommandRequest, order_id: UUID) -> Receipt:
        """Send the command and wait for its receipt.

        Raises the Refusal, or Unavailable after `request_timeout` at the latest: then nobody knows what became of it.
        """
        return await self._observed(request, order_id, wait=True)

    async def submit(self, request: CommandRequest, order_id: UUID) -> None:
        """Send the command, and wait until it is sure to be carried out. Raises like `perform`."""
        await self._observed(request, order_id, wait=False)

    async def order_of(self, shipment_id: UUID) -> UUID:
        """The order that the shipment belongs to, by the event store. Raises ShipmentNotFound."""
        first = await self._first_event(shipment_id)
        if not isinstance(first, ShipmentCreated):
            raise ShipmentNotFound
        return first.order_id

    async def _observed(self, request: CommandRequest, order_id: UUID, *, wait: bool) -> Any:
        outcome = "internal-error"
        began = time.perf_counter()
        run = workflow_id(order_id)
        span = tracing.following(
            f"update {request.command}", request.traceparent, kind="CLIENT", attributes={"temporalWorkflowID": run}
        )
        if span.traceparent:
            # The run's steps follow from this, also those that it takes when this has its answer.
            request = request.model_copy(update={"traceparent": span.traceparent})
        with bound_contextvars(order_id=str(order_id), workflow_id=run), tracing.within(span):
            try:
                receipt = await self._bounded(request, order_id, wait=wait)
            except (Refusal, HttpProblem) as problem:
                outcome = problem.code
                if isinstance(problem, HttpProblem):
                    span.failed(outcome)
                log.info("command.refused", command=request.command, code=outcome)
                raise
            except Exception as error:
                span.failed(type(error).__name__)
                raise
            else:
                outcome = "done" if wait else "accepted"
                log.debug("command.answered", command=request.command, outcome=outcome)
                return receipt
            finally:
                span.tell({"waybill.outcome": outcome})
                _commands(request.command, outcome).inc()
                _seconds(request.command).observe(time.perf_counter() - began)

    async def _bounded(self, request: CommandRequest, order_id: UUID, *, wait: bool) -> Any:
        if self._under_way >= self._settings.max_commands:
            raise TooManyRequests("Too many commands at once for this gateway: nothing was done, send it again")
        self._under_way += 1
        try:
            return await self._sent(request, order_id, wait=wait)
        finally:
            self._under_way -= 1

    async def _sent(self, request: CommandRequest, order_id: UUID, *, wait: bool) -> Any:
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                async with self._gate(order_id):
                    return await self._until_through(request, order_id, wait=wait)
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise Unavailable(_WHO_KNOWS) from None
        except RPCError as error:
            if error.status == RPCStatusCode.RESOURCE_EXHAUSTED:
                raise TooManyRequests("Too many commands at once for this order: send it again") from None
            if error.status in _OUT_OF_ORDER:
                log.warning("temporal.unavailable", status=error.status.name, command=request.command)
                raise Unavailable(_WHO_KNOWS) from None
            raise
        except RuntimeError as error:
            # This is how a lazy client says that there is nobody to connect to.
            if "client connect" in str(error):
                log.warning("temporal.unreachable", command=request.command)
                raise Unavailable("Temporal can't be reached: nothing was done") from None
            raise

    def _gate(self, order_id: UUID) -> asyncio.Semaphore:
        """Lets a few commands of one order through at a time."""
        gate = self._gates.get(order_id)
        if gate is None:
            gate = self._gates[order_id] = asyncio.Semaphore(_AT_ONCE)
        return gate

    async def _until_through(self, request: CommandRequest, order_id: UUID, *, wait: bool) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                handle = await self._update(request, order_id, wait=wait)
                return await (handle.result() if wait else _prompt_refusal(handle))
            except _DoneBefore as done:
                return done.receipt
            except WorkflowUpdateFailedError as failed:
                _raise_unless_cut_off(failed)
            except RPCError as error:
                if error.status not in _NO_RUN:
                    raise
            log.info("command.again", command=request.command)
            await asyncio.sleep(_PAUSE_SECONDS * 2**attempt)
        raise Unavailable(_WHO_KNOWS)

    async def _update(self, request: CommandRequest, order_id: UUID, *, wait: bool) -> WorkflowUpdateHandle[Receipt]:
        """The update, accepted by the order's run. Without a run, one is started if there is, or will be, an order."""
        stage = WorkflowUpdateStage.COMPLETED if wait else WorkflowUpdateStage.ACCEPTED
        update, update_id = UPDATES[request.command], _update_id(request)
        if request.command == CreateOrder.__name__:
            order = CreateOrder.model_validate(request.data)
            start = self._start(order_id, order, OrderStart)
        else:
            run = self._temporal.get_workflow_handle(workflow_id(order_id))
            try:
                return await run.start_update(  # pyright: ignore[reportUnknownMemberType] - an overload lacks types
                    update, request, id=update_id, wait_for_stage=stage
                )
            except RPCError as error:
                if error.status not in _NO_RUN:
                    raise
            start = self._start(order_id, await self._created(order_id, request), OrderStart.reviving)
        try:
            return await self._temporal.start_update_with_start_workflow(  # pyright: ignore[reportUnknownMemberType] - likewise
                update, request, id=update_id, wait_for_stage=stage, start_workflow_operation=start
            )
        except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError):
            # The operation has the error, too; asyncio complains about one that nobody has looked at.
            with suppress(RPCError, asyncio.CancelledError):
                await start.workflow_handle()
            raise

    def _start(
        self, order_id: UUID, order: CreateOrder | OrderCreated, starting: Callable[..., OrderStart]
    ) -> WithStartWorkflowOperation[OrderWorkflow, str]:
        start = starting(
            order_id=order_id,
            idle_seconds=self._settings.order_idle_timeout,
            step_seconds=self._settings.command_timeout,
            discreet=self._settings.payload_key is not None,
        )
        options = start_options(start, order.order_number, order.business_partner, self._settings.task_queue)
        return WithStartWorkflowOperation(OrderWorkflow.run, start, **options)

    async def _created(self, order_id: UUID, request: CommandRequest) -> OrderCreated:
        first = await self._first_event(order_id)
        if isinstance(first, OrderCreated):
            return first
        if request.keyed:
            # Of an order that was purged, its commands are answered still.
            known = await self._store.recall(request.command_id, event_id(request.command_id, 0))
            if known.answer:
                raise _DoneBefore(recalled(request, known.answer))
        raise OrderNotFound

    async def _first_event(self, stream_id: UUID) -> object:
        recorded = await self._store.read_stream(str(stream_id), limit=1)
        return next((event for first in recorded for event in decode(first)), None)


def _update_id(request: CommandRequest) -> str:
    """Each sending is an update of its own: the command's id makes the command one.

    To an update that it knows Temporal gives the old answer without asking the run, even if that was "unavailable",
    and even if the run has ended since.
    """
    return f"{request.command_id}-{uuid4()}"


async def _prompt_refusal(handle: WorkflowUpdateHandle[Receipt]) -> None:
    with suppress(TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        async with asyncio.timeout(_PROMPT_SECONDS):
            await handle.result()


def _raise_unless_cut_off(failed: WorkflowUpdateFailedError) -> None:
    """The refusal that the failure stands for. Returns if the run has ended and the update has to be sent again."""
    cause = failed.cause
    if not isinstance(cause, ApplicationError) or cause.type is None:
        raise failed
    if cause.type in _CUT_OFF:
        return
    if cause.type == UNAVAILABLE:
        raise Unavailable(_WHO_KNOWS) from None
    if cause.type in REFUSALS:
        raise Refusal.of(cause.type, cause.message, *cause.details[:1] or ({},)) from None
    raise failed
