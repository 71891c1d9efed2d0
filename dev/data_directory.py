"""The directory that holds a stack's data: used by one `waybill dev` at a time, and wiped only if it is Waybill's."""

import fcntl
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dev import postgres
from dev.errors import DevError
from dev.record import Record

_LOCK = "dev.lock"
"""Held while the stack runs. It stays in the directory and marks it as Waybill's own."""


@contextmanager
def claimed(path: Path, *, fresh: bool) -> Generator[Path]:
    """The directory, made if need be, for this process alone; emptied first if `fresh`. Raises DevError."""
    directory = path.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    lock_file = directory / _LOCK
    if not lock_file.exists() and any(directory.iterdir()):
        raise DevError(f"{path} holds files that are not Waybill's: name another directory with --data-dir")
    with lock_file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevError(
                f"another `waybill dev` uses {path}: stop it, or name another directory with --data-dir"
            ) from None
        Record.remove(directory)
        if fresh:
            _wipe(directory)
        try:
            yield directory
        finally:
            Record.remove(directory)


def postgres_data(directory: Path) -> Path:
    return directory / "postgres"


def temporal_database(directory: Path) -> Path:
    return directory / "temporal.db"


def _wipe(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
    shutil.rmtree(postgres.elsewhere(postgres_data(directory)), ignore_errors=True)
