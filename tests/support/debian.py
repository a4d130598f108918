"""Servers from Debian's packages: those that are installed, or unpacked from what apt downloads. Nothing is installed, no
service of the machine is touched: each has a folder and a port of its own, on 127.0.0.1, and ends with the test.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from local.child import Account, last_lines, start_child, stop_child, take_port, wait_until
from local.postgres import OWNER

APT_SECONDS = 120.0
START_SECONDS = 60.0
STOP_STEPS = ((signal.SIGINT, 8.0), (signal.SIGQUIT, 6.0))


class Missing(Exception):
    """A package that is not installed and cannot be had either; the message says why."""


@dataclass(frozen=True)
class Programs:
    """Where the programs of a package are, and the libraries that the machine has not got."""

    folder: Path
    libraries: str = ""

    def start(self, log: Path, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start one, as an ordinary user: neither Postgres nor PgBouncer will be root."""
        program = str(self.folder / name)
        with_libraries = ["/usr/bin/env", f"LD_LIBRARY_PATH={self.libraries}", program] if self.libraries else [program]
        return start_child([*with_libraries, *arguments], log=log, death_signal=signal.SIGINT, account=_account())


@contextmanager
def package(name: str, program: str) -> Iterator[Programs]:
    """The programs beside `program`, one of a package's: installed, or unpacked for as long as this lasts. Raises Missing."""
    if Path(program).is_file():
        yield Programs(Path(program).parent)
        return
    with tempfile.TemporaryDirectory(prefix="okane-debian-") as unpacked:
        root = Path(unpacked)
        root.chmod(0o755)  # for the ordinary user
        _unpack(name, root)
        unpacked_program = root / program.lstrip("/")
        if not unpacked_program.is_file():
            raise Missing(f"{name} has no {program}")
        libraries = {str(library.parent) for library in root.rglob("*.so*")}
        yield Programs(unpacked_program.parent, ":".join(sorted(libraries)) or "/nowhere")


def _unpack(name: str, root: Path) -> None:
    """Download a package and what of its needs is not installed, and unpack them all into the folder."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Missing(f"{name} is not installed, and there is no apt to get it with")
    planned = _run(root, name, "apt-get", "install", "--simulate", "--no-install-recommends", name)
    _run(root, name, "apt-get", "download", *re.findall(r"^Inst (\S+)", planned, re.MULTILINE))
    for archive in root.glob("*.deb"):
        _run(root, name, "dpkg", "-x", str(archive), str(root))


def _run(folder: Path, wanted: str, *command: str) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=APT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"{wanted} is not installed, and {command[0]} took too long") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise Missing(f"{wanted} is not installed, and {' '.join(command[:2])} says: {said}")
    return done.stdout


@contextmanager
def postgres(programs: Programs) -> Iterator[str]:
    """A new cluster on a free port. Gives its owner's URL."""
    with _folder() as folder:
        password, log = secrets.token_urlsafe(24), folder / "log"
        handed = _hand_over(folder / "password", password)
        made = programs.start(
            log, "initdb", f"--pgdata={folder / 'data'}", f"--username={OWNER}", "--auth=scram-sha-256", f"--pwfile={handed}",
            "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        try:
            assert made.wait(START_SECONDS) == 0, last_lines(log)
        finally:
            stop_child(made, ())
        port = take_port(0)
        settings = {
            "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "timezone": "UTC", "jit": "off",
            "fsync": "off",  # nothing here outlives the test
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        url = f"postgresql://{OWNER}:{password}@127.0.0.1:{port}/postgres"
        server = programs.start(log, "postgres", "-D", str(folder / "data"), *words)
        with _running(server, url, log):
            yield url


@contextmanager
def pgbouncer(programs: Programs, app_url: str, pool: int) -> Iterator[str]:
    """PgBouncer in transaction mode before the server of a URL, with so many connections to it for each database and user.

    Gives the URL with PgBouncer in the server's place.
    """
    parts = urlsplit(app_url)
    assert parts.username
    assert parts.password
    with _folder() as folder:
        users = _hand_over(folder / "users", f'"{unquote(parts.username)}" "{unquote(parts.password)}"\n')
        log, port = folder / "log", take_port(0)
        configuration = _hand_over(
            folder / "pgbouncer.ini",
            f"[databases]\n* = host={parts.hostname} port={parts.port or 5432}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool}\n",
        )
        place = parts.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
        url = parts._replace(netloc=place).geturl()
        with _running(programs.start(log, "pgbouncer", str(configuration)), url, log):
            yield url


def _account() -> Account | None:
    """Somebody who is not root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder that the ordinary user owns."""
    with tempfile.TemporaryDirectory(prefix="okane-debian-") as name:
        os.chown(name, *(_account() or (-1, -1)))
        yield Path(name)


def _hand_over(file: Path, text: str) -> Path:
    """A file for the ordinary user alone."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        os.fchown(descriptor, *(_account() or (-1, -1)))
        opened.write(text)
    return file


@contextmanager
def _running(server: "subprocess.Popen[bytes]", url: str, log: Path) -> Iterator[None]:
    """Once it lets people in; stopped at the end."""
    try:
        assert wait_until(lambda: _lets_in(url), server, START_SECONDS), f"it did not start:{last_lines(log)}"
        yield
    finally:
        stop_child(server, STOP_STEPS)


def _lets_in(url: str) -> bool:
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5, prepare_threshold=None):
            return True
    except psycopg.OperationalError:
        return False
