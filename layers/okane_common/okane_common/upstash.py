"""Upstash Redis over REST: one command is one HTTP request, on one kept-alive connection, with one deadline over all of it.

Not the `upstash-redis` package: its 0.8 ms of CPU for a request is four times this module's, it takes 130 ms to import,
and it bounds neither the time nor the size of an answer (docs/decisions.md).
"""

import functools
import http.client
import io
import json
import select
import socket
import ssl
import time
from collections.abc import Buffer, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import urlsplit

from okane_common.settings import Secret

CONNECT_SECONDS = 3.0  # what connecting may take when nobody waits for it any more
IDLE_SECONDS = 30.0  # a connection that has rested for longer is replaced: something on its way has forgotten it
MAX_BYTES = 1024 * 1024  # of an answer; the largest that we ask for is a page of history


class Failed(Exception):
    """Redis could not be reached, did not answer in time or refused. The text says which and holds no data."""


class _Bounded:
    """A connected socket, as far as http.client uses one, whose exchange ends at a deadline.

    A time-out of the socket itself bounds one step, and a server that drips may take as many steps as it likes.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.deadline = 0.0  # of the present exchange
        self.fileno = connected.fileno
        self.close = connected.close

    def sendall(self, data: Buffer) -> None:
        self._socket.settimeout(_left(self.deadline))
        self._socket.sendall(data)

    def receive(self, buffer: Buffer) -> int:
        self._socket.settimeout(_left(self.deadline))
        return self._socket.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Answer(self))


class _Answer(io.RawIOBase):
    """One answer: http.client closes it and keeps the connection."""

    def __init__(self, connection: _Bounded) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        return self._connection.receive(buffer)


class Upstash:
    """One database and the connection to it, for the life of an environment."""

    def __init__(self, url: str, token: Secret) -> None:
        parts = urlsplit(url)
        self._path = parts.path or "/"
        self._headers = {"Authorization": f"Bearer {token.reveal()}", "Content-Type": "application/json"}
        kind: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            # The trusted certificates take tens of milliseconds to load, so not while a request waits.
            kind = functools.partial(http.client.HTTPSConnection, context=ssl.create_default_context())
        self._new = functools.partial(kind, parts.netloc, timeout=CONNECT_SECONDS)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._coming: Future[http.client.HTTPConnection] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0

    def execute(self, command: list[Any], seconds: float) -> Any:
        """The result of one command within `seconds` of wall clock, DNS and TLS included. Raises Failed.

        Redis may still carry it out after it was given up here.
        """
        deadline = time.monotonic() + seconds
        try:
            connection = self._ready(deadline)
            cast(_Bounded, connection.sock).deadline = deadline
            connection.request("POST", self._path, json.dumps(command).encode(), self._headers)
            answer = connection.getresponse()
            content = answer.read(MAX_BYTES)
            whole = answer.status == http.client.OK and answer.isclosed()
            result = json.loads(content)["result"] if whole else None
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
            # all but the first two: an answer that is not the protocol's
            self._drop()  # what may still come belongs to this command and must not answer the next
            raise Failed(type(error).__name__) from error
        if not whole:
            self._drop()
            raise Failed(f"HTTP {answer.status}, {len(content)} bytes")
        self._used_at = time.monotonic()
        return result

    def _ready(self, deadline: float) -> http.client.HTTPConnection:
        """The connection, new if the old one has rested too long or was ended by the other side."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            rested = time.monotonic() - self._used_at > IDLE_SECONDS
            # nothing is owed to us, so whatever can be read is the end
            if not rested and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            self._drop()
        # In a thread, since nothing bounds the time that a name takes to be looked up. What comes late is kept.
        if self._coming is None or (self._coming.done() and self._coming.exception()):
            self._coming = self._thread.submit(self._connect)
        self._connection = self._coming.result(timeout=_left(deadline))
        self._coming = None
        return self._connection

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._new()
        connection.connect()
        connection.sock = cast(socket.socket, _Bounded(connection.sock))
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
