"""A collector of spans that throws them away, as a process of its own: `python -m benchmarks.collector`.

It says its port in a line, then takes OTLP over HTTP until its standard input ends. At the end it says how much came.
"""

import asyncio
import sys
from contextlib import suppress

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Collector:
    """Counts what it throws away."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                self.requests += 1
                self.bytes += length
                writer.write(_ANSWER)
                await writer.drain()
        writer.close()


async def main() -> None:
    collector = Collector()
    server = await asyncio.start_server(collector.connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(collector.requests, collector.bytes, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
