"""uvicorn with an end to its patience: how long a request may take to come, and how large it may be.

uvicorn's protocol waits for ever for the rest of a request, or for a client to take its answer, and keeps headers of
any size.
"""

import asyncio
from typing import Any, ClassVar, cast
from uuid import uuid4

import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api import problems
from api.edge import SAFE
from api.telemetry import REQUEST_ID, REQUESTS
from settings import Settings

log = structlog.get_logger(__name__)

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_URL_BYTES = 8 * 1024


class _Refused(Exception):
    """Ends the parsing; what it is about is in the protocol's `_refusal`."""


_LINGERING_BYTES = 16 * 1024 * 1024
_LINGERING_SECONDS = 2
# Long enough for the loop to look at its sockets before.
_A_POLL = 0.001


def strict_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol of connections that keep these bounds."""

    class Protocol(StrictProtocol):
        patience = settings.receive_timeout
        max_connections = settings.max_connections
        # A client may send its body in small pieces, each in a frame of its own, but not frames without end.
        max_framed_bytes = MAX_HEADER_BYTES + 4 * settings.max_body

    return Protocol


class StrictProtocol(HttpToolsProtocol):
    """A connection. Whoever breaks HTTP or a bound gets a problem document, and the connection is closed."""

    patience: ClassVar[float]
    """Seconds for a request to come, headers and body, and for an answer to be taken."""
    max_connections: ClassVar[int]
    max_framed_bytes: ClassVar[int]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._keep_alive = True
        self._lingers = False
        self._has_begun = False
        self._in_headers = True
        self._received = self._header_bytes = 0
        self._refusal = ("malformed-request", "This is not HTTP/1.1")

    # --- What may come

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._lingers:
            if self._received > _LINGERING_BYTES:
                self.transport.close()
            return
        self._arm()
        super().data_received(data)
        # The parser keeps what it has of a header until that is complete: this is what bounds it.
        if self._in_headers and self._received > MAX_HEADER_BYTES and not self._is_busy():
            self._refuse("headers-too-large", f"The headers may have {MAX_HEADER_BYTES} bytes")
        elif self._received > self.max_framed_bytes and not self._is_busy():
            self._refuse("content-too-large", "The body's frames are larger than what is in them")

    def on_message_begin(self) -> None:
        self._has_begun = self._in_headers = True
        self._received = self._header_bytes = 0
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop_parsing("uri-too-long", f"The path with its query may have {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            detail = f"There may be {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes"
            self._stop_parsing("headers-too-large", detail)
        # Trailers of a chunked body come this way, too: they are no headers.
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        super().on_headers_complete()
        # What comes after a request for another protocol isn't parsed any more.
        if self.parser and self.parser.should_upgrade():
            self.cycle.keep_alive = False
        # Answered before all of it has come, the rest could be taken for the next request.
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self.cycle.transport = cast("asyncio.Transport", _Answer(self, self.cycle))

    def on_message_complete(self) -> None:
        self._disarm()
        self._has_begun = False
        self._received = 0
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        super().on_message_complete()

    # --- How long it may take

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > self.max_connections:
            self._refuse("unavailable", "Too many connections: nothing was done, try again")

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        # uvicorn tells the last request only, not the one that is being answered before it.
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        # To HEAD there is nothing that the head could go out with.
        if self._answering is not None:
            cast("_Answer", self._answering.transport).flush()
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self.patience, self._not_taken)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.patience, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        # If it was this process that stood still, what has come meanwhile is read first.
        self._deadline = self.loop.call_later(_A_POLL, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_busy():
            self._arm()
        elif self._has_begun:
            self._refuse("request-timeout", f"The request was not there within {self.patience:g} s")
        else:
            self.transport.close()

    def _not_taken(self) -> None:
        log.info("connection.answer_not_taken")
        self.transport.abort()

    def _is_busy(self) -> bool:
        """Whether it is for us, not for the client, to do something."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        working = cycle is not None and not cycle.response_complete and not cycle.more_body
        return working or self.flow.read_paused or self.transport.is_closing()

    # --- How it is told

    def _stop_parsing(self, code: str, detail: str) -> None:
        self._refusal = (code, detail)
        raise _Refused

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to warn of: who asks for another protocol is answered in this one."""

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up."""
        del msg
        self._refuse(*self._refusal)

    def _refuse(self, code: str, detail: str) -> None:
        """Answer beside the application, which has not got a whole request, and close."""
        if self.transport.is_closing():
            return
        if self._is_busy():
            # What came before it is answered first, and then no more: an answer now would be taken for that one's.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        request_id = uuid4().hex
        log.info("connection.refused", code=code, request_id=request_id)
        answer = problems.answer(code, detail, headers={**SAFE, REQUEST_ID: request_id, "Connection": "close"})
        REQUESTS.labels("none", "none", answer.status_code).inc()
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[answer.status_code] + lines + b"\r\n" + bytes(answer.body))
        self.part()

    def part(self) -> None:
        """Close. Who is still sending could lose the answer to that: so much of it is taken, and dropped."""
        if not (self._has_begun or self._in_headers) or self.transport.is_closing():
            self.transport.close()
            return
        self._lingers, self._received = True, 0
        self._disarm()
        self._deadline = self.loop.call_later(_LINGERING_SECONDS, self.transport.close)
        self.flow.resume_reading()
        self.transport.write_eof()


class _Answer:
    """The connection as an answer knows it.

    Its head goes out with what comes first of its body: each write is a system call, and a packet. Closing it is
    parting from whoever may still be sending.
    """

    def __init__(self, protocol: StrictProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._head: bytes | None = None
        self.is_closing = protocol.transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head is None and self._cycle.response_started:
            self._head = data
        elif self._head:
            self._head, data = b"", self._head + data
            self._protocol.transport.write(data)
        else:
            self._protocol.transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._protocol.part()
