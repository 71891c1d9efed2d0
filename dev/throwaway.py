"""A stack for a while: `waybill dev` as a process of its own, with free ports and a directory that is removed after.

What the demo, the benchmarks and the tests measure is thereby what a user runs.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from dev.errors import DevError
from dev.leash import leashed
from dev.record import FILE, Record

ANY_PORTS = ("--api-port", "0", "--temporal-port", "0", "--temporal-ui-port", "0")
_POLL = 0.05
_LAST_LINES = 40


class DevProcess:
    """A `waybill dev` that somebody else started and has to stop."""

    def __init__(self, data_dir: Path, log: Path, process: asyncio.subprocess.Process) -> None:
        self.data_dir = data_dir
        self.log = log
        self.process = process
        self._started = time.time()

    @classmethod
    async def start(
        cls, data_dir: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None
    ) -> "DevProcess":
        """Start it; its output goes to `log`, which a second start continues."""
        command: Sequence[str] = [sys.executable, "-P", "-m", "cli", "dev", "--data-dir", str(data_dir), *options]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *leashed(command, signal.SIGTERM),
                env={**os.environ, **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(data_dir, log, process)

    async def ready(self, within: float = 60.0) -> Record:
        """The stack's record as soon as all is ready. Raises DevError with the log's end if it won't be."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self.process.returncode is None:
                    record = Record.read(self.data_dir)
                    # One that was killed leaves its record behind.
                    if record and (self.data_dir / FILE).stat().st_mtime >= self._started:
                        return record
                    await asyncio.sleep(_POLL)
        raise DevError(f"`waybill dev` did not become ready:\n{self.last_lines()}")

    async def stop(self, within: float = 60.0) -> int:
        """Stop it as Ctrl-C would; gives its exit code. What doesn't stop in time is killed, children and all."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


@asynccontextmanager
async def stack(
    *, workers: int = 1, tuned: bool = True, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Record]:
    """A running stack, gone with the block. If the block fails, the log's end goes to stderr."""
    options = [*ANY_PORTS, "--workers", str(workers), *([] if tuned else ["--untuned"])]
    with temporary_directory() as directory:
        dev = await DevProcess.start(directory / "data", directory / "log", *options, environment=environment)
        try:
            record = await dev.ready()
            try:
                yield record
            except Exception:
                sys.stderr.write(f"\nThe stack's last lines:\n{dev.last_lines()}\n")
                raise
        finally:
            await dev.stop()


@contextmanager
def temporary_directory() -> Generator[Path]:
    """For servers' data, so passable for the user that PostgreSQL runs as; gone with the block."""
    directory = Path(tempfile.mkdtemp(prefix="waybill-"))
    try:
        directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory)
