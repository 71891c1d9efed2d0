"""What operators see of a whole Waybill: its numbers, its traces and its log, and that they keep to themselves."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.ports import settle
from dev.record import Record
from dev.throwaway import ANY_PORTS, DevProcess, temporary_directory
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from otlp import ERROR, UNSET, Collector, Received, collecting
from support import eventually

PARTNER = "canary-partner@example.com"
NUMBER = "canary-number"
KEY = "canary-key"


@dataclass(frozen=True)
class Waybill:
    """A stack of processes, and where to look at it from outside."""

    http: httpx2.AsyncClient
    dev: DevProcess
    record: Record
    metrics_port: int
    collector: Collector

    async def gateway_metrics(self) -> "Numbers":
        return Numbers.of(await self.http.get("/metrics"))

    async def worker_metrics(self) -> "Numbers":
        return Numbers.of(await self.http.get(f"http://127.0.0.1:{self.metrics_port}/metrics"))

    def log(self) -> list[dict[str, Any]]:
        """What gateway and worker have logged."""
        lines = self.dev.log.read_text().splitlines()
        return [json.loads(line.partition("{")[1] + line.partition("{")[2]) for line in lines if line.endswith("}")]

    async def create(self, number: str | None = None, **headers: str) -> httpx2.Response:
        item = {"product_id": str(uuid4()), "quantity": 1, "uom": "KG"}
        number = number or f"{NUMBER}-{uuid4().hex[:8]}"
        order = {"order_number": number, "business_partner": PARTNER, "items": [item]}
        headers = {"Idempotency-Key": f"{KEY}-{uuid4().hex}"} | headers
        return await self.http.post("/orders", json=order, headers=headers)


@dataclass(frozen=True)
class Numbers:
    """A scrape."""

    text: str
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, answer: httpx2.Response) -> "Numbers":
        assert answer.status_code == 200
        found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        return cls(answer.text, found)

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels; 0 if there are none."""
        wanted = labels.items()
        return sum(value for (it, its), value in self.samples.items() if it == name and wanted <= its)

    @property
    def names(self) -> set[str]:
        return set(re.findall(r"^# TYPE (\S+)", self.text, re.MULTILINE))


