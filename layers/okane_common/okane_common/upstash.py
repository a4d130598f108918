"""Upstash Redis over REST: one command is one HTTP request, on one kept-alive connection, with one deadline over all of it.

Not the `upstash-redis` package: its 0.8 ms of CPU for a request is three times this module's, it takes 130 ms to import,
and it bounds neither the time nor the size of an answer (docs/decisions.md).
"""

import contextlib
import http.client
import json
import select
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from okane_common.settings import Secret

STEP_SECONDS = 3.0  # what connecting, or one read, may take when nobody waits for it any more
IDLE_SECONDS = 30.0  # a connection that has rested for longer is replaced: something on its way has forgotten it
MAX_BYTES = 1024 * 1024  # of an answer; the largest that we ask for is a page of history


class Failed(Exception):
    """Redis could not be reached, did not answer in time or refused. The text says which and holds no data."""


class Upstash:
    """One database and the connection to it, for the life of an environment."""

    def __init__(self, url: str, token: Secret) -> None:
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token.reveal()}", "Content-Type": "application/json"}
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._running: Future[Any] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None  # the connection's; it lets go of it when an answer ends with it
        self._used_at = 0.0

    def execute(self, command: list[Any], seconds: float) -> Any:
        """The result of one command within `seconds` of wall clock, DNS and TLS included. Raises Failed.

        The exchange runs in a thread of its own, since no socket time-out bounds a whole one. It may still be carried out
        after it was given up here.
        """
        if self._running is not None and not self._running.done():
            raise Failed("the command before has not ended")
        self._running = self._thread.submit(self._exchange, json.dumps(command).encode())
        try:
            return self._running.result(timeout=seconds)
        except TimeoutError:
            self._hang_up()
            raise Failed("no answer in time") from None
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
            # all but the first two: an answer that is not the protocol's
            raise Failed(type(error).__name__) from error

    def _exchange(self, body: bytes) -> Any:
        connection = self._ready()
        whole = False
        try:
            connection.request("POST", self._url.path or "/", body, self._headers)
            answer = connection.getresponse()
            content = answer.read(MAX_BYTES)
            whole = answer.isclosed() or not answer.read(1)
            if answer.status != http.client.OK or not whole:
                raise ValueError(f"HTTP {answer.status}, {len(content)} bytes")
            return json.loads(content)["result"]
        finally:
            self._used_at = time.monotonic()
            if not whole:  # what may still come belongs to this command and must not answer the next
                connection.close()

    def _ready(self) -> http.client.HTTPConnection:
        """The connection, new if the old one has rested too long or was ended by the other side."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            rested = time.monotonic() - self._used_at > IDLE_SECONDS
            # nothing is owed to us, so whatever can be read is the end
            if not rested and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            connection.close()
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(self._url.netloc, timeout=STEP_SECONDS)
        self._connection.connect()
        self._socket = self._connection.sock
        return self._connection

    def _hang_up(self) -> None:
        """Wake the thread from whatever it waits for, so that it is free for the next command."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it may have ended this moment, or long ago
                self._socket.shutdown(socket.SHUT_RDWR)
