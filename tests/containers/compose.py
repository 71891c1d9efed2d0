"""Waybill as containers: the image, and the development stack of docker-compose.dev.yml made of it."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

from dev import ports
from support import eventually

IMAGE = "waybill:test"
PATIENCE = 120.0
"""Seconds for what takes a few on a machine that has nothing else to do."""
_ROOT = Path(__file__).parents[2]
_PUBLISHED = ("API_PORT", "TEMPORAL_PORT", "TEMPORAL_UI_PORT")


async def docker(*arguments: str, **environment: str) -> str:
    """What the command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        "docker",
        *arguments,
        cwd=_ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    told, complaint = await process.communicate()
    assert process.returncode == 0, f"docker {' '.join(arguments)}: {complaint.decode()}"
    return told.decode().strip()


async def build() -> None:
    await docker("build", "--tag", IMAGE, ".")


async def inspect(name: str) -> dict[str, Any]:
    (found,) = json.loads(await docker("inspect", name))
    return found


@dataclass
class Stack:
    """PostgreSQL, Temporal's development server, a gateway that wants a key, two workers."""

    project: str
    environment: dict[str, str]
    http: httpx2.AsyncClient

    async def compose(self, *arguments: str) -> str:
        file = ("--file", "docker-compose.dev.yml", "--project-name", self.project)
        return await docker("compose", *file, *arguments, **self.environment)

    async def up(self, *which: str) -> None:
        """Everything that isn't there, or what is named, is started; returns when it is healthy."""
        waiting = ("--wait", "--wait-timeout", str(int(PATIENCE)))
        await self.compose("up", "--detach", "--no-build", *waiting, "--scale", "worker=2", *which)

    def container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    async def state(self, service: str) -> dict[str, Any]:
        return (await inspect(self.container(service)))["State"]

    async def healthy(self, service: str) -> None:
        async def says_so() -> bool:
            return (await self.state(service)).get("Health", {}).get("Status") == "healthy"

        await eventually(says_so, within=PATIENCE, every=0.5, what=f"{service} healthy")

    async def crash(self, service: str) -> None:
        """Its process gets a SIGKILL. Not by `docker kill`: who kills so wants no restart, Docker thinks."""
        pid = (await self.state(service))["Pid"]
        killer = ("run", "--rm", "--pid=host", "--user=0", "--entrypoint=python", IMAGE)
        await docker(*killer, "-c", f"import os; os.kill({pid}, 9)")

    async def insist(self, path: str, content: Any = None) -> dict[str, Any]:
        """Send it, again and again with one key, until it is done."""
        key = {"Idempotency-Key": str(uuid4())}

        async def done() -> httpx2.Response | None:
            with suppress(httpx2.TransportError):
                answer = await self.http.post(path, json=content, headers=key)
                return answer if answer.is_success else None
            return None

        answer = await eventually(done, within=PATIENCE, every=0.2, what=f"POST {path}")
        assert answer is not None
        return answer.json()

    async def new_order(self) -> str:
        item = {"product_id": str(uuid4()), "quantity": 1.5, "uom": "KG"}
        order = {"order_number": f"SO-{uuid4().hex[:12]}", "business_partner": "ada@example.com", "items": [item]}
        return (await self.insist("/orders", order))["id"]

    async def ship(self, order: str) -> None:
        """Complete the order, then its shipment, until everybody can see it."""
        completed = await self.insist(f"/orders/{order}/complete")
        await self.insist(f"/shipments/{completed['shipment_id']}/complete")

        async def shipped() -> bool:
            with suppress(httpx2.TransportError):
                answer = await self.http.get(f"/orders/{order}")
                return answer.is_success and answer.json()["status"] == "SHIPPED"
            return False

        await eventually(shipped, within=PATIENCE, every=0.2)


@asynccontextmanager
async def running_stack() -> AsyncGenerator[Stack]:
    """Built, started, and nothing left of it afterwards."""
    await build()
    header, setting = (await docker("run", "--rm", IMAGE, "api-key", "new", "desk", "--scope", "admin")).splitlines()
    found = ports.settle(dict.fromkeys(_PUBLISHED, 0))
    environment = {"IMAGE": IMAGE, "WAYBILL_API_KEYS": setting.partition("=")[2]}
    environment |= {name: str(port) for name, port in zip(_PUBLISHED, found, strict=True)}
    name, _, key = header.partition(": ")
    client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{found[0]}", headers={name: key}, timeout=60)
    stack = Stack(f"waybill-test-{os.getpid()}", environment, client)
    async with client:
        try:
            await stack.up()
            yield stack
        finally:
            await stack.compose("down", "--volumes", "--remove-orphans")
    assert not await docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}")
