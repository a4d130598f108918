"""What every child process is given, and how it is made to end."""

import signal
import socket
from pathlib import Path

import pytest

from local.child import last_lines, new_log, start_child, stop_child, take_port, wait_until


def test_a_child_gets_its_input_and_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKANE_SECRET", "for the handlers only")
    log = tmp_path / "log"
    child = start_child(["sh", "-c", "env; cat"], log=log, death_signal=signal.SIGKILL, feed=b"fed\n")
    assert child.wait(10) == 0
    assert "PATH=" in log.read_text()
    assert "fed\n" in log.read_text()
    assert "OKANE_SECRET" not in log.read_text()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_child([str(tmp_path / "nothing")], log=tmp_path / "log", death_signal=signal.SIGKILL)


def test_a_child_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
    for script, status in ((polite, 3), (stubborn, -signal.SIGKILL)):
        child = start_child(["sh", "-c", script], log=new_log(log), death_signal=signal.SIGKILL)
        assert wait_until(lambda: "ready" in log.read_text(), child, 10)
        stop_child(child, ((signal.SIGTERM, 10.0 if status == 3 else 0.1),))
        stop_child(child, ((signal.SIGTERM, 10.0),))
        assert child.returncode == status
        assert not wait_until(lambda: True, child, 10)  # one that has ended is not ready
    assert last_lines(tmp_path / "log.1") == "\n    ready\n    bye"
    assert last_lines(tmp_path / "log.2") == "\n    (its log is empty)"


def test_a_port_is_free_or_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            take_port(port)
        assert take_port(0) != port
    assert take_port(port) == port
