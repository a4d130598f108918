"""Servers as child processes: started so that they never outlive us, stopped so that nothing is left running.

Each child gets a session of its own, so that Ctrl-C in the terminal reaches us alone and we decide the order
of things. Should we be killed outright (SIGKILL), Linux sends the child the signal named as `death_signal`.
That promise is tied to the THREAD that called `start_child`, not to the process: call it from one that lives
as long as the platform does, which is the main one. Elsewhere than on Linux there is no such promise, and the
next start has to find out what is still running.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

type Account = tuple[int, int]  # the numbers of a user and its group

_PR_SET_PDEATHSIG = 1
# Looked up before any fork: between fork and exec a child should do as little as it can.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def start_child(
    arguments: Sequence[str],
    *,
    log: Path,
    death_signal: signal.Signals,
    account: Account | None = None,
    keep: Sequence[int] = (),
    feed: bytes = b"",
) -> subprocess.Popen[bytes]:
    """Start a program whose output is appended to a log file.

    It sees none of our environment (which holds secrets it has no need of), of our open files only those in
    `keep`, and `feed` on its standard input (4 KiB at most, which a pipe always holds). OSError if it cannot
    be started.
    """
    user, group = account or (None, None)
    source, sink = os.pipe()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(sink, feed)
        os.close(sink)
        return subprocess.Popen(
            arguments,
            stdin=source,
            stdout=output,
            stderr=output,
            cwd="/",  # another account may not be let in where we stand
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=user,
            group=group,
            extra_groups=None if account is None else [],
            pass_fds=keep,
            start_new_session=True,
            # Python runs this after the change of account, which would undo it.
            preexec_fn=_die_with_us(os.getpid(), death_signal),
        )
    finally:
        os.close(source)
        os.close(output)


def stop_child(process: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn, with its seconds to take effect, then kill. Returns when it is gone."""
    for number, seconds in steps:
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Ask until the child is ready; False if it has ended or is not ready in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return True
        time.sleep(0.01)
    return False


def take_port(port: int) -> int:
    """The port if nobody has it, or a free one for 0; on 127.0.0.1. OSError if it is in use.

    The port is only looked up here and taken by the child a moment later, so whoever asks for 0 must be ready
    to ask again.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        free: int = probe.getsockname()[1]
    return free


def new_log(path: Path) -> Path:
    """Make room for the log of a new run; that of the run before is kept beside it, older ones are not."""
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))
    return path


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log file, indented, for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "".join(f"\n    {line}" for line in lines[-count:]) or "\n    (its log is empty)"


def _die_with_us(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does between fork and exec, or None where it is not known how."""
    prctl = _prctl
    if prctl is None:
        return None

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # we died before the promise was made
            os._exit(1)

    return prepare
