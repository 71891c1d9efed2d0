"""A worker process for the workflows of engine.py, set up as Waybill's own."""

import asyncio
import sys

import uvloop
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from benchmarks.engine import Bare, Naive, step

TASK_QUEUE = "engine"


async def main() -> None:
    client = await Client.connect(**ClientConfig.load_client_connect_config(), data_converter=pydantic_data_converter)
    worker = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[Bare, Naive],
        activities=[step],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        # Until the benchmark closes our input: then it is over, however it ended.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
