"""One order, one run: from its creation to its shipment, one command at a time.

The run drives two aggregates and remembers only what it needs for that. It may end when it is idle, or be ended by
an operator, at any time: the next command starts another, which looks up in the event store where the order stands.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from domain.commands import CommandRequest, Receipt
    from domain.ids import caused_command_id, correlation_id, shipment_id
    from domain.refusals import ShipmentAlreadyCreated
    from workflows import pipeline
    from workflows.messages import WORKFLOW_TYPE, Milestone, OrderStart

ORDER_NUMBER = SearchAttributeKey.for_keyword("OrderNumber")
ORDER_STATUS = SearchAttributeKey.for_keyword("OrderStatus")
BUSINESS_PARTNER = SearchAttributeKey.for_keyword("BusinessPartner")

# Lines that a person reads at a glance; an order with hundreds of items shows its latest.
_MILESTONES = 30
_FINAL = frozenset({"SHIPPED", "DELETED", "UNREADABLE"})
# Between two tries to create a shipment or to look an order up: a completed order never gives up on its shipment.
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=1)


@workflow.defn(name=WORKFLOW_TYPE)
class OrderWorkflow:
    """The process of one order. Updates are its commands; its result says how it ended."""

    @workflow.init
    def __init__(self, start: OrderStart) -> None:
        self._start = start
        self._memory = start.memory
        self._one_at_a_time = asyncio.Lock()
        self._last_work = workflow.now()
        self._pause = _FIRST_PAUSE
        self._trouble = False
        self._settled_position = 0
        self._idle = False

    @workflow.run
    async def run(self, start: OrderStart) -> str:
        """Ends as `shipped`, `deleted`, `idle` (nothing to do for long), `nothing` (no order came) or `unreadable`."""
        self._show()
        self._watch = asyncio.create_task(self._watch_idleness(timedelta(seconds=start.idle_seconds)))
        while True:
            await workflow.wait_condition(lambda: self._has_work or self._wants_to_end)
            if self._memory.unsure:
                await self._patiently(self._look_up)
            elif self._memory.owed:
                await self._patiently(self._create_shipment)
            elif await self._is_quiet():
                if self._ended:
                    return self._ended
                if workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(start.model_copy(update={"memory": self._memory}))
                if self._idle:
                    return "idle"

    # --- Updates: each a command, and the answer to it

    @workflow.update(name="create_order")
    async def create_order(self, request: CommandRequest) -> Receipt:
        return await self._handle(request)

    @workflow.update(name="add_order_item")
    async def add_order_item(self, request: CommandRequest) -> Receipt:
        return await self._handle(request)

    @workflow.update(name="complete_order")
    async def complete_order(self, request: CommandRequest) -> Receipt:
        receipt = await self._handle(request)
        # The shipment is made within the same workflow task, unless something is wrong; then it comes later.
        await workflow.wait_condition(lambda: self._memory.owed is None or self._trouble)
        settled = self._settled_position if self._memory.owed is None else -1
        return receipt.model_copy(update={"settled_position": settled})

    @workflow.update(name="delete_order")
    async def delete_order(self, request: CommandRequest) -> Receipt:
        return await self._handle(request)

    @workflow.update(name="complete_shipment")
    async def complete_shipment(self, request: CommandRequest) -> Receipt:
        return await self._handle(request)

    @workflow.signal(name="look_up")
    def look_up(self) -> None:
        """Something may have happened to the order that this run doesn't know of: another program wrote it, say."""
        self._memory = self._memory.model_copy(update={"unsure": True})

    @create_order.validator
    def _is_create_order(self, request: CommandRequest) -> None:
        self._require(request, "CreateOrder")

    @add_order_item.validator
    def _is_add_order_item(self, request: CommandRequest) -> None:
        self._require(request, "AddOrderItem")

    @complete_order.validator
    def _is_complete_order(self, request: CommandRequest) -> None:
        self._require(request, "CompleteOrder")

    @delete_order.validator
    def _is_delete_order(self, request: CommandRequest) -> None:
        self._require(request, "DeleteOrder")

    @complete_shipment.validator
    def _is_complete_shipment(self, request: CommandRequest) -> None:
        # Of any id: an adopted order's shipment has one that doesn't derive from the order's. That it is this order's
        # is seen where the shipment is loaded.
        if request.command != "CompleteShipment" or request.correlation_id != correlation_id(self._start.order_id):
            raise _astray("CompleteShipment", self._start.order_id)

    def _require(self, request: CommandRequest, command: str) -> None:
        order_id = self._start.order_id
        if request.command != command or str(request.data.get("id")).lower() != str(order_id):
            raise _astray(command, order_id)

    # --- Work

    async def _handle(self, request: CommandRequest) -> Receipt:
        async with self._one_at_a_time:
            await workflow.wait_condition(lambda: not self._memory.unsure or self._trouble)
            receipt, done_before = await self._decide(request)
            # What was in the way is gone: no need to wait any longer for the next try.
            self._trouble = False
            if done_before and self._memory.status is None:
                # A run that doesn't know its order can't tell what has come after such an old answer.
                self._remember(request.command, "answered again", unsure=True)
            else:
                self._apply(request.command, receipt)
            return receipt

    async def _decide(self, request: CommandRequest) -> pipeline.Handled:
        pause = _FIRST_PAUSE
        while True:
            try:
                return await pipeline.handle(request, self._start.step_seconds)
            except ApplicationError as failure:
                # It may have been done all the same.
                undecided = failure.type == pipeline.UNAVAILABLE
                self._remember(request.command, str(failure.type), unsure=self._memory.unsure or undecided)
                if not (undecided and request.unattended):
                    raise
            await workflow.sleep(pause, summary="until an unattended command is tried again")
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _apply(self, command: str, receipt: Receipt) -> None:
        status, owed, unsure = self._memory.status, self._memory.owed, self._memory.unsure
        own_shipment = shipment_id(self._start.order_id)
        match command:
            case "CompleteShipment" if receipt.id == own_shipment:
                status = "SHIPPED"
            case "CompleteShipment":
                # An adopted order may have several: whether this was the one that counts is looked up.
                unsure = True
            case "CreateShipment":
                owed = None
                self._settled_position = receipt.position
            case "CompleteOrder" if status not in {"COMPLETED", "SHIPPED"}:
                # An adopted order may have its shipment already: it never gets a second one.
                status, owed = "COMPLETED", receipt.event_id if receipt.shipment_id == own_shipment else None
            case _ if status not in _FINAL and status != "COMPLETED":
                status = receipt.status
            case _:
                # A repeated command's answer is old news.
                pass
        outcome = f"{receipt.status}, version {receipt.version}"
        self._remember(command, outcome, status=status, owed=owed, unsure=unsure)

    async def _create_shipment(self) -> None:
        cause = self._memory.owed
        assert cause is not None
        order_id = self._start.order_id
        request = CommandRequest(
            command="CreateShipment",
            data={"id": str(shipment_id(order_id)), "order_id": str(order_id)},
            command_id=caused_command_id(cause, "CreateShipment"),
            causation_id=cause,
            correlation_id=correlation_id(order_id),
            actor="waybill",
        )
        try:
            receipt = await pipeline.follow_up(request, self._start.step_seconds)
        except ApplicationError as failure:
            if failure.type != ShipmentAlreadyCreated.code:
                raise
            self._remember("CreateShipment", str(failure.type), owed=None)
        else:
            self._apply("CreateShipment", receipt)

    async def _look_up(self) -> None:
        commands = self._memory.commands
        known = await pipeline.recall(self._start.order_id, self._start.step_seconds)
        if self._memory.commands != commands:
            # In times of trouble commands don't wait for it. What was looked up may be older than what they did.
            return
        if known.order_number and known.business_partner and not self._start.discreet:
            _tag(ORDER_NUMBER.value_set(known.order_number), BUSINESS_PARTNER.value_set(known.business_partner))
        self._remember("look up", known.status or "no order", status=known.status, owed=known.owed, unsure=False)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Try until it works, with longer and longer pauses; whoever waits for it is told that there is trouble."""
        try:
            await work()
        except ApplicationError as failure:
            workflow.logger.warning("order process is held up: %s", failure.message)
            self._trouble = True
            self._show()
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: not self._trouble, timeout=self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        else:
            self._trouble, self._pause = False, _FIRST_PAUSE

    # --- Rest

    @property
    def _ended(self) -> str | None:
        if self._memory.status in _FINAL:
            return str(self._memory.status).lower()
        return "nothing" if self._memory.status is None and self._memory.commands else None

    @property
    def _has_work(self) -> bool:
        return self._memory.unsure or self._memory.owed is not None

    @property
    def _wants_to_end(self) -> bool:
        return self._idle or self._ended is not None or workflow.info().is_continue_as_new_suggested()

    async def _watch_idleness(self, limit: timedelta) -> None:
        """One timer per idle time, not one per command: it is looked at when it is over, and set for the rest."""
        while True:
            rest = max(limit - (workflow.now() - self._last_work), timedelta(milliseconds=1))
            await workflow.sleep(rest, summary="until the order counts as idle")
            self._idle = workflow.now() - self._last_work >= limit
            await workflow.wait_condition(lambda: not self._idle)

    async def _is_quiet(self) -> bool:
        """Wait until no command is under way. False if one of them has left work to do."""
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() or self._has_work)
        return not self._has_work

    # --- What is known, and shown

    def _remember(self, what: str, outcome: str, **known: object) -> None:
        before = self._memory.status
        milestone = Milestone(at=workflow.now(), what=what, outcome=outcome)
        milestones = (*self._memory.milestones, milestone)[-_MILESTONES:]
        self._memory = self._memory.model_copy(
            update={"milestones": milestones, "commands": self._memory.commands + 1, **known}
        )
        self._last_work, self._idle = workflow.now(), False
        if self._memory.status and self._memory.status != before:
            _tag(ORDER_STATUS.value_set(self._memory.status))
        self._show()

    def _show(self) -> None:
        memory = self._memory
        state = memory.status or "no order yet"
        if memory.owed:
            state += ", waiting for its shipment"
        if self._trouble:
            state += ", held up: the stores can't be reached, trying again"
        rows = "".join(f"| {m.at:%Y-%m-%d %H:%M:%S} | {m.what} | {m.outcome} |\n" for m in memory.milestones)
        table = f"\n\n| when (UTC) | what | outcome |\n|---|---|---|\n{rows}" if rows else ""
        workflow.set_current_details(f"**{state}**{table}")


def _astray(command: str, order_id: UUID) -> ApplicationError:
    """Rejects a command that isn't this run's before it leaves a trace."""
    message = f"This update takes the command {command} for {order_id}"
    return ApplicationError(message, type="misdirected", non_retryable=True)


def _tag(*updates: SearchAttributeUpdate[str]) -> None:
    workflow.upsert_search_attributes(updates)  # pyright: ignore[reportUnknownMemberType] - the SDK's own overload
