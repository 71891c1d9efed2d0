"""Orders from creation to shipment through HTTP, beside what the engine alone can do and what one would write first.

A lifecycle is three commands: create, complete, complete the shipment. The bare workflow takes the same three
updates, with no activities, from a Temporal client: no HTTP, no PostgreSQL, no read model. The naive variant runs
four regular activities per command on a development server as it comes.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from benchmarks.engine import Bare, Naive
from benchmarks.engine_worker import TASK_QUEUE
from benchmarks.measure import Figures, measure, report
from dev import throwaway
from dev.record import Record

CLIENTS = (1, 8, 32)
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8"))
Work = Callable[[], Awaitable[object]]


async def run() -> None:
    """Measure, print, write results/lifecycles.json."""
    figures: list[Figures] = []
    async with throwaway.stack() as record:
        async with httpx2.AsyncClient(base_url=record.api_url, timeout=60) as http:
            figures += await _variant("waybill, through HTTP", lambda: lifecycle(http))
        async with _engine(record) as client:
            figures += await _variant("bare workflow", lambda: _three_updates(client, Bare))
    async with throwaway.stack(tuned=False) as record, _engine(record) as client:
        figures += await _variant("naive: 4 activities, untuned", lambda: _three_updates(client, Naive))
    rate = {(each.variant.split(",")[0].split(":")[0], each.clients): each.per_second for each in figures}
    report(
        "lifecycles",
        "lifecycles",
        figures,
        [
            ("of the bare workflow, 8 clients", rate["waybill", 8] / rate["bare workflow", 8], "0.6"),
            ("times the naive variant, 8 clients", rate["waybill", 8] / rate["naive", 8], "4"),
        ],
    )


async def _variant(name: str, work: Work) -> list[Figures]:
    return [await measure(name, clients, work, seconds=SECONDS, warm_up=clients) for clients in CLIENTS]


async def lifecycle(http: httpx2.AsyncClient) -> None:
    """One order from creation to shipment, through HTTP."""
    order = {
        "order_number": str(uuid4()),
        "business_partner": "buyer@example.com",
        "items": [{"product_id": str(uuid4()), "quantity": n, "uom": "KG"} for n in (1, 2, 3)],
    }
    created = (await _post(http, "/orders", order))["id"]
    shipment = (await _post(http, f"/orders/{created}/complete"))["shipment_id"]
    await _post(http, f"/shipments/{shipment}/complete")


async def _post(http: httpx2.AsyncClient, path: str, body: Mapping[str, object] | None = None) -> dict[str, str]:
    answer = await http.post(path, json=body)
    answer.raise_for_status()
    return answer.json()


async def _three_updates(client: Any, workflow: Any) -> None:
    run_id = str(uuid4())
    for n in range(3):
        start = WithStartWorkflowOperation(
            workflow.run, id=run_id, task_queue=TASK_QUEUE, id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING
        )
        await client.execute_update_with_start_workflow(
            workflow.command, {"id": run_id, "n": str(n)}, start_workflow_operation=start
        )


@asynccontextmanager
async def _engine(record: Record) -> AsyncGenerator[Client]:
    """A client of the stack's Temporal, with a worker process for the workflows of engine.py."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.engine_worker",
        env={**os.environ, "TEMPORAL_ADDRESS": record.temporal_address, "TEMPORAL_NAMESPACE": record.namespace},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdin
    assert worker.stdout
    try:
        await worker.stdout.readline()
        yield await Client.connect(record.temporal_address, namespace=record.namespace)
    finally:
        worker.stdin.close()
        await worker.wait()
