"""What operators see of a whole Waybill: its numbers, its traces and its log, and that they keep to themselves."""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dev.ports import settle
from dev.record import Record
from dev.throwaway import ANY_PORTS, DevProcess, temporary_directory
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
    environment = {"WAYBILL_METRICS_PORT": str(port), "WAYBILL_LOG_LEVEL": "debug", "WAYBILL_LOG_FORMAT": "json"}
    with temporary_directory() as directory:
        dev = await DevProcess.start(directory / "data", directory / "log", *ANY_PORTS, environment=environment)
        try:
            record = await dev.ready()
            async with httpx2.AsyncClient(base_url=record.api_url, timeout=60) as http:
                yield Waybill(http, dev, record, port)
        finally:
            await dev.stop()


async def ship(waybill: Waybill) -> str:
    """An order from creation to shipment; gives its id."""
    created = (await waybill.create()).raise_for_status().json()["id"]
    completed = (await waybill.http.post(f"/orders/{created}/complete")).raise_for_status().json()
    (await waybill.http.post(f"/shipments/{completed['shipment_id']}/complete")).raise_for_status()
    return created


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


async def test_numbers_and_log_keep_to_themselves_what_orders_say(waybill: Waybill):
    await ship(waybill)
    told = {
        "gateway": (await waybill.gateway_metrics()).text,
        "worker": (await waybill.worker_metrics()).text,
        "log": waybill.dev.log.read_text(),
    }
    for where, text in told.items():
        assert text, where
        assert "canary" not in text, where
