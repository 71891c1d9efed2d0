"""Spans, for who has somewhere to send them (OTEL_EXPORTER_OTLP_ENDPOINT); otherwise OpenTelemetry isn't even loaded.

A trace goes the way of a command: its place is handed on as text (W3C Trace Context), in the command's request and in
its events' metadata, so that it outlives processes and replays. Why it is so: docs/decisions/0015-tracing.md.
"""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import structlog
from structlog.contextvars import bound_contextvars

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger(__name__)

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "CONSUMER"]

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A well-formed one."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_SECONDS = 3.0


class Span:
    """A span that is under way, or, without one, what takes its place: then nothing comes of it.

    What it is told ends up elsewhere: never what an order says, what a caller has sent, or what an error says.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: "trace.Span | None") -> None:
        self._span = span
        self.traceparent = ""
        """Its place in the trace, for who comes after it; empty without one."""
        if span:
            context = span.get_span_context()
            self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def tell(self, attributes: Mapping[str, str | int], name: str = "") -> None:
        """What has been found out about it since it began."""
        if self._span:
            self._span.set_attributes(attributes)
            if name:
                self._span.update_name(name)

    def failed(self, kind: str) -> None:
        """It was a fault; its kind in one word."""
        if self._span:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415 - loaded by now

            self._span.set_status(StatusCode.ERROR)
            self._span.set_attribute("error.type", kind)

    def end(self) -> None:
        """What is told later doesn't count."""
        if self._span:
            self._span.end()
            self._span = None


NO_SPAN = Span(None)

_tracer: "trace.Tracer | None" = None
_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)


def is_sampled(traceparent: str) -> bool:
    """Whether spans are wanted of the trace: who has begun it has decided that. Nonsense is no trace."""
    return TRACEPARENT.fullmatch(traceparent) is not None and bool(int(traceparent[-2:], 16) & 1)


def is_on() -> bool:
    return _tracer is not None


def current() -> Span:
    """The innermost span of what runs here."""
    return _current.get()


def root(name: str, parent: str) -> Span:
    """The span of a request: the first one of a trace, unless its caller has sent a `parent`. Whoever asks, ends it.

    Whether the trace is sampled is decided here, by OTEL_TRACES_SAMPLER, and then it holds for all that follows.
    """
    return _begin(name, parent, "SERVER", None, None) if _tracer else NO_SPAN


def following(
    name: str,
    parent: str,
    *,
    kind: Kind = "INTERNAL",
    at: int | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Span:
    """A span of what `parent` has led to; none without it, or if its trace isn't sampled. Whoever asks, ends it.

    `at` is when it began, in nanoseconds since 1970, if that isn't now.
    """
    return _begin(name, parent, kind, at, attributes) if _tracer and is_sampled(parent) else NO_SPAN


def _begin(name: str, parent: str, kind: Kind, at: int | None, attributes: Mapping[str, str | int] | None) -> Span:
    assert _tracer
    from opentelemetry import trace  # noqa: PLC0415 - loaded by now
    from opentelemetry.context import Context  # noqa: PLC0415 - likewise

    context = Context()
    if parent:
        _, trace_id, span_id, flags = parent.split("-")[:4]
        before = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
        context = trace.set_span_in_context(trace.NonRecordingSpan(before), context)
    return Span(_tracer.start_span(name, context, trace.SpanKind[kind], attributes=attributes, start_time=at))


@contextmanager
def within(span: Span) -> Generator[Span]:
    """What runs in the block is part of the span, and its log lines name the trace. It ends with the block."""
    if span is NO_SPAN:
        yield span
        return
    before = _current.set(span)
    try:
        with bound_contextvars(trace_id=span.trace_id):
            yield span
    finally:
        _current.reset(before)
        span.end()


@contextmanager
def exporting(service: str) -> Generator[None]:
    """Spans are made in the block, and sent in the background, if the environment says where to.

    The standard OTEL_* variables say the rest; `service` is the service's name if they don't. At the end of the block
    what is left is sent, within seconds.
    """
    global _tracer  # noqa: PLW0603 - one per process, as the process has one environment
    if not _wanted():
        yield
        return
    provider = _provider(service)
    _tracer = provider.get_tracer("waybill", version("waybill"))
    log.info("tracing.on", service=provider.resource.attributes["service.name"])
    try:
        yield
    finally:
        _tracer = None
        provider.force_flush(round(_FLUSH_SECONDS * 1000))
        provider.shutdown()


def _wanted() -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    nowhere = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return any(map(os.environ.get, _ENDPOINTS)) and not off and not nowhere


def _provider(service: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - if wanted only
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - likewise

    ours = {"service.version": version("waybill")}
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        ours[SERVICE_NAME] = service
    provider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
