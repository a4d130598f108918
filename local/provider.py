"""The OpenID provider that stands in Google's place on this machine: the package oidc-provider-mock, as a child process.

It asks for no password: whoever is chosen on its page is signed in there. Programs tell it of more people with
PUT /users/<sub> {"email", "email_verified", "name"}.
"""

import json
import signal
import sys
import urllib.request
from pathlib import Path

from local.child import last_lines, new_log, start_child, stop_child, take_port, wait_until

START_SECONDS = 20.0
STOP_STEPS = ((signal.SIGTERM, 0.5),)
TRIES = 3  # of a free port that somebody else may take meanwhile
CLIENT_ID = "okane-local"
CLIENT_SECRET = "no-secret-on-this-machine"  # noqa: S105 - the provider takes any
PEOPLE = (
    {"sub": "mina", "email": "mina@example.com", "email_verified": True, "name": "Mina Rao"},
    {"sub": "unverified", "email": "unverified@example.com", "email_verified": False, "name": "Not Verified"},
)


def is_local(url: str) -> bool:
    """Whether this is a provider on this machine, such as the one below."""
    return url.startswith("http://127.0.0.1:")


class ProviderError(Exception):
    """The provider cannot start; the message says why."""


class Provider:
    """The running child and where it listens. Start it early: it takes a second to get ready."""

    def __init__(self, port: int, folder: Path) -> None:
        """Start it on a port, 0 for any free one; wait_until_ready() says when it answers. OSError for a port in use."""
        self._wanted = port
        self._log = new_log(folder / "provider.log")
        self._start()

    def _start(self) -> None:
        port = take_port(self._wanted)
        people = [word for person in PEOPLE for word in ("--user-claims", json.dumps(person))]
        program = [sys.executable, "-P", "-m", "oidc_provider_mock", "--host", "127.0.0.1", "--port", str(port)]
        self.url = f"http://127.0.0.1:{port}"
        self.process = start_child([*program, *people], log=self._log, death_signal=signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Return once it answers. Raises ProviderError."""
        for attempts_left in range(0 if self._wanted else TRIES, -1, -1):
            if wait_until(self._answers, self.process, START_SECONDS):
                return
            self.stop()
            if not (attempts_left and "address already in use" in last_lines(self._log).lower()):
                break
            self._start()
        raise ProviderError(f"the OpenID provider did not start on {self.url}:{last_lines(self._log)}")

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        return self.process.poll()

    def stop(self) -> None:
        """End it; harmless when repeated."""
        stop_child(self.process, STOP_STEPS)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/jwks", timeout=1):  # noqa: S310 - our own address
                return True
        except OSError:
            return False
