"""What the journal of the calls and the evidence in the end say about each other. An empty list means that they agree.

The rules are written down here once more, from the documentation: nothing of Waybill's own code judges it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid5

from proof.evidence import TOO_SLOW, Event, Evidence
from proof.fold import folded
from proof.journal import Call, acknowledged

_NAMESPACE = UUID("8c8f5b0e-2c5b-5d0a-9a55-3c1f6f0f7a11")
_CREATED, _ADDED = "Order.OrderCreated", "Order.OrderItemAdded"
_COMPLETED, _DELETED = "Order.OrderCompleted", "Order.OrderDeleted"
_SHIPMENT, _SHIPPED = "Shipment.ShipmentCreated", "Shipment.ShipmentCompleted"
_FOLLOWS: Mapping[str | None, Sequence[str]] = {
    None: (_CREATED, _SHIPMENT),
    _CREATED: (_ADDED, _COMPLETED, _DELETED),
    _ADDED: (_ADDED, _COMPLETED, _DELETED),
    _COMPLETED: (),
    _DELETED: (),
    _SHIPMENT: (_SHIPPED,),
    _SHIPPED: (),
}
"""What may be the next event of a stream."""

# A worker that dies, or an update that comes in between, costs a workflow task; that is not a failing workflow.
_HARMLESS = frozenset({"WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND", "WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_UPDATE"})


@dataclass
class Case:
    """All that is known, and what several checks look up in it."""

    calls: Sequence[Call]
    evidence: Evidence
    gone: Collection[str | None] = ()
    """Keys whose customers didn't wait for the answer."""

    @cached_property
    def requests(self) -> dict[str, list[Call]]:
        """Writes by their keys."""
        found: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.writes and call.key:
                found[call.key].append(call)
        return found

    @cached_property
    def by_id(self) -> dict[UUID, Event]:
        return {event.id: event for event in self.evidence.events}

    @cached_property
    def by_request(self) -> dict[str, list[Event]]:
        """Events by the request that they say they come from."""
        found: defaultdict[str, list[Event]] = defaultdict(list)
        for event in self.evidence.events:
            found[str(event.metadata.get("request_id"))].append(event)
        return found

    @cached_property
    def streams(self) -> dict[str, list[Event]]:
        found: defaultdict[str, list[Event]] = defaultdict(list)
        for event in self.evidence.events:
            found[event.stream].append(event)
        return found

    def effects(self, call: Call) -> list[Event]:
        """The events of a write: known by its key, or without one by its request."""
        if call.key is None:
            return self.by_request.get(call.request_id, [])
        event = self.by_id.get(first_event_id(call.key))
        return [event] if event else []


def first_event_id(key: str) -> UUID:
    """Of the command that a caller without a name of his own sends under this key."""
    return uuid5(command_id(key), "0")


def command_id(key: str) -> UUID:
    return uuid5(_NAMESPACE, f"anonymous\n{key}")


Check = Callable[[Case], Iterator[str | None]]
"""Yields something for each thing that it has looked at: what is wrong with it, or None."""


# --- Requests


def no_acknowledged_write_is_lost(case: Case) -> Iterator[str | None]:
    for call in acknowledged(case.calls):
        if call.path.startswith("/blocked-products"):
            continue
        found = case.effects(call)
        if len(found) != 1:
            yield f"{_name(call)} was acknowledged: {len(found)} events of it are there"
            continue
        yield _mismatch(call, found[0])


def _mismatch(call: Call, event: Event) -> str | None:
    """What the event isn't that its request has asked for and its answer has told."""
    kind, stream, data = _asked(call, event)
    told = call.answer or {}
    if event.type != kind or event.stream != stream or event.data != data:
        return f"{_name(call)}: event {event.id} is {event.type} of {event.stream}, not what was asked for"
    if (
        call.done
        and told
        and (told["id"], told["version"], told["position"]) != (stream, event.version, event.position)
    ):
        return f"{_name(call)}: was told {told}, is at version {event.version}, position {event.position}"
    return None


