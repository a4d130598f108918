"""The parts of the test set-up that tests name: what the fixtures give, and how to start and stop a platform."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.state import Secrets
from tests.support.api import Endpoints

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Services:
    """The servers of this run of the tests, and the secrets that all platforms on them share."""

    state: Path  # state folder for platforms, has their secrets
    secrets: Secrets = field(repr=False)
    server_url: str = field(repr=False)  # the owner's, of the server's own database
    template: str  # name of the migrated, empty database that is cloned
    redis_url: str = field(repr=False)
    openid: dict[
        str, str
    ]  # what makes `up` take the OpenID provider of this run: starting one takes a second of processor time


@dataclass(frozen=True)
class Database:
    """A migrated database of one test module."""

    url: str = field(repr=False)  # the owner's
    app_url: str = field(repr=False)  # of the role that the functions have


@dataclass(frozen=True)
class Platform:
    """A running `./okane up`."""

    endpoints: Endpoints
    pid: int
    state: Path


def start_platform(state: Path, *options: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Start `up` on free ports; what it says goes to the file up.log in the state folder."""
    state.mkdir(exist_ok=True)
    ports = ("--port", "0", "--bank-port", "0", "--mailbox-port", "0", "--provider-port", "0")
    with (state / "up.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "local", "up", "--data", str(state), *ports, *options],
            cwd=ROOT,
            env=without_services() | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def without_services() -> dict[str, str]:
    """Our environment without what names servers to use."""
    named = ("DATABASE_URL", "REDIS_URL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in named}


def said(state: Path) -> str:
    """What the last `up` on this state folder has printed."""
    return (state / "up.log").read_text(errors="replace")


def wait_for_endpoints(state: Path, process: "subprocess.Popen[bytes]") -> Endpoints:
    """What endpoints.json says once the platform is ready; fails with its output if it does not get there."""
    path = state / "endpoints.json"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return Endpoints(**json.loads(path.read_text()))
        except FileNotFoundError:
            assert process.poll() is None, f"`up` ended with {process.returncode}:\n{said(state)}"
            assert time.monotonic() < deadline, f"`up` did not get ready:\n{said(state)}"
            time.sleep(0.01)


def stop_platform(process: "subprocess.Popen[bytes]") -> None:
    """Stop it as a terminal would, and see that none of its processes is left."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    assert_gone(family)
    assert code == 0, f"`up` ended with {code}"


def assert_gone(family: list[int], seconds: float = 0.0) -> None:
    """Fails if one of these processes is still there; those whose parent was killed outright get some seconds."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in family if alive(pid)]:
        assert time.monotonic() < deadline, f"processes left behind: {left}"
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Children of a process and theirs, as far as this system tells (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # it has just ended
        for child in children:
            found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def empty_redis(url: str) -> None:
    """FLUSHALL, in Redis' own protocol."""
    parts = urlsplit(url)
    commands = [["FLUSHALL"]]
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        commands.insert(0, ["AUTH", *user, unquote(parts.password)])
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=5) as connection:
        replies = connection.makefile("rb")
        for command in commands:
            words = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
            connection.sendall(f"*{len(command)}\r\n{words}".encode())
            reply = replies.readline()
            assert reply == b"+OK\r\n", reply
