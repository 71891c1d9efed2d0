"""Processes append to few streams and follow them, while they and PostgreSQL are killed again and again."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from subprocess import Popen

from databases import PrivateServer
from dev.errors import DevError
from dev.leash import leashed
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from tests.chaos import journal, racer
from tests.chaos.checker import violations
from tests.chaos.histories import PATIENCE, SECONDS, history
from tests.support import eventually

WRITERS = 3
WITNESSES = 2
ROOT = Path(__file__).parents[2]


class Racers:
    """Processes by their number; one that is killed is followed by another with a journal of its own."""

    def __init__(self, role: str, url: str, directory: Path) -> None:
        self._start: Callable[[Path], Popen[bytes]] = lambda path: Popen(
            leashed([sys.executable, racer.__file__, role, url, str(path)], signal.SIGKILL),
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )
        self._paths = (directory / f"{role}-{number}.jsonl" for number in count(1))
        self.journals: list[Path] = []
        self.running: dict[Path, Popen[bytes]] = {}

    def start(self) -> Path:
        path = next(self._paths)
        self.journals.append(path)
        self.running[path] = self._start(path)
        return path

    async def kill_one(self) -> None:
        """One that is at work, in the middle of it; another takes its place."""
        victim = random.choice(await self._at_work(at_least=1))
        process = self.running.pop(victim)
        process.kill()
        await asyncio.to_thread(process.wait)
        self.start()

    async def all_at_work(self) -> None:
        """Wait until each has noted something more."""
        await self._at_work(at_least=len(self.running))

    async def _at_work(self, at_least: int) -> list[Path]:
        sizes = {path: _size(path) for path in self.running}

        def have_moved() -> list[Path]:
            if any(process.poll() is not None for process in self.running.values()):
                raise RuntimeError("a racer ended by itself: its last words are above")
            moved = [path for path, size in sizes.items() if _size(path) > size]
            return moved if len(moved) >= at_least else []

        return await eventually(have_moved, within=PATIENCE)

    async def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        codes = [await asyncio.to_thread(process.wait, PATIENCE) for process in self.running.values()]
        self.running.clear()
        assert set(codes) <= {0, -signal.SIGTERM}, "one ended by itself"

    def abandon(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@asynccontextmanager
async def racing(role: str, number: int, url: str, directory: Path) -> AsyncGenerator[Racers]:
    racers = Racers(role, url, directory)
    try:
        for _ in range(number):
            racers.start()
        yield racers
    finally:
        racers.abandon()


async def started_again(server: PrivateServer) -> bool:
    """Not while one of the killed server's processes is still about to end."""
    try:
        await server.start()
    except DevError:
        await server.stop()
        return False
    return True


async def test_whoever_is_killed_what_was_acknowledged_is_there_once_and_seen_once(
    private_postgres: PrivateServer, tmp_path: Path
) -> None:
    async with (
        private_postgres.empty(migrate) as url,
        racing("write", WRITERS, url, tmp_path) as writers,
        racing("witness", WITNESSES, url, tmp_path) as witnesses,
    ):
        await writers.all_at_work()
        deadline = asyncio.get_running_loop().time() + SECONDS
        rounds = 0
        while asyncio.get_running_loop().time() < deadline or not rounds:
            rounds += 1
            await writers.kill_one()
            await writers.kill_one()
            await witnesses.kill_one()
            await private_postgres.kill()
            await eventually(lambda: started_again(private_postgres), within=PATIENCE)
            await writers.all_at_work()
        await writers.stop()
        async with PostgresStore.open(url) as store:
            head = await store.stream_version("$all")

            def all_seen() -> bool:
                return (
                    max(tenure.acknowledged for path in witnesses.journals for tenure in journal.tenures(path)) == head
                )

            await eventually(all_seen, within=PATIENCE)
            await witnesses.stop()
            attempts = [attempt for path in writers.journals for attempt in journal.attempts(path)]
            tenures = [tenure for path in witnesses.journals for tenure in journal.tenures(path)]
            assert violations(await history(store, racer.STREAMS, attempts, tenures)) == []
    outcomes = {attempt.outcome for attempt in attempts}
    assert outcomes == {"appended", "refused", "unknown"}, "too tame a race to prove anything"
    assert len(tenures) > 1
    print(f"{rounds} rounds, {len(attempts)} appends, {head} events, {len(tenures)} owners")  # noqa: T201
