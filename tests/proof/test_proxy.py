"""The network between two programs, made to fail; what fails is what the plan says, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from proof.proxy import Http, Postgres, Proxy, Streams

_WRITE = b"POST /orders HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
_READ = b"GET /orders HTTP/1.1\r\n\r\n"
_DONE = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Answers every request in the same way, and counts what it has done."""

    def __init__(self) -> None:
        self.done = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while await reader.read(1000):
                self.done += 1
                writer.write(_DONE)
        writer.close()


@pytest.fixture
async def server() -> AsyncGenerator[Any]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as sockets:
        server.port = sockets.sockets[0].getsockname()[1]  # pyright: ignore[reportAttributeAccessIssue]
        yield server


@pytest.fixture
async def proxy(server: Any) -> AsyncGenerator[Proxy]:
    proxy = Proxy(lambda: asyncio.open_connection("127.0.0.1", server.port), Http)
    async with proxy.listening():
        yield proxy


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncGenerator[Callable[[], Awaitable[Streams]]]:
    opened: list[asyncio.StreamWriter] = []

    async def new_connection() -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", proxy.port)
        opened.append(streams[1])
        return streams

    yield new_connection
    for writer in opened:
        writer.close()


async def ask(streams: Streams, request: bytes = _WRITE) -> bytes:
    reader, writer = streams
    writer.write(request)
    async with asyncio.timeout(30):
        return await reader.read(1000)


async def test_without_a_fault_everything_passes(connect, server):
    streams = await connect()

    assert [await ask(streams) for _ in range(3)] == [_DONE] * 3
    assert server.done == 3


async def test_a_killed_connection_is_reset(proxy, connect):
    streams = await connect()
    await ask(streams)

    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        await ask(streams)


async def test_what_is_held_back_is_delivered_later(proxy, connect):
    streams = await connect()
    stalling = asyncio.create_task(proxy.stall(0.3))
    await asyncio.sleep(0)
    asking = asyncio.create_task(ask(streams))

    assert await stalling == 1
    assert await asking == _DONE


async def test_what_falls_into_a_black_hole_is_never_done_and_its_connection_ends_with_it(proxy, connect, server):
    old = await connect()
    await ask(old)
    swallowing = asyncio.create_task(proxy.swallow(0.3))
    await asyncio.sleep(0)
    new = await connect()
    asking = [asyncio.create_task(ask(streams)) for streams in (old, new)]

    assert await swallowing == 2
    for lost in asking:
        with pytest.raises(ConnectionResetError):
            await lost
    assert server.done == 1
    assert await ask(await connect()) == _DONE


async def test_a_lost_answer_is_one_to_a_write_that_was_done(proxy, connect, server):
    losing = asyncio.create_task(proxy.lose_answers(1, 30))
    await asyncio.sleep(0)
    streams = await connect()

    assert await ask(streams, _READ) == _DONE
    with pytest.raises(ConnectionResetError):
        await ask(streams)
    assert await losing == 1
    assert server.done == 2


async def test_a_denied_answer_says_that_it_failed(proxy, connect, server):
    denying = asyncio.create_task(proxy.deny_answers(1, 30))
    await asyncio.sleep(0)

    assert await ask(await connect()) == Http.error
    assert await denying == 1
    assert server.done == 1
    assert await ask(await connect()) == _DONE


async def test_a_fault_that_finds_nothing_to_hit_says_so(proxy):
    assert await proxy.lose_answers(1, 0.01) == 0
    assert proxy.reset() == 0


@pytest.fixture
async def before_postgres(event_store_url: str) -> AsyncGenerator[tuple[Proxy, PostgresStore]]:
    place = urlsplit(event_store_url)

    def server() -> Awaitable[Streams]:
        if socket := parse_qs(place.query).get("host"):
            return asyncio.open_unix_connection(f"{socket[0]}/.s.PGSQL.5432")
        return asyncio.open_connection(place.hostname, place.port)

    proxy = Proxy(server, Postgres)
    async with proxy.listening():
        url = place._replace(netloc=f"waybill:waybill@127.0.0.1:{proxy.port}", query="sslmode=disable").geturl()
        async with PostgresStore.open(url, 1) as store:
            yield proxy, store


async def test_an_append_whose_answer_is_lost_is_found_committed_when_it_is_sent_again(before_postgres):
    proxy, store = before_postgres
    losing = asyncio.create_task(proxy.lose_answers(1, 60))
    await asyncio.sleep(0)

    # The store itself sends it again.
    appended = await store.append(Append("apples", "no_stream", [NewEvent(uuid4(), "Fruit.Picked", b"{}")]))

    assert await losing == 1
    assert appended.repeated
    assert await store.stream_version("apples") == 1


async def test_an_append_that_is_said_to_have_failed_is_found_committed_when_it_is_sent_again(before_postgres):
    proxy, store = before_postgres
    append = Append("apples", "no_stream", [NewEvent(uuid4(), "Fruit.Picked", b"{}")])
    denying = asyncio.create_task(proxy.deny_answers(1, 60))
    await asyncio.sleep(0)

    with pytest.raises(asyncpg.PostgresIOError):
        await store.append(append)

    assert await denying == 1
    assert (await store.append(append)).repeated
    assert await store.stream_version("apples") == 1
