"""A receiver of spans as a real collector is one: OTLP over HTTP, on a port of its own."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

UNSET, OK, ERROR = range(3)


@dataclass(frozen=True)
class Received:
    """A span."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    status: int
    attributes: dict[str, Any]
    events: int
    began: int
    ended: int


@dataclass
class Collector:
    """What has come in."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> Sequence[Received]:
        found: list[Received] = []
        for body in tuple(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                found += [_received(service, span) for scope in resource.scope_spans for span in scope.spans]
        return found

    def trace(self, trace_id: str) -> Sequence[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def collecting() -> Generator[Collector]:
    """A collector that runs in this process, until the block ends."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """It doesn't talk."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Collector(f"http://127.0.0.1:{server.server_port}", bodies)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _received(service: str, span: Any) -> Received:
    return Received(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        status=span.status.code,
        attributes=_values(span.attributes),
        events=len(span.events),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
