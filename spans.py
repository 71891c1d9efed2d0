"""Spans that are recorded, with OpenTelemetry's SDK: its sampler, its resource, its batches and its exporter.

Its tracer is not used: most of what a span costs there is for what ours don't have (links, events, limits, locks). The
SDK gets a span when it is over, in the form that it exports.
"""

import logging
import os
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from tracing import Attributes, Kind, Span

_FLUSH_SECONDS = 3.0
_KINDS = {kind.name: kind for kind in SpanKind}
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_VERSION = version("waybill")
_SCOPE = InstrumentationScope("waybill", _VERSION)


class Recorder:
    """What a span needs of the SDK."""

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor) -> None:
        self._sampler = provider.sampler
        self.resource = provider.resource
        self.processor = processor

    def root(self, name: str, parent: str) -> Span:
        trace_id = parent[3:35] or f"{_random(128):032x}"
        before = Context()
        if parent:
            context = SpanContext(
                int(trace_id, 16),
                int(parent[36:52], 16),
                is_remote=True,
                trace_flags=TraceFlags(int(parent[53:55], 16)),
            )
            before = set_span_in_context(NonRecordingSpan(context), before)
        sampled = self._sampler.should_sample(before, int(trace_id, 16), name, SpanKind.SERVER).decision.is_sampled()
        if not sampled:
            return Span(f"00-{trace_id}-{_random(64):016x}-00")
        return Recorded(
            self, name, trace_id=trace_id, parent=parent, kind=SpanKind.SERVER, began=time.time_ns(), attributes={}
        )

    def following(self, name: str, parent: str, kind: Kind, at: int | None, attributes: Attributes) -> Span:
        return Recorded(
            self,
            name,
            trace_id=parent[3:35],
            parent=parent,
            kind=_KINDS[kind],
            began=at or time.time_ns(),
            attributes=attributes,
        )


class Recorded(Span):
    """A span that is under way."""

    __slots__ = ("_attributes", "_began", "_ended", "_kind", "_name", "_parent", "_recorder", "_span_id", "_status")

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        *,
        trace_id: str,
        parent: str,
        kind: SpanKind,
        began: int,
        attributes: Attributes,
    ) -> None:
        self._span_id = _random(64)
        super().__init__(f"00-{trace_id}-{self._span_id:016x}-01")
        self._recorder = recorder
        self._name, self._kind, self._began, self._parent = name, kind, began, parent
        self._attributes = dict(attributes)
        self._status = _UNSET
        self._ended = False

    def tell(self, attributes: Attributes, name: str = "") -> None:
        # Once it is over, it is the exporter's.
        if not self._ended:
            self._attributes |= attributes
            self._name = name or self._name

    def failed(self, kind: str) -> None:
        self.tell({"error.type": kind})
        self._status = _ERROR

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        trace_id = int(self.trace_id, 16)
        parent = SpanContext(trace_id, int(self._parent[36:52], 16), is_remote=True) if self._parent else None
        self._recorder.processor.on_end(
            ReadableSpan(
                name=self._name,
                context=SpanContext(trace_id, self._span_id, is_remote=False, trace_flags=_SAMPLED),
                parent=parent,
                resource=self._recorder.resource,
                attributes=self._attributes,
                kind=self._kind,
                status=self._status,
                start_time=self._began,
                end_time=time.time_ns(),
                instrumentation_scope=_SCOPE,
            )
        )


@contextmanager
def recording(service: str) -> Generator[Recorder]:
    """What is recorded in the block is sent as OTEL_* say; `service` is the service's name if they don't."""
    ours = {SERVICE_VERSION: _VERSION}
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        ours[SERVICE_NAME] = service
    # That a batch is lost is a line, not each attempt to send it.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    # It knows what the variables say of sampler and resource.
    provider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    try:
        yield Recorder(provider, processor)
    finally:
        # It sends what is left, for as long as that takes: a daemon, so that the process ends without it.
        last = Thread(target=processor.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_FLUSH_SECONDS)


def _random(bits: int) -> int:
    """Zero is no id."""
    return random.getrandbits(bits) or 1
