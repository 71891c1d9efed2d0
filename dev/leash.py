"""Runs a command that can't outlive its parent: `python leash.py PARENT_PID UID GID SIGNAL COMMAND...`.

A program of its own and not a function between fork and exec, because a process with threads must not run Python
there. It imports nothing but the standard library: it runs before every child.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
KEEP = -1
"""Stands for a user or group id that stays as it is."""


def leashed(command: Sequence[str], orphan_signal: signal.Signals, uid: int = KEEP, gid: int = KEEP) -> list[str]:
    """The command, to be started by this process: it gets `orphan_signal` when this process is gone (Linux)."""
    numbers = (os.getpid(), uid, gid, orphan_signal.value)
    return [sys.executable, "-I", "-S", __file__, *map(str, numbers), *command]


def main() -> None:
    parent, uid, gid, orphan_signal = (int(argument) for argument in sys.argv[1:5])
    command = sys.argv[5:]
    if uid != KEEP:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which would undo it. Elsewhere than on Linux there is no such thing.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, orphan_signal)
    if os.getppid() != parent:
        sys.exit(f"{command[0]}: the process that started it is gone")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the command is what it is for
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
