"""What Temporal's SDK counts and times, among the numbers that /metrics tells.

The SDK's core gathers them outside of Python and tells them on a port of its own, on loopback: to ask there once per
scrape costs a command nothing, while its other way, a buffer of single updates, would cost each of them some Python.
"""

import http.client
import socket
from collections.abc import Iterable
from functools import cache

import structlog
from prometheus_client import REGISTRY, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

log = structlog.get_logger(__name__)

_SECONDS = 2.0
_ATTEMPTS = 5

# When each series was begun is a line more for each, and nobody asks for it.
disable_created_metrics()


@cache
def measured_runtime() -> Runtime:
    """The runtime for this process's client, whose numbers are among those of /metrics from now on.

    There is one per process: each has threads of its own.
    """
    for attempt in range(_ATTEMPTS):
        port = _free_port()
        metrics = PrometheusConfig(
            f"127.0.0.1:{port}", counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True
        )
        try:
            runtime = Runtime(telemetry=TelemetryConfig(metrics=metrics))
        except ValueError:
            # Another may have taken the port just now.
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            REGISTRY.register(CoreMetrics(port))
            return runtime
    raise AssertionError("unreachable")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class CoreMetrics(Collector):
    """What the core on this port tells when it is asked; nothing, if that can't be read."""

    def __init__(self, port: int) -> None:
        self._port = port

    def describe(self) -> Iterable[Metric]:
        """Their names aren't known before they are counted."""
        return ()

    def collect(self) -> Iterable[Metric]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        try:
            connection.request("GET", "/metrics")
            # Read to its end here: what is no metric mustn't cost the others.
            return [*text_string_to_metric_families(connection.getresponse().read().decode())]
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The rest of the numbers are told all the same.
            log.warning("metrics.core_is_silent", reason=type(error).__name__)
            return ()
        finally:
            connection.close()
