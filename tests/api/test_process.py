"""The gateway as a process of its own."""

import asyncio
import json
import os
import re
import resource
import signal
import sys

import httpx2
import pytest

from wire import gateway_process, request, say

COMMAND = (sys.executable, "-m", "api")


async def start(**environment: str) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAYBILL_")}
    return await asyncio.create_subprocess_exec(
        *COMMAND, env=clean | environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


@pytest.fixture
def few_files():
    """Processes may open few files unless they ask for more; gives how many they may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_setting_that_does_not_exist_is_told_in_one_line():
    process = await start(WAYBILL_API_PROT="8000")
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert errors.decode() == "waybill api: WAYBILL_API_PROT is not a setting: did you mean WAYBILL_API_PORT?\n"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TEMPORAL_ADDRESS", "temporal", "TEMPORAL_ADDRESS has to be host:port"),
        ("TEMPORAL_PROFILE", "nobody", "TEMPORAL_* can't be used: Profile 'nobody' not found"),
    ],
)
async def test_how_temporal_cannot_be_reached_is_told_in_one_line(name, value, told):
    process = await start(**{name: value})
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors.decode()) == (1, f"waybill api: {told}\n")


async def test_pipelined_requests_share_nothing_in_the_log(lonely_settings):
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "TEMPORAL_ADDRESS": "127.0.0.1:1"}
    async with gateway_process(lonely_settings, **nowhere) as process:
        traced = request("GET", "/orders", "X-Request-Id: first")
        # Not traced, and without Temporal it has something to say. In one piece: it waits while the first is answered.
        untraced = request("GET", "/readyz", "X-Request-Id: second", "Connection: close")
        answers = await say(process.address, traced + untraced)
    assert [answer.headers["x-request-id"] for answer in answers] == ["first", "second"]
    lines = [json.loads(line) for line in process.log if '"not_ready"' in line]
    assert [(line["check"], line["request_id"]) for line in lines] == [("temporal", "second")]
    assert "trace_id" not in lines[0]


async def test_it_serves_until_it_is_told_to_stop(lonely_settings, few_files):
    process = await start(
        WAYBILL_EVENT_STORE_URL=lonely_settings.event_store_url,
        WAYBILL_READ_STORE_URL=lonely_settings.read_store_url,
        WAYBILL_API_PORT="0",
        TEMPORAL_ADDRESS="127.0.0.1:1",
    )
    try:
        async with asyncio.timeout(30):
            assert process.stderr is not None
            url = None
            while url is None:
                line = (await process.stderr.readline()).decode()
                assert line, "it stopped before it served"
                url = re.search(r"http://127\.0\.0\.1:\d+", line)
            async with httpx2.AsyncClient(base_url=url[0]) as client:
                answer = await client.get("/livez")
                assert answer.status_code == 200
                assert "server" not in answer.headers
                # Thousands of listeners are as many files.
                assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (few_files, few_files)
                process.send_signal(signal.SIGTERM)
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
