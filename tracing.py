"""Spans, for who has somewhere to send them (OTEL_EXPORTER_OTLP_ENDPOINT); otherwise OpenTelemetry isn't even loaded.

A trace goes the way of a command: its place is handed on as text (W3C Trace Context), in the command's request and in
its events' metadata, so that it outlives processes and replays. Why it is so: docs/decisions/0015-tracing.md.
"""

import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

import structlog
from structlog.contextvars import bound_contextvars

log = structlog.get_logger(__name__)

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "CONSUMER"]
Attributes = Mapping[str, str | int]

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""A well-formed one."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span:
    """A span that nobody records: what it is told goes nowhere. Those that are recorded are spans.Recorded.

    What a span is told ends up elsewhere: never what an order says, what a caller has sent, or what an error says.
    """

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent
        """Its place in the trace, for who comes after it; empty if there is no trace."""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def tell(self, attributes: Attributes, name: str = "") -> None:
        """What has been found out about it since it began; a better name, if there is one."""

    def failed(self, kind: str) -> None:
        """It was a fault; its kind in one word."""

    def end(self) -> None:
        """What is told later doesn't count."""


class Recorder(Protocol):
    """Makes spans that are recorded."""

    def root(self, name: str, parent: str) -> Span: ...

    def following(self, name: str, parent: str, kind: Kind, at: int | None, attributes: Attributes) -> Span: ...


NO_SPAN = Span()

_recorder: Recorder | None = None
_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)


def is_sampled(traceparent: str) -> bool:
    """Whether spans are wanted of the trace: who has begun it has decided that. Nonsense is no trace."""
    return TRACEPARENT.fullmatch(traceparent) is not None and bool(int(traceparent[-2:], 16) & 1)


def is_on() -> bool:
    return _recorder is not None


def current() -> Span:
    """The innermost span of what runs here."""
    return _current.get()


def root(name: str, parent: str) -> Span:
    """The span of a request: the first one of a trace, unless its caller has sent a `parent`. Whoever asks, ends it.

    Whether the trace is sampled is decided here, by OTEL_TRACES_SAMPLER, and then it holds for all that follows.
    """
    return _recorder.root(name, parent) if _recorder else NO_SPAN


def following(
    name: str, parent: str, *, kind: Kind = "INTERNAL", at: int | None = None, attributes: Attributes | None = None
) -> Span:
    """A span of what `parent` has led to; none without it, or if its trace isn't sampled. Whoever asks, ends it.

    `at` is when it began, in nanoseconds since 1970, if that isn't now.
    """
    if _recorder is None or not is_sampled(parent):
        return NO_SPAN
    return _recorder.following(name, parent, kind, at, attributes or {})


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
    global _recorder  # noqa: PLW0603 - one per process, as the process has one environment
    if not _wanted():
        yield
        return
    # Loading it takes a quarter of a second.
    from spans import recording  # noqa: PLC0415

    with recording(service) as _recorder:
        log.info("tracing.on")
        try:
            yield
        finally:
            _recorder = None


def _wanted() -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    nowhere = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return any(map(os.environ.get, _ENDPOINTS)) and not off and not nowhere
