"""Step 4: decide on what is, and append what follows; what it says is then a fact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import structlog
from temporalio import activity

import tracing
from activities.enrich_command import Enrichment
from activities.failures import CLAIM_LOST, ORDER_MOVED, benign, refusing, require_same_request
from activities.reserve_uniqueness import claims
from domain import order, shipment
from domain.aggregates import COMMANDS, ORDER, Aggregate, Command, Event, status_after
from domain.commands import CommandRequest, Receipt
from domain.ids import correlation_id, event_id
from domain.refusals import IdempotencyKeyReused, PreconditionFailed, ShipmentNotFound
from domain.values import Value
from eventstore.claims import ORDER_NUMBER, shipment_of
from eventstore.codec import decode, encode, encode_snapshot
from eventstore.products import KEEP_EVERY, keep_products
from eventstore.repository import Loaded, load
from eventstore.store import (
    Append,
    Appended,
    Claim,
    ClaimLost,
    DuplicateEvent,
    EventStore,
    NewEvent,
    RecordedEvent,
    WrongExpectedVersion,
)

log = structlog.get_logger(__name__)


class Execution(Value):
    request: CommandRequest
    enrichment: Enrichment | None = None


@dataclass(frozen=True)
class ExecuteAndAppend:
    store: EventStore
    snapshot_interval: Callable[[str], int]

    @activity.defn(name="ExecuteAndAppend")
    async def run(self, execution: Execution) -> Receipt:
        """Idempotent by command id: a command that has its event gets the first answer again."""
        request = execution.request
        aggregate, _ = COMMANDS[request.command]
        async with refusing(self.store, request):
            command = request.parse()
            loaded = await load(self.store, aggregate, str(command.id), event_id(request.command_id, 0))
            if loaded.repeated:
                return await self._repeated(request, command, loaded, loaded.repeated)
            _require_version(execution, loaded.version)
            _require_process(request, loaded.state)
            events = aggregate.decide(_enriched(command, execution.enrichment), loaded.state)
            appended = await self._append(request, command, loaded, events)
        state = aggregate.fold(events, loaded.state)
        version = appended.first_version + len(events) - 1
        await self._keep(aggregate, str(command.id), loaded.version, version, state)
        return await self._receipt(request, state, events[-1], version, appended.first_position + len(events) - 1)

    async def _repeated(
        self, request: CommandRequest, command: Command, loaded: Loaded[Any], event: RecordedEvent
    ) -> Receipt:
        require_same_request(request, event.metadata)
        # An adopted stream may be named by its id in another form.
        if UUID(event.stream_id) != command.id:
            raise IdempotencyKeyReused
        (decoded,) = decode(event)
        return await self._receipt(request, loaded.state, decoded, event.version, event.position)

    async def _receipt(self, request: CommandRequest, state: Any, event: Event, version: int, position: int) -> Receipt:
        of_shipment = isinstance(event, shipment.Event)
        completed = isinstance(event, order.OrderCompleted)
        return Receipt(
            id=event.id,
            order_id=state.order_id if of_shipment else event.id,
            order_number=None if of_shipment else state.order_number,
            status=status_after(event),
            version=version,
            position=position,
            event_id=event_id(request.command_id, 0),
            shipment_id=await shipment_of(self.store, event.id) if completed else None,
        )

    async def _append(
        self, request: CommandRequest, command: Command, loaded: Loaded[Any], events: Sequence[Event]
    ) -> Appended:
        deleted = any(isinstance(event, order.OrderDeleted) for event in events)
        append = Append(
            stream_id=str(command.id),
            expected=loaded.version,
            events=[_new_event(request, index, event) for index, event in enumerate(events)],
            confirm=claims(request),
            release=[Claim(ORDER_NUMBER, loaded.state.order_number, loaded.state.id)] if deleted else (),
        )
        try:
            return await self.store.append(append)
        except ClaimLost as lost:
            raise benign(str(lost), CLAIM_LOST) from None
        except WrongExpectedVersion as moved:
            raise benign(str(moved), ORDER_MOVED) from None
        except DuplicateEvent:
            if request.keyed:
                raise IdempotencyKeyReused from None
            raise

    async def _keep(
        self, aggregate: Aggregate[Any, Any, Any], stream_id: str, before: int, version: int, state: Value
    ) -> None:
        """Spare later commands the whole history. Caches: this one has succeeded whether they are written or not."""
        try:
            if _passes(self.snapshot_interval(aggregate.name), before, version):
                await self.store.record_snapshot(encode_snapshot(aggregate, stream_id, version, state))
            if aggregate is ORDER and _passes(KEEP_EVERY, before, version):
                await keep_products(self.store, stream_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the events are written
            log.warning("cache.not_written", stream_id=stream_id, reason=str(error))


def _passes(interval: int, before: int, version: int) -> bool:
    """Whether a multiple of the interval lies between the two versions; 0 means never."""
    return interval > 0 and before // interval != version // interval


def _enriched(command: Command, enrichment: Enrichment | None) -> Command:
    if isinstance(command, order.CompleteOrder):
        # Never what the caller says is blocked, always what was looked up.
        assert enrichment is not None
        return command.model_copy(update={"blocked_products": enrichment.blocked_products})
    return command


def _require_version(execution: Execution, version: int) -> None:
    expected = execution.request.expected_version
    if expected is not None and expected != version:
        raise PreconditionFailed.at(expected=expected, actual=version)
    if execution.enrichment and execution.enrichment.order_version != version:
        raise benign("The order has changed since it was looked at", ORDER_MOVED)


def _require_process(request: CommandRequest, state: Value) -> None:
    """A shipment is completed by its order's run: no other would know that it has gone out."""
    if isinstance(state, shipment.Open) and request.correlation_id != correlation_id(state.order_id):
        raise ShipmentNotFound


def _new_event(request: CommandRequest, index: int, event: Event) -> NewEvent:
    info = activity.info()
    metadata = {
        "command_id": str(request.command_id),
        "command": request.command,
        "actor": request.actor,
        "fingerprint": request.fingerprint,
        "request_id": request.request_id,
        "workflow_id": info.workflow_id,
        "run_id": info.workflow_run_id,
    }
    # With a span of this step's own, what follows from the event follows from that.
    if traceparent := tracing.current().traceparent or request.traceparent:
        metadata["traceparent"] = traceparent
    kind, data = encode(event)
    return NewEvent(
        event_id=event_id(request.command_id, index),
        type=kind,
        data=data,
        metadata=orjson.dumps(metadata),
        causation_id=request.causation_id or request.command_id,
        correlation_id=request.correlation_id,
    )
