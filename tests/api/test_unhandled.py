"""A fault of ours: it is told with an id that the log has, and the connection stays what it was."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import uvicorn
from fastapi.responses import StreamingResponse
from structlog.testing import capture_logs

from api.app import create_app
from api.server import strict_protocol
from over_http import problem
from settings import Settings
from wire import LAST, request, say


@pytest.fixture(autouse=True)
def log() -> Generator[list[Any]]:
    """What is logged. To render a stack trace takes longer than everything else here."""
    with capture_logs() as logged:
        yield logged


@pytest.fixture
async def address(lonely_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[tuple[str, int]]:
    """A served gateway with two routes more, both at fault."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    app = create_app(lonely_settings)

    @app.get("/fault")
    async def fault() -> None:
        raise ZeroDivisionError("a secret of ours")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"half of an answer"
            raise ZeroDivisionError("a secret of ours")

        return StreamingResponse(parts())

    protocol = strict_protocol(lonely_settings)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, port=0, lifespan="on", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done()
    try:
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        await serving


async def test_a_fault_is_told_with_an_id_that_the_log_has_and_the_connection_stays(
    address: tuple[str, int], log: list[Any]
):
    fault, after = await say(address, request("GET", "/fault") + LAST)
    assert (fault.status, fault.code, after.status) == (500, "internal-error", 200)
    assert b"secret" not in fault.body
    assert fault.headers["x-content-type-options"] == "nosniff"
    (entry,) = [each for each in log if each["event"] == "request.failed"]
    assert entry["request_id"] == fault.headers["x-request-id"]
    assert entry["request_id"].encode() in fault.body


async def test_a_client_with_one_connection_goes_on_after_a_fault(address: tuple[str, int]):
    limits = httpx2.Limits(max_connections=1)
    async with httpx2.AsyncClient(base_url="http://{}:{}".format(*address), limits=limits) as client:
        for _ in range(3):
            given = {"X-Request-Id": str(uuid4())}
            fault = problem(await client.get("/fault", headers=given), 500, "internal-error")
            assert fault["request_id"] == given["X-Request-Id"]
            assert (await client.get("/livez")).status_code == 200


async def test_half_of_an_answer_is_never_taken_for_a_whole_one(address: tuple[str, int]):
    async with httpx2.AsyncClient(base_url="http://{}:{}".format(*address)) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/half")
        assert (await client.get("/livez")).status_code == 200
