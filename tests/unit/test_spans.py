"""Spans that are sent, to a collector that may be worse than none."""

import socket
import time

import pytest

import spans
from tracing import exporting, root, within


def test_a_collector_that_never_answers_does_not_hold_up_the_end_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_FLUSH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with exporting("test"):
            with within(root("GET", "")):
                pass
            ended = time.monotonic()
        # One attempt alone would take ten seconds.
        assert time.monotonic() - ended < 8
