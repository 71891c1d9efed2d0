"""What the SDK's core tells, among the numbers of /metrics, and what it may tell wrongly."""

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from structlog.testing import capture_logs

from core_metrics import CoreMetrics

GOOD = '# TYPE temporal_request counter\ntemporal_request_total{operation="Poll"} 3\n'


@contextmanager
def core(told: bytes) -> Generator[int]:
    """A core that tells this; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
            """It doesn't talk."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def scrape(told: bytes) -> str:
    registry = CollectorRegistry()
    Counter("waybill_steps", "Ours.", registry=registry).inc(7)
    with core(told) as port:
        registry.register(CoreMetrics(port))
        return generate_latest(registry).decode()


def test_the_core_s_numbers_are_told_with_ours() -> None:
    scraped = scrape(GOOD.encode())
    assert 'temporal_request_total{operation="Poll"} 3.0' in scraped
    assert "waybill_steps_total 7.0" in scraped


@pytest.mark.parametrize(
    "line",
    [b"temporal_slots many\n", b"temporal_slots{kind=\n", b'temporal_slots{kind="\xff"} 1\n'],
    ids=["no number", "no end", "no text"],
)
def test_a_line_that_is_no_number_costs_no_others(line: bytes) -> None:
    with capture_logs() as log:
        scraped = scrape(GOOD.encode() + line + GOOD.replace("request", "retry").encode())
    assert "waybill_steps_total 7.0" in scraped
    assert [entry["event"] for entry in log] == ["metrics.core_is_silent"]


def test_a_core_that_is_not_there_costs_no_others() -> None:
    registry = CollectorRegistry()
    Counter("waybill_steps", "Ours.", registry=registry).inc(7)
    registry.register(CoreMetrics(1))
    assert "waybill_steps_total 7.0" in generate_latest(registry).decode()
