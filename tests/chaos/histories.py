"""How long the tests of races go on, and how they gather what the checker needs."""

import os
from collections.abc import Sequence

from eventstore.store import EventStore
from tests.chaos.checker import Attempt, History, Tenure

SECONDS = float(os.environ.get("WAYBILL_TEST_SECONDS", "8"))
"""Of racing, in each of these tests; more finds more."""

PATIENCE = 60
"""Seconds to wait for what has to come, on a machine that is busy."""


async def history(
    store: EventStore, streams: Sequence[str], attempts: Sequence[Attempt], tenures: Sequence[Tenure] | None = None
) -> History:
    """The accounts beside what the store holds now, when nobody writes any more."""
    return History(
        attempts=attempts,
        everything=await store.read_all(limit=10_000_000),
        streams={stream: await store.read_stream(stream, limit=10_000_000) for stream in streams},
        heads={name: await store.stream_version(name) for name in ("$all", *streams)},
        tenures=tenures,
    )
