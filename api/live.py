"""Events as they happen, as server-sent events: any number of listeners cost one database listener and one reader.

The reader encodes each new event once and puts it into the bounded queue of everybody who wants it. Who comes from the
past pages through the store at the speed of its own connection, until it has come to what the reader remembers; from
there on it hears of everything once. Who is too slow is dropped, and misses nothing by coming back with Last-Event-ID.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

import structlog
from fastapi.responses import Response, StreamingResponse
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import Receive, Scope, Send

from api.edge import HEAD_ONLY
from eventstore.appender import UNAVAILABLE
from eventstore.listener import pause_after
from eventstore.store import ALL_STREAM, SPAN, EventStore, RecordedEvent, StreamDeleted

log = structlog.get_logger(__name__)

LISTENERS = Gauge("waybill_live_listeners", "Live streams of events that are open.")
DROPPED = Counter("waybill_live_dropped", "Live streams that were ended because their clients were too slow.")
DELAY = Histogram("waybill_live_delay_seconds", "From an event's commit, by the database's clock, to its fan-out.")

MEDIA_TYPE = "text/event-stream"
BACKLOG = 512
"""Events that the reader remembers, and that a listener may have before it."""
HEARTBEAT_SECONDS = 15.0
"""How long a stream is silent at most."""
_RETRY_MILLISECONDS = 1000
_PAGE = 200
_POLL_SECONDS = 1.0
# A crowd that comes back after a restart must not take all connections to the store.
_PAGES_AT_ONCE = 3
_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listener wants to hear of: one stream, by its name in the store, or the global sequence."""

    stream_id: str | None = None
    types: frozenset[str] | None = None
    """Only these, of the global sequence."""


@dataclass(frozen=True, slots=True)
class _Told:
    """An event as it is told; `lines` are those of its frame that are the same for everybody."""

    stream_id: str
    position: int
    version: int
    type: str
    lines: bytes


@dataclass(eq=False, slots=True)
class _Listener:
    """One client. `number` is of the last event that was put before it: a position, or one stream's version."""

    wanted: Wanted
    number: int
    position: int
    """Up to here in the global sequence nothing that it wants is missing."""
    queue: deque[_Told] = field(default_factory=deque[_Told])
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    slow: bool = False

    def offer(self, told: _Told) -> None:
        """Put the event into the queue if it is wanted and news; a full queue is the end."""
        number = self.number_of(told)
        wanted = self.wanted.types is None or told.type in self.wanted.types
        if self.over or not wanted or number <= self.number:
            return
        if len(self.queue) < BACKLOG:
            self.queue.append(told)
            self.number = number
        else:
            self.over = self.slow = True
        self.woken.set()

    def number_of(self, told: _Told) -> int:
        return told.position if self.wanted.stream_id is None else told.version

    def frames(self, telling: Iterable[_Told]) -> bytes:
        return b"".join(b"id: %d\n%b" % (self.number_of(told), told.lines) for told in telling)

    def take(self) -> bytes:
        """All that is in the queue."""
        frames = self.frames(self.queue)
        self.queue.clear()
        return frames

    async def wait(self, seconds: float) -> bool:
        """Whether there is something to see to before the time is over."""
        self.woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.woken.wait()
        return False