def _asked(call: Call, event: Event) -> tuple[str, str, Mapping[str, Any]]:
    """Type, stream and data of the event that the request is for."""
    match call.method, call.path.strip("/").split("/"):
        case "POST", ["orders"]:
            order = call.body.get("id") or str(uuid5(command_id(call.key or ""), "order"))
            return _CREATED, order, {**call.body, "id": order}
        case "POST", ["orders", order, "items"]:
            return _ADDED, order, {**call.body, "id": order}
        case "POST", ["orders", order, "complete"]:
            return _COMPLETED, order, {"id": order}
        case "DELETE", ["orders", order]:
            return _DELETED, order, {"id": order}
        case "POST", ["shipments", shipment, "complete"]:
            return _SHIPPED, shipment, {"id": shipment}
        case _:
            return "", "", {}


def no_acknowledged_change_of_the_blocked_products_is_lost(case: Case) -> Iterator[str | None]:
    """Each product has one customer, who changes one thing after the other; the last one counts."""
    changes: defaultdict[str, list[list[Call]]] = defaultdict(list)
    for calls in case.requests.values():
        if calls[0].path.startswith("/blocked-products"):
            changes[calls[0].path].append([call for call in calls if call.path == calls[0].path])
    for path, requests in changes.items():
        last = max(requests, key=lambda calls: calls[0].began)
        if not all(any(call.done for call in calls) for calls in requests):
            continue
        product = UUID(path.rpartition("/")[2])
        if (product in case.evidence.blocked) != (last[0].method == "PUT"):
            yield f"{_name(last[0])} was acknowledged last, and isn't so"
        else:
            yield None


def no_event_is_without_a_request(case: Case) -> Iterator[str | None]:
    calls = {call.request_id: call for call in case.calls if call.writes}
    for event in case.evidence.events:
        if event.type == _SHIPMENT:
            yield _not_caused(case, event)
            continue
        call = calls.get(str(event.metadata.get("request_id")))
        if call is None:
            yield f"position {event.position}: nobody has asked for {event.type} of {event.stream}"
        elif call.key and event.id != first_event_id(call.key):
            yield f"position {event.position}: {event.type} of {event.stream} is not of {_name(call)}'s command"
        else:
            yield _mismatch(call, event)


def _not_caused(case: Case, event: Event) -> str | None:
    """A shipment follows from its order's completion."""
    cause = case.by_id.get(event.causation_id) if event.causation_id else None
    order = str(event.data["order_id"])
    if (
        cause is None
        or (cause.type, cause.stream) != (_COMPLETED, order)
        or cause.position > event.position
        or event.id != uuid5(uuid5(cause.id, "CreateShipment"), "0")
        or event.data["id"] != event.stream != str(uuid5(UUID(order), "shipment"))
    ):
        return f"position {event.position}: shipment {event.stream} does not follow from the completion of {order}"
    return None


def a_key_has_one_effect_and_one_answer(case: Case) -> Iterator[str | None]:
    by_command: defaultdict[str, int] = defaultdict(int)
    for event in case.evidence.events:
        by_command[str(event.metadata.get("command_id"))] += 1
    for key, calls in case.requests.items():
        first = calls[0]
        same = [call for call in calls if (call.method, call.path, call.body) == (first.method, first.path, first.body)]
        outcomes = [call.outcome for call in same if call.final]
        effects = by_command[str(command_id(key))]
        if any(outcome != outcomes[0] for outcome in outcomes):
            yield f"{_name(first)}: got different answers: {outcomes}"
        elif effects > 1:
            yield f"{_name(first)}: had {effects} effects"
        else:
            yield _wrong_reuse([call for call in calls if call not in same and call.final])


def _wrong_reuse(others: Sequence[Call]) -> str | None:
    """Another request under a key that is known."""
    for call in others:
        if call.code != "idempotency-key-reused":
            return f"{_name(call)}: is another request under this key, and got {call.status} {call.code}"
    return None


