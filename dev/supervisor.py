"""Keeps a few child processes running: starts them, waits until they are ready, starts again what dies, stops all.

Each child has a session of its own, so that Ctrl-C reaches the supervisor alone, and dies with it (leash.py).
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from dev.errors import DevError
from dev.leash import KEEP, leashed

_PROBE_INTERVAL = 0.03
_PROBE_TIMEOUT = 5.0
_SHORTEST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_SETTLED_AFTER = 30.0
_LAST_WORDS_TIMEOUT = 5.0

Log = Callable[[str, str], None]
"""Takes the child's name and a line."""


class Owner(NamedTuple):
    """The system user that a child runs as."""

    uid: int
    gid: int


class ChildFailedError(DevError):
    """A child process didn't become ready: the message says which, and its last words."""


@dataclass(frozen=True)
class Command:
    """A child process. `ready` is asked again and again: does the child do its work yet? Times are in seconds."""

    name: str
    argv: Sequence[str]
    ready: Callable[[int], Awaitable[bool]]
    """Gets the child's process id."""
    environment: Mapping[str, str] | None = None
    """None: the supervisor's own."""
    directory: Path | None = None
    owner: Owner | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel when the supervisor is gone (Linux)."""
    start_timeout: float = 60.0
    stop_timeout: float = 15.0
    quiet_end: bool = False
    """Whether what it logs while it stops is of no use to anybody."""


class Supervisor:
    """Children in the order of their start; they are stopped in the opposite order."""

    def __init__(self, log: Log, restarted: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._restarted = restarted
        self._children: list[_Child] = []
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, command: Command) -> None:
        """Start a child and keep it running from now on. Returns when it is ready; raises ChildFailedError."""
        child = _Child(command, self._log)
        self._children.append(child)
        await child.start()
        self._keepers.append(asyncio.create_task(self._keep(child), name=f"keep {command.name}"))

    def pid(self, name: str) -> int:
        """The process id of the child that runs, or ran last, under this name."""
        return next(child.pid for child in self._children if child.command.name == name)

    async def stop(self) -> list[int]:
        """Stop every child, the youngest first: kindly, then after its `stop_timeout` for sure.

        Gives their exit codes; that of one which a signal has ended is negative.
        """
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        codes: list[int] = []
        while self._children:
            codes.append(await self._children[-1].stop())
            self._children.pop()
        return codes

    def kill(self) -> None:
        """End what is being stopped at once."""
        for child in self._children:
            child.kill()

    async def _keep(self, child: "_Child") -> None:
        pause = _SHORTEST_PAUSE
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            ending = await child.ended()
            if loop.time() - since > _SETTLED_AFTER:
                pause = _SHORTEST_PAUSE
            self._log(child.command.name, f"{ending}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                await child.start()
            except ChildFailedError as failure:
                self._log(child.command.name, str(failure))
                continue
            self._log(child.command.name, f"runs again as process {child.pid}")
            self._restarted()


class _Child:
    """One command and the process that runs it now."""

    def __init__(self, command: Command, log: Log) -> None:
        self.command = command
        self.pid = 0
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._last_line = ""
        self._quiet = False

    async def start(self) -> None:
        command = self.command
        owner = command.owner or Owner(KEEP, KEEP)
        self._last_line = ""
        self._quiet = False
        # A pipe of our own: asyncio's would make the process's end wait for that of whoever inherited the pipe.
        output, child_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *leashed(command.argv, command.orphan_signal, *owner),
                env=command.environment,
                cwd=command.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=child_end,
                stderr=child_end,
                start_new_session=True,
            )
        except OSError as error:
            raise ChildFailedError(f"{command.name} can't be started: {error}") from error
        finally:
            os.close(child_end)
            self._output = asyncio.create_task(self._relay(output), name=f"output of {command.name}")
        self.pid = self._process.pid
        try:
            async with asyncio.timeout(command.start_timeout):
                await self._until_ready(self._process)
        except TimeoutError:
            await self.stop()
            raise ChildFailedError(
                f"{command.name} was not ready after {command.start_timeout:g} s: {self._last_line}"
            ) from None

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if process.returncode is not None:
                raise ChildFailedError(f"{await self.ended()}: {self._last_line}")
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    if await self.command.ready(self.pid) and process.returncode is None:
                        return
            await asyncio.sleep(_PROBE_INTERVAL)

    async def ended(self) -> str:
        """Wait for the process's end; says how it ended."""
        assert self._process is not None
        assert self._output is not None
        code = await self._process.wait()
        if not self._output.done():
            self._signal(signal.SIGKILL)
            # Not awaited itself: who gives up waiting here must not cancel it.
            await asyncio.wait([self._output], timeout=_LAST_WORDS_TIMEOUT)
            self._output.cancel()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{self.command.name} (process {self.pid}) ended with {how}"

    async def stop(self) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._quiet = self.command.quiet_end
            with suppress(ProcessLookupError):
                self._process.send_signal(self.command.stop_signal)
            try:
                async with asyncio.timeout(self.command.stop_timeout):
                    await self._process.wait()
            except TimeoutError:
                self._log(self.command.name, f"did not stop in {self.command.stop_timeout:g} s: killing it")
                self.kill()
        await self.ended()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the child and what it may have started: they share a process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def _relay(self, output: int) -> None:
        """Not line by line: a line that is longer than the reader's buffer must not stop the child."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
        )
        rest = b""
        try:
            while chunk := await reader.read(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(line)
        finally:
            self._say(rest)
            transport.close()

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._last_line = text
            if not self._quiet:
                self._log(self.command.name, text)