class Live:
    """The reader and its listeners. `show` is an event's JSON."""

    def __init__(self, store: EventStore, show: Callable[[RecordedEvent], str]) -> None:
        self._store = store
        self._show = show
        self._news = asyncio.Event()
        self._turns = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._present: set[_Listener] = set()
        self._hearing: dict[str | None, set[_Listener]] = {}
        self._closed = False
        # What the reader has read; None: nobody listens, so nothing is read.
        self._seen: int | None = None
        # It remembers everything after this position, up to what it has seen.
        self._forgotten = 0
        self._remembered: deque[_Told] = deque()

    def heard(self, _payload: str | None) -> None:
        """There may be news."""
        self._news.set()

    async def run(self) -> NoReturn:
        """Read what is new and hand it out, across times when the store is away."""
        failures = 0
        while True:
            self._news.clear()
            try:
                more = await self._read_on()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would read on
                if not failures:
                    log.warning("live.unavailable", error=type(error).__name__)
                failures += 1
                await asyncio.sleep(pause_after(failures))
                continue
            if not more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._news.wait()

    def close(self) -> None:
        """End all streams, and those that are still to come."""
        self._closed = True
        for listener in self._present:
            listener.over = True
            listener.woken.set()

    async def listen(self, wanted: Wanted, after: int) -> AsyncGenerator[bytes]:
        """The stream's text: what is wanted after `after`, a position (of one stream: a version), and then for ever.

        While the store is away it goes on with heartbeats. It ends when the listener is too slow, or with `close`.
        """
        listener = _Listener(wanted, after, after if wanted.stream_id is None else 0, over=self._closed)
        # The id is worth something before the first event: who is cut off meanwhile comes back with it.
        yield b"retry: %d\nid: %d\n\n" % (_RETRY_MILLISECONDS, after)
        with self._as_present(listener):
            async with aclosing(self._past(listener)) as past:
                async for frames in past:
                    yield frames
            while not listener.over:
                if listener.queue:
                    yield listener.take()
                elif not await listener.wait(HEARTBEAT_SECONDS):
                    yield self._heartbeat(listener)
            if listener.slow:
                yield b": too slow; Last-Event-ID goes on\n\n"

    async def _past(self, listener: _Listener) -> AsyncGenerator[bytes]:
        """What is in the store, until the listener hears what the reader hands out."""
        failures = 0
        while not listener.over and not self._join(listener):
            try:
                async with self._turns:
                    page, covered = await self._page(listener, await self._follow())
            except UNAVAILABLE:
                failures += 1
                yield b":\n\n"
                await listener.wait(pause_after(failures))
                continue
            except StreamDeleted:
                listener.over = True
                return
            failures = 0
            if page:
                told = [self._tell(event) for event in page]
                listener.number, listener.position = listener.number_of(told[-1]), told[-1].position
                yield listener.frames(told)
            if len(page) < _PAGE:
                listener.position = max(covered, listener.position)
            if listener.wanted.types and not page:
                # It may be a long way to the next one: who is cut off meanwhile need not begin anew.
                yield b":\nid: %d\n\n" % listener.position

    async def _page(self, listener: _Listener, head: int) -> tuple[list[RecordedEvent], int]:
        """The next events, and the position up to which there are no others if these are fewer than a page."""
        stream_id, types, after = listener.wanted.stream_id, listener.wanted.types, listener.position
        if stream_id is not None:
            return await self._store.read_stream(stream_id, after=listener.number, limit=_PAGE), head
        if types is None:
            return await self._store.read_all(after=after, limit=_PAGE), head
        until = min(after + SPAN, head)
        return await self._store.read_all(after=after, until=until, limit=_PAGE, types=sorted(types)), until

    async def _follow(self) -> int:
        """What the reader has seen; if nobody has listened so far, it begins at the head."""
        if self._seen is None:
            head = await self._store.stream_version(ALL_STREAM)
            if self._seen is None:
                self._seen = self._forgotten = head
        return self._seen

    def _join(self, listener: _Listener) -> bool:
        """Let the listener hear from now on, if the reader still remembers all that it has missed."""
        if self._seen is None or listener.position < self._forgotten:
            return False
        stream_id = listener.wanted.stream_id
        for told in self._remembered:
            if stream_id in (None, told.stream_id):
                listener.offer(told)
        self._hearing.setdefault(stream_id, set()).add(listener)
        return True

    @contextmanager
    def _as_present(self, listener: _Listener) -> Generator[None]:
        self._present.add(listener)
        LISTENERS.inc()
        try:
            yield
        finally:
            LISTENERS.dec()
            DROPPED.inc(listener.slow)
            self._present.discard(listener)
            hearing = self._hearing.get(listener.wanted.stream_id, set())
            hearing.discard(listener)
            if not hearing:
                self._hearing.pop(listener.wanted.stream_id, None)
            if not self._present:
                self._seen = None
                self._remembered.clear()

    async def _read_on(self) -> bool:
        """Read and hand out one page; whether there may be another."""
        after = self._seen
        if after is None:
            return False
        page = await self._store.read_all(after=after, limit=_PAGE)
        # Meanwhile the last listener may have gone, and another come.
        if self._seen == after and page:
            self._seen = page[-1].position
            for event in page:
                self._hand_out(self._tell(event))
                DELAY.observe(max(0.0, time.time() - event.created_at.timestamp()))
        return len(page) == _PAGE

    def _hand_out(self, told: _Told) -> None:
        self._remembered.append(told)
        if len(self._remembered) > BACKLOG:
            self._forgotten = self._remembered.popleft().position
        for listener in (*self._hearing.get(None, ()), *self._hearing.get(told.stream_id, ())):
            listener.offer(told)

    def _tell(self, event: RecordedEvent) -> _Told:
        # What another program calls its events must not end the line.
        kind = " ".join(event.type.splitlines())
        lines = f"event: {kind}\ndata: {self._show(event)}\n\n".encode()
        return _Told(event.stream_id, event.position, event.version, event.type, lines)

    def _heartbeat(self, listener: _Listener) -> bytes:
        """A comment; and for who has not wanted the last events, how far it has come without them."""
        if listener.wanted.types is None or not self._seen or self._seen <= listener.number:
            return b":\n\n"
        listener.number = self._seen
        return b":\nid: %d\n\n" % listener.number


class LiveResponse(StreamingResponse):
    """A stream as an answer, until it ends or its client goes."""

    def __init__(self, stream: AsyncGenerator[bytes]) -> None:
        super().__init__(stream, headers=_HEADERS, media_type=MEDIA_TYPE)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(HEAD_ONLY):
            await Response(headers=_HEADERS, media_type=MEDIA_TYPE)(scope, receive, send)
            return
        # A client may go while the stream waits for nothing: then nobody else would end it.
        async with aclosing(self._stream):
            await super().__call__(scope, receive, send)
