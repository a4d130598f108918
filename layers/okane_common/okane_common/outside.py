"""HTTP to somebody else's server within one deadline, whatever it does: hangs, drips, never ends.

http.client over a socket that knows when the exchange must be over. A time-out of the socket itself bounds one step, and a
server that drips may take as many steps as it likes.
"""

import functools
import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Buffer, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, cast
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0  # what connecting may take when nobody waits for it any more

# What an exchange can fail with: the network or the deadline, and an answer that is no HTTP.
FAULTS = (OSError, http.client.HTTPException)


class Answer(NamedTuple):
    """One answer: its status, and as much of its content as was asked for. whole: there is no more of it."""

    status: int
    content: bytes
    whole: bool


class _Bounded:
    """A connected socket, as far as http.client uses one, whose exchange ends at a deadline."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.deadline = 0.0  # of the present exchange
        self.fileno = connected.fileno
        self.close = connected.close

    def sendall(self, data: Buffer) -> None:
        self._socket.settimeout(left(self.deadline))
        self._socket.sendall(data)

    def receive(self, content: socket.SocketIO, buffer: Buffer) -> int | None:
        self._socket.settimeout(left(self.deadline))
        return content.readinto(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        # The socket stays open for what it made, even after close(): so http.client reads the last answer of a connection.
        return io.BufferedReader(_Content(self, self._socket.makefile("rb", buffering=0)))


class _Content(io.RawIOBase):
    """One answer's bytes: http.client closes it and keeps the connection."""

    def __init__(self, connection: _Bounded, content: socket.SocketIO) -> None:
        self._connection = connection
        self._content = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        return self._connection.receive(self._content, buffer)

    def close(self) -> None:
        self._content.close()
        super().close()


class Server:
    """One server and how to connect to it. A connection is made in a thread, since nothing bounds the time that a name takes
    to be looked up; one that comes too late is kept for the next who asks.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if parts.scheme == "https":
            # The trusted certificates take tens of milliseconds to load, so not while a request waits.
            kind = functools.partial(http.client.HTTPSConnection, context=ssl.create_default_context())
        self._new = functools.partial(kind, parts.netloc, timeout=CONNECT_SECONDS)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._coming: Future[http.client.HTTPConnection] | None = None

    def connect(self, deadline: float) -> http.client.HTTPConnection:
        """A new connection. Raises one of FAULTS, TimeoutError among them."""
        if self._coming is not None and self._coming.done() and not _is_good(self._coming):
            self._coming = None
        if self._coming is None:
            self._coming = self._thread.submit(self._connect)
        connection = self._coming.result(timeout=left(deadline))
        self._coming = None
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._new()
        connection.connect()
        connection.sock = cast(socket.socket, _Bounded(connection.sock))
        return connection


def _is_good(late: Future[http.client.HTTPConnection]) -> bool:
    """Whether a connection that came too late for somebody was made, and its other side has not given up since."""
    if late.exception():
        return False
    connection = late.result()
    if not select.select([connection.sock], [], [], 0)[0]:  # nothing is owed to us, so whatever can be read is the end
        return True
    connection.close()
    return False


def exchange(
    connection: http.client.HTTPConnection,
    deadline: float,
    most: int,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> Answer:
    """One request and its answer, of which `most` bytes are read, until `deadline` (monotonic). Raises one of FAULTS."""
    cast(_Bounded, connection.sock).deadline = deadline
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    content = answer.read(most)
    return Answer(answer.status, content, answer.isclosed())


def left(deadline: float) -> float:
    """The seconds until the deadline (monotonic). Raises TimeoutError when there are none."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