def what_was_refused_was_not_done(case: Case) -> Iterator[str | None]:
    for call in case.calls:
        if call.writes and call.final and not call.done and call.code != "idempotency-key-reused":
            yield f"{_name(call)}: {call.status} {call.code}, and is there" if case.effects(call) else None


def answers_are_what_is_promised(case: Case) -> Iterator[str | None]:
    """No error of the gateway's own, and every refusal with its code."""
    for call in case.calls:
        if call.status is None or call.status == 502:
            continue  # 502 is what our own proxy says.
        if call.status == 500:
            yield f"{_name(call)}: internal error"
        else:
            yield f"{_name(call)}: {call.status} without a code" if call.status >= 400 and not call.code else None


def reads_show_what_was_acknowledged(case: Case) -> Iterator[str | None]:
    for call in case.calls:
        if call.writes or call.status is None or call.status in {502, 503}:
            continue
        version = call.answer["version"] if call.status == 200 else 0
        yield f"{_name(call)}: shows version {version} after {call.at_least}" if version < call.at_least else None


# --- Order numbers


def an_order_number_has_one_winner(case: Case) -> Iterator[str | None]:
    held: dict[str, str] = {}
    number_of: dict[str, str] = {}
    for event in case.evidence.events:
        if event.type == _CREATED:
            number = event.data["order_number"]
            number_of[event.stream] = number
            if number in held:
                yield f"position {event.position}: {number} is {held[number]}'s, and now {event.stream}'s, too"
            else:
                yield None
            held[number] = event.stream
        elif event.type == _DELETED:
            held.pop(number_of.get(event.stream, ""), None)
    claims = {number: str(owner) for number, owner in case.evidence.numbers.items()}
    for number in claims.keys() | held.keys():
        if claims.get(number) != held.get(number):
            yield f"{number}: claimed for {claims.get(number)}, is {held.get(number)}'s"
    yield from _taken_by_nobody(case)


def _taken_by_nobody(case: Case) -> Iterator[str | None]:
    had = {event.data["order_number"]: event.stream for event in case.evidence.events if event.type == _CREATED}
    for call in case.calls:
        if call.code == "order-number-taken":
            number = call.body["order_number"]
            yield None if number in had else f"{_name(call)}: {number} was taken, says the answer, but by no order"


# --- The event store


def stream_versions_are_gapless_and_legal(case: Case) -> Iterator[str | None]:
    for stream, head in case.evidence.heads.items():
        versions = case.evidence.versions.get(stream, [])
        if versions != list(range(1, head + 1)):
            yield f"{stream}: says {head}, has {_shown(versions)}"
        else:
            yield None
    for stream, events in case.streams.items():
        events.sort(key=lambda event: event.version)
        before = [None, *(event.type for event in events)]
        wrong = next(
            (event for last, event in zip(before, events, strict=False) if event.type not in _FOLLOWS[last]), None
        )
        positions = [event.position for event in events]
        if wrong:
            yield f"{stream}: {wrong.type} at version {wrong.version} is not legal"
        elif positions != sorted(positions) or any(event.data["id"] != stream for event in events):
            yield f"{stream}: its events are out of order, or another's"
        else:
            yield None


def the_global_sequence_is_dense(case: Case) -> Iterator[str | None]:
    events = case.evidence.events
    head = case.evidence.heads["$all"]
    positions = [event.position for event in events]
    yield f"$all: says {head}, has {_shown(positions)}" if positions != list(range(1, head + 1)) else None
    yield "$all: an event is there twice" if len(case.by_id) != len(events) else None
    for earlier, later in pairwise(events):
        yield f"$all: time runs backwards at {later.position}" if later.created_at < earlier.created_at else None


# --- Views


def rows_are_what_the_events_make_of_them(case: Case) -> Iterator[str | None]:
    orders, items, shipments = folded(case.evidence.events)
    tables = (
        ("orders", orders, case.evidence.orders),
        ("order_items", items, case.evidence.items),
        ("shipments", shipments, case.evidence.shipments),
    )
    for table, due, shown in tables:
        for row_id in due.keys() | shown.keys():
            wrong = due.get(row_id) != shown.get(row_id)
            yield f"{table} {row_id}: is {shown.get(row_id)}, should be {due.get(row_id)}" if wrong else None
    for order_id in orders.keys() | case.evidence.listed.keys():
        row = orders.get(order_id)
        due, shown = row and (row["status"], row["version"]), case.evidence.listed.get(order_id)
        yield f"GET /orders: {order_id} is {shown}, should be {due}" if due != shown else None


