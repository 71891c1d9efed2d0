"""Whatever people do to orders and shipments, in whatever order and however often, the rules hold."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from domain.aggregates import COMMANDS, ORDER, SHIPMENT, Aggregate, follow_up
from domain.ids import shipment_id
from domain.order import (
    AddOrderItem,
    CompleteOrder,
    CreateOrder,
    DeleteOrder,
    OrderCompleted,
    OrderCreated,
    OrderDeleted,
    OrderItemAdded,
)
from domain.refusals import Refusal
from domain.shipment import CompleteShipment, CreateShipment, ShipmentCompleted, ShipmentCreated
from domain.values import Item
from eventstore.codec import decode_snapshot, encode_snapshot

ORDERS = [UUID(int=number, version=4) for number in (1, 2, 3)]
PRODUCT = UUID(int=9, version=4)
STATUS_AFTER = {
    OrderCreated: "OPEN",
    OrderItemAdded: "OPEN",
    OrderCompleted: "COMPLETED",
    OrderDeleted: "DELETED",
    ShipmentCreated: "OPEN",
    ShipmentCompleted: "COMPLETED",
}

orders = st.sampled_from(ORDERS)


class OrderProcess(RuleBasedStateMachine):
    """Streams as they grow by commands that are decided on their fold, and the follow-ups of their events.

    A follow-up may come late, and more than once: the process that does them may have died in between.
    """

    follow_ups = Bundle("follow_ups")

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[UUID, list[Any]] = {}

    def send(self, command: Any) -> tuple[list[Any], str | None]:
        """The command's events, or the code of its refusal."""
        aggregate, _ = COMMANDS[type(command).__name__]
        stream = self.streams.setdefault(command.id, [])
        before = list(stream)
        try:
            events = list(aggregate.decide(command, aggregate.fold(stream)))
        except Refusal as refusal:
            assert stream == before
            return [], refusal.code
        stream.extend(events)
        return events, None

    def happened(self, stream_id: UUID) -> list[type]:
        return [type(event) for event in self.streams.get(stream_id, [])]

    @rule(order=orders)
    def create_order(self, order: UUID) -> None:
        exists = bool(self.happened(order))
        item = Item(product_id=PRODUCT, quantity=Decimal(1), uom="KG")
        _, refused = self.send(
            CreateOrder(id=order, order_number="A-1", business_partner="ann@example.com", items=(item,))
        )
        assert refused == ("order-already-created" if exists else None)

    @rule(order=orders)
    def add_item(self, order: UUID) -> None:
        expected = self.refusal_of_a_change(order)
        _, refused = self.send(AddOrderItem(id=order, product_id=PRODUCT, quantity=Decimal(2), uom="MT"))
        assert refused == expected

    @rule(target=follow_ups, order=orders)
    def complete_order(self, order: UUID) -> Any:
        expected = self.refusal_of_a_change(order)
        events, refused = self.send(CompleteOrder(id=order))
        assert refused == expected
        return multiple(*filter(None, map(follow_up, events)))

    @rule(order=orders)
    def complete_order_with_a_blocked_product(self, order: UUID) -> None:
        expected = self.refusal_of_a_change(order) or "products-blocked"
        _, refused = self.send(CompleteOrder(id=order, blocked_products=(PRODUCT,)))
        assert refused == expected

    @rule(order=orders)
    def delete_order(self, order: UUID) -> None:
        expected = self.refusal_of_a_change(order)
        _, refused = self.send(DeleteOrder(id=order))
        assert refused == expected

    def refusal_of_a_change(self, order: UUID) -> str | None:
        happened = self.happened(order)
        if not happened:
            return "order-not-found"
        if OrderCompleted in happened:
            return "order-already-completed"
        return "order-deleted" if OrderDeleted in happened else None

    @rule(target=follow_ups, command=consumes(follow_ups), again=st.booleans())
    def follow_up_comes(self, command: CreateShipment, again: bool) -> Any:
        exists = bool(self.happened(command.id))
        _, refused = self.send(command)
        assert refused == ("shipment-already-created" if exists else None)
        return multiple(command) if again else multiple()

    @rule(order=orders)
    def complete_shipment(self, order: UUID) -> None:
        happened = self.happened(shipment_id(order))
        _, refused = self.send(CompleteShipment(id=shipment_id(order)))
        if not happened:
            assert refused == "shipment-not-found"
        else:
            assert refused == ("shipment-already-completed" if ShipmentCompleted in happened else None)

    @invariant()
    def an_order_begins_with_its_creation_and_ends_with_its_completion_or_deletion(self) -> None:
        for order in ORDERS:
            happened = self.happened(order)
            assert happened[:1] in ([], [OrderCreated])
            assert OrderCreated not in happened[1:]
            assert set(happened[1:-1]) <= {OrderItemAdded}

    @invariant()
    def an_order_has_at_most_one_shipment_and_only_when_it_is_completed(self) -> None:
        shipped = [event for stream in self.streams.values() for event in stream]
        created = [event for event in shipped if isinstance(event, ShipmentCreated)]
        assert len({event.order_id for event in created}) == len(created)
        for event in created:
            assert event.id == shipment_id(event.order_id)
            assert OrderCompleted in self.happened(event.order_id)

    @invariant()
    def a_shipment_is_created_then_completed_and_that_is_all(self) -> None:
        for order in ORDERS:
            happened = self.happened(shipment_id(order))
            assert happened == [ShipmentCreated, ShipmentCompleted][: len(happened)]

    @invariant()
    def the_status_tells_what_happened_last(self) -> None:
        for order in ORDERS:
            for kind, stream_id in ((ORDER, order), (SHIPMENT, shipment_id(order))):
                aggregate: Aggregate[Any, Any, Any] = kind
                stream = self.streams.get(stream_id, [])
                expected = STATUS_AFTER[type(stream[-1])] if stream else None
                assert aggregate.status(aggregate.fold(stream)) == expected

    @invariant()
    def a_snapshot_at_any_point_leads_to_the_same_state(self) -> None:
        for order in ORDERS:
            stream = self.streams.get(order, [])
            for version in range(1, len(stream)):
                snapshot = encode_snapshot(ORDER, str(order), version, ORDER.fold(stream[:version]))
                start: Any = decode_snapshot(ORDER, snapshot)
                assert ORDER.fold(stream[version:], start) == ORDER.fold(stream)


OrderProcess.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestOrderProcess = OrderProcess.TestCase
