"""The worker as a process: it says that it lives, and stops when it is told to."""

import asyncio
import os
import signal
import sys

import httpx2
from temporalio.client import Client

from dev.ports import settle
from tests.support import eventually


async def test_a_worker_answers_on_its_metrics_port_and_stops_at_sigterm(
    event_store_url: str, read_store_url: str, temporal: Client
):
    (port,) = settle({"--metrics-port": 0})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        env={
            **os.environ,
            "WAYBILL_EVENT_STORE_URL": event_store_url,
            "WAYBILL_READ_STORE_URL": read_store_url,
            "WAYBILL_METRICS_PORT": str(port),
            "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

            async def alive() -> bool:
                try:
                    return (await http.get("/livez")).is_success
                except httpx2.TransportError:
                    return False

            await eventually(alive, within=30)
            assert "waybill_projection_undecodable_events_total" in (await http.get("/metrics")).text
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