@pytest.fixture(scope="module")
async def waybill() -> AsyncGenerator[Waybill]:
    (port,) = settle({"--metrics-port": 0})
    with temporary_directory() as directory, collecting() as collector:
        environment = {
            "WAYBILL_METRICS_PORT": str(port),
            "WAYBILL_LOG_LEVEL": "debug",
            "WAYBILL_LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        dev = await DevProcess.start(directory / "data", directory / "log", *ANY_PORTS, environment=environment)
        try:
            record = await dev.ready()
            async with httpx2.AsyncClient(base_url=record.api_url, timeout=60) as http:
                yield Waybill(http, dev, record, port, collector)
        finally:
            await dev.stop()


async def test_a_gateway_that_is_told_to_stop_sends_its_last_spans():
    with temporary_directory() as directory, collecting() as collector:
        # Nothing is sent before the end by itself.
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        dev = await DevProcess.start(directory / "data", directory / "log", *ANY_PORTS, environment=environment)
        try:
            record = await dev.ready()
            async with httpx2.AsyncClient(base_url=record.api_url, timeout=60) as http:
                assert (await http.get(f"/orders/{uuid4()}")).status_code == 404
            assert collector.spans == []
        finally:
            await dev.stop()
        assert [(span.service, span.name) for span in collector.spans] == [("waybill-api", "GET /orders/{order_id}")]


async def ship(waybill: Waybill) -> str:
    """An order from creation to shipment; gives its id."""
    created = (await waybill.create()).raise_for_status().json()["id"]
    completed = (await waybill.http.post(f"/orders/{created}/complete")).raise_for_status().json()
    (await waybill.http.post(f"/shipments/{completed['shipment_id']}/complete")).raise_for_status()
    return created


@asynccontextmanager
async def parked(waybill: Waybill) -> AsyncGenerator[None]:
    """While the block runs, an event is parked that nobody can read."""
    order = uuid4()
    async with PostgresStore.open(waybill.record.event_store_url, 1) as store:
        await store.append(Append(str(order), "any", [NewEvent(uuid4(), "Order.OrderCompleted", b"[]")]))

    async def told() -> bool:
        return (await waybill.gateway_metrics())("waybill_parked_events", subscriber="orders", state="failed") == 1

    await eventually(told, within=30)
    try:
        yield
    finally:
        (await waybill.http.post(f"/parked/orders/{order}/discard")).raise_for_status()


# --- Metrics


async def test_commands_are_counted_by_what_came_of_them(waybill: Waybill):
    before = await waybill.gateway_metrics()
    order = await ship(waybill)
    assert (await waybill.http.post(f"/orders/{order}/complete")).status_code == 409
    assert (await waybill.create(Prefer="respond-async")).status_code == 202
    after = await waybill.gateway_metrics()

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    for command in ("CreateOrder", "CompleteOrder", "CompleteShipment"):
        assert more("waybill_commands_total", command=command, outcome="done") == 1
    assert more("waybill_commands_total", command="CompleteOrder", outcome="order-already-completed") == 1
    assert more("waybill_commands_total", command="CreateOrder", outcome="accepted") == 1
    assert more("waybill_command_seconds_count", command="CompleteOrder") == 2
    # Temporal's own way of counting: what may wait for long counts apart.
    assert more("temporal_long_request_total", operation="UpdateWorkflowExecution") > 0


async def test_steps_appends_and_claims_are_counted_by_the_worker(waybill: Waybill):
    before = await waybill.worker_metrics()
    await ship(waybill)
    number = f"taken-{uuid4().hex}"
    assert [(await waybill.create(number)).status_code for _ in range(2)] == [201, 409]
    after = await waybill.worker_metrics()

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    # Two creations and a lifecycle, whose shipment is created by the run itself.
    assert more("waybill_steps_total", step="ExecuteAndAppend", outcome="done") == 5
    assert more("waybill_step_seconds_count", step="ExecuteAndAppend") == 5
    assert more("waybill_steps_total", step="ReserveUniqueness", outcome="order-number-taken") == 1
    assert more("waybill_claims_total", outcome="reserved") == 2
    assert more("waybill_claims_total", outcome="taken") == 1
    assert more("waybill_appends_total", outcome="appended") == 5
    assert more("waybill_append_batch_appends_sum") == 5
    assert more("waybill_append_batch_seconds_count") == more("waybill_append_batch_appends_count") > 0
    assert more("temporal_workflow_task_execution_latency_seconds_count") > 0
    assert after("temporal_worker_task_slots_available", worker_type="WorkflowWorker") > 0

    async def projected() -> bool:
        now = await waybill.worker_metrics()
        # What was answered is in the read models, and is counted just after.
        return (
            now("waybill_projection_events_total", build="orders")
            - before("waybill_projection_events_total", build="orders")
            >= 5
            and now("waybill_projection_delay_seconds_count", projection="orders") > 0
        )

    await eventually(projected)


async def test_how_far_the_read_models_are_is_told_by_the_gateway(waybill: Waybill):
    await ship(waybill)

    async def caught_up() -> bool:
        told = await waybill.gateway_metrics()
        assert told("waybill_stores_reached") == 1
        series = [its for name, its in told.samples if name == "waybill_projection_lag_events"]
        assert {dict(its)["projection"] for its in series} == {"orders", "shipments"}
        assert told("waybill_projection_owned", stage="live") == 2
        return told("waybill_projection_lag_events") == told("waybill_projection_lag_seconds") == 0

    await eventually(caught_up)
    assert "waybill_parked_events" in (await waybill.gateway_metrics()).names


# --- Traces


def place() -> tuple[str, str]:
    """A caller's place in a trace of its own, and that trace's id."""
    trace_id = uuid4().hex
    return f"00-{trace_id}-{uuid4().hex[:16]}-01", trace_id


def family(spans: Sequence[Received]) -> list[tuple[str, str]]:
    """Each span's name, and the name of what it is a part of; sorted."""
    names = {span.span_id: span.name for span in spans}
    return sorted((span.name, names.get(span.parent_id, "caller" if span.parent_id else "")) for span in spans)


async def whole(waybill: Waybill, trace_id: str, expected: Sequence[tuple[str, str]]) -> Sequence[Received]:
    """The trace, once all of it has come in."""

    def has_come() -> Sequence[Received]:
        spans = waybill.collector.trace(trace_id)
        assert family(spans) == sorted(expected)
        return spans

    return await eventually(has_come, within=30)


STEPS_OF_CREATION = [
    ("POST /orders", "caller"),
    ("update CreateOrder", "POST /orders"),
    ("ValidateCommand", "update CreateOrder"),
    ("ReserveUniqueness", "update CreateOrder"),
    ("ExecuteAndAppend", "update CreateOrder"),
    ("append", "ExecuteAndAppend"),
    ("project orders", "ExecuteAndAppend"),
    ("handle stream_linker", "ExecuteAndAppend"),
]


async def test_a_creation_is_one_trace_from_the_request_to_the_read_model(waybill: Waybill):
    traceparent, trace_id = place()
    answer = await waybill.create(traceparent=traceparent)
    order = answer.raise_for_status().json()["id"]
    spans = {span.name: span for span in await whole(waybill, trace_id, STEPS_OF_CREATION)}

    assert spans["POST /orders"].parent_id == traceparent[36:52]
    assert spans["POST /orders"].attributes["http.response.status_code"] == 201
    assert {name for name, span in spans.items() if span.service == "waybill-api"} == {
        "POST /orders",
        "update CreateOrder",
    }
    assert {span.service for span in spans.values()} == {"waybill-api", "waybill-worker"}
    assert spans["update CreateOrder"].attributes == {
        "temporalWorkflowID": f"order-{order}",
        "waybill.outcome": "done",
    }
    assert spans["append"].attributes["waybill.outcome"] == "appended"
    assert spans["append"].attributes["waybill.batch.appends"] >= 1
    assert spans["project orders"].attributes["waybill.outcome"] == "projected"
    assert spans["project orders"].began >= spans["append"].began
    assert all(span.ended >= span.began and span.status == UNSET and not span.events for span in spans.values())


async def test_a_completion_is_one_trace_with_the_shipment_that_follows_from_it(waybill: Waybill):
    order = (await waybill.create()).raise_for_status().json()["id"]
    traceparent, trace_id = place()
    path = f"/orders/{order}/complete"
    completed = await waybill.http.post(path, headers={"traceparent": traceparent})
    update = "update CompleteOrder"
    expected = [
        ("POST /orders/{order_id}/complete", "caller"),
        (update, "POST /orders/{order_id}/complete"),
        *((step, update) for step in ("ValidateCommand", "EnrichCommand", "ExecuteAndAppend", "ExecuteAndAppend")),
        *[("append", "ExecuteAndAppend")] * 2,
        # Of the order's completion, and of its shipment's creation; the latter is part of both read models.
        *[("project orders", "ExecuteAndAppend")] * 2,
        ("project shipments", "ExecuteAndAppend"),
        ("handle stream_linker", "ExecuteAndAppend"),
        ("handle shipment", "ExecuteAndAppend"),
    ]
    await whole(waybill, trace_id, expected)

    traceparent, trace_id = place()
    shipment = completed.json()["shipment_id"]
    await waybill.http.post(f"/shipments/{shipment}/complete", headers={"traceparent": traceparent})
    update = "update CompleteShipment"
    expected = [
        ("POST /shipments/{shipment_id}/complete", "caller"),
        (update, "POST /shipments/{shipment_id}/complete"),
        *((step, update) for step in ("ValidateCommand", "ExecuteAndAppend")),
        ("append", "ExecuteAndAppend"),
        ("project orders", "ExecuteAndAppend"),
        ("project shipments", "ExecuteAndAppend"),
    ]
    await whole(waybill, trace_id, expected)


async def test_a_request_without_a_trace_begins_one_and_the_log_knows_it(waybill: Waybill):
    order = await ship(waybill)
    await waybill.http.post(f"/orders/{order}/complete", headers={"X-Request-Id": "desk-18"})

    def told() -> str | None:
        return next((line["trace_id"] for line in waybill.log() if line.get("request_id") == "desk-18"), None)

    trace_id = await eventually(told)
    assert trace_id

    def begun() -> bool:
        first = [span.name for span in waybill.collector.trace(trace_id) if not span.parent_id]
        return first == ["POST /orders/{order_id}/complete"]

    await eventually(begun, within=30)


async def test_a_refusal_is_told_by_its_code_and_is_no_error(waybill: Waybill):
    order = await ship(waybill)
    traceparent, trace_id = place()
    refused = await waybill.http.post(f"/orders/{order}/complete", headers={"traceparent": traceparent})
    assert refused.status_code == 409
    # The run has ended with the shipment: it is begun anew, and looks up where the order stands.
    expected = [
        ("POST /orders/{order_id}/complete", "caller"),
        ("update CompleteOrder", "POST /orders/{order_id}/complete"),
        *((step, "update CompleteOrder") for step in ("ValidateCommand", "EnrichCommand", "ExecuteAndAppend")),
    ]
    spans = await whole(waybill, trace_id, expected)
    outcomes = {span.name: span.attributes.get("waybill.outcome") for span in spans}
    assert outcomes["ExecuteAndAppend"] == outcomes["update CompleteOrder"] == "order-already-completed"
    assert outcomes["ValidateCommand"] == "done"
    assert all(span.status == UNSET and not span.events for span in spans)


async def test_an_attempt_that_fails_is_an_error_that_quotes_nothing(waybill: Waybill):
    store = await asyncpg.connect(waybill.record.event_store_url)
    traceparent, trace_id = place()

    def failed() -> Sequence[Received]:
        return [span for span in waybill.collector.trace(trace_id) if span.status == ERROR]

    try:
        await store.execute("alter table waybill.claims rename to claims_elsewhere")
        try:
            creating = asyncio.create_task(waybill.create(traceparent=traceparent))
            (first, *_) = await eventually(failed, within=30)
        finally:
            await store.execute("alter table waybill.claims_elsewhere rename to claims")
        assert (await creating).status_code == 201
    finally:
        await store.close()
    assert first.name == "ReserveUniqueness"
    about = {"waybill.attempt": 1, "waybill.outcome": "failed", "error.type": "UndefinedTableError"}
    assert (first.attributes, first.events) == (about, 0)

    def attempts() -> bool:
        spans = waybill.collector.trace(trace_id)
        outcomes = [span.attributes["waybill.outcome"] for span in spans if span.name == "ReserveUniqueness"]
        return outcomes.count("done") == 1 and "project orders" in {span.name for span in spans}

    await eventually(attempts, within=30)


async def test_who_does_not_want_to_be_traced_is_not(waybill: Waybill):
    unsampled, untraced = place()
    sampled, traced = place()
    assert (await waybill.create(traceparent=f"{unsampled[:-2]}00")).status_code == 201
    assert (await waybill.create(traceparent=sampled)).status_code == 201
    await waybill.http.get("/livez")
    await whole(waybill, traced, STEPS_OF_CREATION)
    assert not waybill.collector.trace(untraced)
    assert not {span.name for span in waybill.collector.spans} & {"GET /livez", "GET /readyz", "GET /metrics"}


OFF = [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}]


