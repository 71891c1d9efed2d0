"""Between domain models and the JSON in the tables.

What is stored may be older than the code that reads it: upcasters turn an older shape into one or several of the
current one, on plain JSON, before pydantic sees it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from domain.aggregates import EVENT_TYPES, TYPE_OF_EVENT, Aggregate, Event
from domain.values import Value
from eventstore.store import RecordedEvent, Snapshot

S = TypeVar("S", bound=Value)
Json = dict[str, Any]
Upcaster = Callable[[Json], Sequence[tuple[str, Json]]]
"""Stored data of one event type -> (type, data) of the events that it means today."""

UPCASTERS: Mapping[str, Upcaster] = {}

SNAPSHOT_FORMAT: Json = {"snapshot_module_version": 1}


class UndecodableEvent(Exception):
    """The event can't be read as the current code understands its type."""

    def __init__(self, event: RecordedEvent, why: str) -> None:
        super().__init__(f"event {event.event_id} ({event.type}) at position {event.position}: {why}")
        self.event, self.why = event, why


def known_types() -> Sequence[str]:
    """The types of stored events that mean something here."""
    return [*EVENT_TYPES, *UPCASTERS]


def encode(event: Event) -> tuple[str, bytes]:
    """The event's type and data as they are stored."""
    return TYPE_OF_EVENT[type(event)], event.model_dump_json().encode()


def decode(recorded: RecordedEvent, upcasters: Mapping[str, Upcaster] = UPCASTERS) -> Sequence[Event]:
    """The events that a recorded one means: one as a rule, none for a type that nobody here knows.

    Raises UndecodableEvent if the type is known but the data isn't its own.
    """
    if recorded.type not in EVENT_TYPES and recorded.type not in upcasters:
        return ()
    try:
        if upcaster := upcasters.get(recorded.type):
            current = upcaster(orjson.loads(recorded.data))
            return [EVENT_TYPES[name].model_validate(data) for name, data in current]
        return (EVENT_TYPES[recorded.type].model_validate_json(recorded.data),)
    except ValidationError as invalid:
        raise UndecodableEvent(recorded, _first_fault(invalid)) from invalid
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UndecodableEvent(recorded, str(error).partition("\n")[0]) from error


def _first_fault(invalid: ValidationError) -> str:
    """What is wrong and where, without a word of the data."""
    fault = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{fault['type']} at /{'/'.join(map(str, fault['loc']))}"


def encode_snapshot(aggregate: Aggregate[Any, Any, Any], stream_id: str, version: int, state: Value) -> Snapshot:
    """The state with its status, under the names that the original layout's applications use."""
    data = state.model_dump(mode="json") | {"status": aggregate.status(state)}
    return Snapshot(
        source_id=stream_id,
        source_version=version,
        source_type=f"{aggregate.name}.Aggregate.{aggregate.name}",
        data=orjson.dumps(data),
        metadata=orjson.dumps(SNAPSHOT_FORMAT),
    )


def decode_snapshot(aggregate: Aggregate[Any, S, Any], snapshot: Snapshot) -> S | None:
    """The state in the snapshot; None if it is of another format or can't be read."""
    if snapshot.source_type != f"{aggregate.name}.Aggregate.{aggregate.name}":
        return None
    try:
        if orjson.loads(snapshot.metadata or b"null") != SNAPSHOT_FORMAT:
            return None
        data = orjson.loads(snapshot.data)
        return aggregate.states[data.pop("status")].model_validate(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
