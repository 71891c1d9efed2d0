"""What /metrics of the gateway tells: its own numbers; of the stores, how far the read models are, and what is parked.

The stores are asked with every scrape, so that it is told also when no worker lives who could tell it. What is parked
is not counted with every one of them (counting.py).
"""

import asyncio
from collections.abc import Iterable, Sequence

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.gateway import Gateway
from projections.status import status

log = structlog.get_logger(__name__)

_SECONDS = 2.0
_BUILD = ("projection", "build", "stage")


async def exposition(gateway: Gateway) -> bytes:
    """All numbers in Prometheus's text format. While the stores can't be reached, what is told of them is missing."""
    told: list[Metric] = []
    try:
        async with asyncio.timeout(_SECONDS):
            told += await _of_stores(gateway)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other numbers can be told
        log.warning("metrics.stores_not_reached", reason=type(error).__name__)
    told.append(GaugeMetricFamily("waybill_stores_reached", "Whether the stores could be asked just now.", bool(told)))
    stores = CollectorRegistry()
    stores.register(_Told(told))
    # Temporal's numbers are among the process's own, and are fetched by a call that waits.
    return await asyncio.to_thread(generate_latest) + generate_latest(stores)


async def _of_stores(gateway: Gateway) -> Sequence[Metric]:
    lag = GaugeMetricFamily(
        "waybill_projection_lag_events", "Positions between a build and the end of the events.", labels=_BUILD
    )
    seconds = GaugeMetricFamily(
        "waybill_projection_lag_seconds",
        "How long ago the first event was appended that a build hasn't seen.",
        labels=_BUILD,
    )
    owned = GaugeMetricFamily(
        "waybill_projection_owned", "Whether a worker follows the events for a build.", labels=_BUILD
    )
    parked = GaugeMetricFamily(
        "waybill_parked_events",
        "Events that are set aside: by whom, and in what state.",
        labels=("subscriber", "state"),
    )
    for build in await status(gateway.read_store.pool, gateway.store, count_parked=False):
        labels = (build.name, build.build, build.stage)
        lag.add_metric(labels, build.lag)
        seconds.add_metric(labels, build.lag_seconds)
        owned.add_metric(labels, build.owner is not None)
    for subscriber, states in (await gateway.parked.known() or {}).items():
        for state, count in states.items():
            parked.add_metric((subscriber, state), count)
    return lag, seconds, owned, parked


class _Told(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