@pytest.mark.parametrize("variables", OFF, ids=["nothing set", "disabled", "no exporter"])
async def test_off_is_off(variables: Mapping[str, str]):
    """Not even loaded, and what takes a span's place does nothing."""
    code = """
import sys, tracing, worker, api.app
with tracing.exporting("off"):
    assert not tracing.is_on()
    assert tracing.root("GET", "") is tracing.following("append", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
    assert not loaded, loaded
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} if variables else {}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), env={**inherited, **endpoint, **variables}, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 0, err.decode()


# --- The log


async def test_a_command_s_lines_in_the_log_tell_request_order_and_run(waybill: Waybill):
    order = await ship(waybill)
    refused = await waybill.http.post(f"/orders/{order}/complete", headers={"X-Request-Id": "desk-17"})
    assert refused.status_code == 409

    def told() -> dict[str, Any] | None:
        return next((line for line in waybill.log() if line.get("request_id") == "desk-17"), None)

    line = await eventually(told)
    assert line is not None
    wanted = {
        "event": "command.refused",
        "code": "order-already-completed",
        "order_id": order,
        "workflow_id": f"order-{order}",
    }
    assert wanted.items() <= line.items()


async def test_numbers_traces_and_log_keep_to_themselves_what_orders_say(waybill: Waybill):
    await ship(waybill)
    told = {
        "gateway": (await waybill.gateway_metrics()).text,
        "worker": (await waybill.worker_metrics()).text,
        "log": waybill.dev.log.read_text(),
        "traces": " ".join(body.decode("latin-1") for body in waybill.collector.bodies),
    }
    for where, text in told.items():
        assert text, where
        assert "canary" not in text, where


# --- What is shipped to look at it with

OBSERVABILITY = Path(__file__).parents[2] / "observability"


def expressions() -> dict[str, str]:
    """Every expression that a panel or an alarm asks Prometheus for, by where it stands."""
    dashboard = json.loads((OBSERVABILITY / "grafana/dashboards/waybill.json").read_text())
    panels = {
        f"panel {panel['title']}, {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    alarms = re.findall(r"- alert: (\w+)\n +expr: (.+)", (OBSERVABILITY / "alarms.yml").read_text())
    return panels | {f"alarm {name}": expression for name, expression in alarms}


async def test_dashboard_and_alarms_ask_for_what_there_is(waybill: Waybill):
    order = await ship(waybill)
    await waybill.http.post(f"/orders/{order}/complete")
    async with parked(waybill):
        scrapes = [await waybill.gateway_metrics(), await waybill.worker_metrics()]
    # Prometheus's own.
    known: dict[str, set[str]] = {"up": set()}
    for scrape in scrapes:
        for name in scrape.names:
            known.setdefault(name, set())
        for name, labels in scrape.samples:
            known.setdefault(name, set()).update(label for label, _ in labels)
    assert len(expressions()) > 30
    for where, expression in expressions().items():
        asked = re.sub(r"\[[^]]*\]|\"[^\"]*\"", "", expression)
        metrics = set(re.findall(r"\b(?:waybill|temporal|process)_\w+|\bup\b", asked))
        assert metrics, where
        assert metrics <= known.keys(), where
        labels = {
            label.strip()
            for listed in re.findall(r"\bby \(([^)]*)\)|\{([^}]*)\}", asked)
            for label in re.split(r",|=~|!=|=", "".join(listed))
        }
        for metric in metrics:
            assert labels - {"", "job", "instance"} <= known[metric], where


async def test_every_alarm_is_explained_to_operators():
    alarms = re.findall(r"- alert: (\w+)", (OBSERVABILITY / "alarms.yml").read_text())
    operations = (OBSERVABILITY.parent / "docs/operations.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", operations, re.MULTILINE)[-len(alarms) :] == alarms
