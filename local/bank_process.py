"""The bank simulator as seen from the platform: a child that shares nothing with us but one line of settings."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 20.0
STOP_SECONDS = 1.0


class BankError(Exception):
    """The bank simulator cannot start; the message says why."""


class BankProcess:
    """The process; it listens at once and answers 503 until it has its settings. Ends when its input closes."""

    def __init__(self, port: int, log: Path) -> None:
        self._port = port
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "local.bank", "--port", str(port)],
                cwd=ROOT,
                # None of our environment: it holds the database's address.
                env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def stop(self) -> None:
        """End it; harmless when repeated."""
        cast(IO[bytes], self.process.stdin).close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        cast(IO[bytes], self.process.stdout).close()

    def url(self) -> str:
        """Where it listens, once it does. BankError if it cannot."""
        output = cast(IO[bytes], self.process.stdout)
        readable, _, _ = select.select([output], [], [], START_SECONDS)
        said = json.loads(output.readline() or b"{}") if readable else {}
        if "url" not in said:
            reason = said.get("error", f"see {self._log}")
            raise BankError(f"the bank simulator did not start on port {self._port}: {reason}")
        return str(said["url"])

    def serve(self, api: str, secrets: Mapping[str, list[str]]) -> None:
        """Tell it where the API is and what it signs with; from now on it answers."""
        stdin = cast(IO[bytes], self.process.stdin)
        stdin.write(json.dumps({"api": api, "secrets": secrets}).encode() + b"\n")
        stdin.flush()
