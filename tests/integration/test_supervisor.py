"""The supervisor of `waybill dev`, with stand-ins for its children."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from dev.supervisor import ChildFailedError, Command, Supervisor
from support import eventually

Lines = list[tuple[str, str]]


@pytest.fixture
def lines() -> Lines:
    return []


@pytest.fixture
def restarts() -> list[str]:
    return []


@pytest.fixture
async def supervisor(lines: Lines, restarts: list[str]) -> AsyncGenerator[Supervisor]:
    async with Supervisor(lambda *line: lines.append(line), lambda: restarts.append("again")) as supervisor:
        yield supervisor


@pytest.fixture
def child(lines: Lines) -> Callable[..., Command]:
    """A child that runs the given Python code, ready as soon as it has said `ready`."""

    def command(name: str, code: str, **options: Any) -> Command:
        async def ready(pid: int) -> bool:
            return (name, f"ready {pid}") in lines

        return Command(name, [sys.executable, "-uc", f"import os, signal, sys, time\n{code}"], ready, **options)

    return command


STEADY = "print('ready', os.getpid())\nwhile True: time.sleep(60)"


def alive(pid: int) -> bool:
    """A process that has ended but was not waited for by whoever adopted it counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_child_is_started_only_when_it_is_ready(supervisor, child, lines):
    await supervisor.start(child("api", STEADY))

    assert ("api", f"ready {supervisor.pid('api')}") in lines
    assert alive(supervisor.pid("api"))


async def test_a_child_that_dies_is_started_again_and_that_is_said(supervisor, child, lines, restarts):
    await supervisor.start(child("worker", STEADY))
    first = supervisor.pid("worker")

    os.kill(first, signal.SIGKILL)
    await eventually(lambda: restarts)

    assert supervisor.pid("worker") != first
    assert alive(supervisor.pid("worker"))
    assert ("worker", f"worker (process {first}) ended with SIGKILL; starting it again in 0.2 s") in lines


async def test_a_child_that_keeps_dying_is_given_more_and_more_time(supervisor, child, lines, tmp_path):
    once = tmp_path / "once"
    code = f"if os.path.exists({str(once)!r}): sys.exit('broken')\nopen({str(once)!r}, 'w')\n{STEADY}"
    await supervisor.start(child("api", code))

    os.kill(supervisor.pid("api"), signal.SIGKILL)

    def pauses() -> list[str]:
        return [line.rpartition(" in ")[2] for _, line in lines if "starting it again" in line]

    await eventually(lambda: len(pauses()) >= 3)
    assert pauses()[:3] == ["0.2 s", "0.4 s", "0.8 s"]


async def test_a_child_that_ends_before_it_is_ready_fails_with_its_last_words(supervisor, child):
    with pytest.raises(ChildFailedError, match=r"^temporal \(process \d+\) ended with exit code 1: no such luck$"):
        await supervisor.start(child("temporal", "sys.exit('no such luck')"))


async def test_a_child_that_never_gets_ready_is_stopped_and_fails(supervisor, child):
    with pytest.raises(ChildFailedError, match=r"^api was not ready after 0\.5 s: not yet$"):
        await supervisor.start(child("api", "print('not yet')\ntime.sleep(60)", start_timeout=0.5))

    assert not alive(supervisor.pid("api"))


async def test_children_are_stopped_in_the_opposite_order_of_their_start(supervisor, child, lines):
    say_so = "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
    for name in ("postgres", "temporal", "api"):
        await supervisor.start(child(name, say_so + STEADY))

    await supervisor.stop()

    assert [name for name, line in lines if line == "bye"] == ["api", "temporal", "postgres"]


async def test_a_child_that_does_not_stop_in_time_is_killed(supervisor, child, lines):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STEADY
    await supervisor.start(child("worker", deaf, stop_timeout=0.3))
    pid = supervisor.pid("worker")

    await supervisor.stop()

    assert not alive(pid)
    assert ("worker", "did not stop in 0.3 s: killing it") in lines


async def test_stopping_tells_how_each_child_has_ended(supervisor, child):
    in_order = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    await supervisor.start(child("api", in_order + STEADY))
    await supervisor.start(child("worker", STEADY))

    assert await supervisor.stop() == [-signal.SIGTERM, 0]


async def test_a_child_that_is_being_stopped_can_be_ended_at_once(supervisor, child, lines):
    slow = "signal.signal(signal.SIGTERM, lambda *_: print('not now'))\n" + STEADY
    await supervisor.start(child("worker", slow, stop_timeout=60))

    stopping = asyncio.create_task(supervisor.stop())
    await eventually(lambda: ("worker", "not now") in lines)
    supervisor.kill()

    assert await asyncio.wait_for(stopping, 30) == [-signal.SIGKILL]


async def test_what_a_child_has_started_is_stopped_with_it(supervisor, child, lines):
    parent = "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    await supervisor.start(child("worker", f"{parent}print('grandchild', child.pid)\n{STEADY}"))
    grandchild = next(int(line.split()[1]) for _, line in lines if line.startswith("grandchild"))

    await supervisor.stop()

    await eventually(lambda: not alive(grandchild))


async def test_no_line_is_too_long_for_the_log(supervisor, child, lines):
    await supervisor.start(child("api", f"print('x' * 1_000_000)\n{STEADY}"))

    assert max(len(line) for _, line in lines) == 1_000_000


async def test_control_c_in_the_terminal_reaches_only_the_supervisor(supervisor, child):
    await supervisor.start(child("api", STEADY))

    assert os.getpgid(supervisor.pid("api")) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_a_child_does_not_outlive_a_supervisor_that_is_killed():
    code = (
        "import signal, subprocess, sys, time\n"
        "from dev.leash import leashed\n"
        "child = subprocess.Popen(leashed([sys.executable, '-c', 'import time; time.sleep(60)'], signal.SIGKILL))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert supervisor.stdout is not None
    child = int(await supervisor.stdout.readline())
    assert alive(child)

    supervisor.kill()
    await supervisor.wait()

    await eventually(lambda: not alive(child))