# --- The process


def completed_orders_are_shipped_or_wait_and_nothing_is_stuck(case: Case) -> Iterator[str | None]:
    for stream, events in case.streams.items():
        if events[-1].type == _COMPLETED:
            shipment = case.streams.get(str(uuid5(UUID(stream), "shipment")), [])
            yield None if shipment else f"{stream}: is completed and has no shipment"
    final = {stream for stream, events in case.streams.items() if events[-1].type == _DELETED}
    final |= {events[0].data["order_id"] for events in case.streams.values() if events[-1].type == _SHIPPED}
    for run in case.evidence.runs:
        order = run.workflow_id.removeprefix("order-")
        if run.stuck:
            yield f"{run.workflow_id}: waits for a worker"
        elif run.status == "RUNNING" and order in final:
            yield f"{run.workflow_id}: still runs, and its order's life is over"
        else:
            yield None
    head = case.evidence.heads["$all"]
    for name, position in case.evidence.checkpoints.items():
        yield f"{name}: is at {position} of {head}" if position != head else None
    yield f"{case.evidence.parked} events are parked" if case.evidence.parked else None
    for key, calls in case.requests.items():
        waits = key not in case.gone and not any(call.final for call in calls)
        yield f"{_name(calls[0])}: never got its answer, sent {len(calls)} times" if waits else None


def no_workflow_fails(case: Case) -> Iterator[str | None]:
    known = {run.workflow_id for run in case.evidence.runs}
    for stream, events in case.streams.items():
        if events[0].type == _CREATED and f"order-{stream}" not in known:
            yield f"order-{stream}: has no run"
    for run in case.evidence.runs:
        failures = set(run.failures) - _HARMLESS
        # Code that blocks does it again. Once is a worker that was paused, or on a machine with too much to do.
        if run.failures.count(TOO_SLOW) == 1:
            failures.discard(TOO_SLOW)
        if run.status not in {"RUNNING", "COMPLETED", "CONTINUED_AS_NEW"}:
            yield f"{run.workflow_id}: is {run.status}"
        else:
            yield f"{run.workflow_id}: its tasks have failed: {', '.join(sorted(failures))}" if failures else None


CHECKS: Mapping[str, Check] = {
    check.__name__.replace("_", " "): check
    for check in (
        no_acknowledged_write_is_lost,
        no_acknowledged_change_of_the_blocked_products_is_lost,
        no_event_is_without_a_request,
        a_key_has_one_effect_and_one_answer,
        what_was_refused_was_not_done,
        answers_are_what_is_promised,
        reads_show_what_was_acknowledged,
        an_order_number_has_one_winner,
        stream_versions_are_gapless_and_legal,
        the_global_sequence_is_dense,
        rows_are_what_the_events_make_of_them,
        completed_orders_are_shipped_or_wait_and_nothing_is_stuck,
        no_workflow_fails,
    )
}


@dataclass(frozen=True)
class Verdict:
    looked_at: int
    violations: Sequence[str]


def judge(case: Case) -> dict[str, Verdict]:
    """What each check has looked at, and what it found."""
    found: dict[str, Verdict] = {}
    for name, check in CHECKS.items():
        try:
            said = list(check(case))
        except (KeyError, TypeError, AttributeError) as error:
            said = [f"is not even of a form that can be judged: {error!r}"]
        found[name] = Verdict(len(said), [each for each in said if each])
    return found


def _name(call: Call) -> str:
    return f"call {call.number} ({call.method} {call.path}, key {call.key})"


def _shown(numbers: Sequence[int]) -> str:
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    return f"{len(numbers)} up to {max(numbers, default=0)}, without {missing[:5]}"
