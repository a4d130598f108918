"""Upstash Redis over REST: one command is one HTTP request, on one kept-alive connection, with one deadline over all of it.

Not the `upstash-redis` package: it spends 1.1 ms of CPU on a request and 130 ms on its import, bounds neither the time
nor the size of an answer, and can only be bounded from a second thread (docs/decisions.md).
"""

import functools
import json
import select
import socket
import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from okane_common.settings import Secret

CONNECT_SECONDS = 3.0  # what a connection may take that nobody waits for any more
IDLE_SECONDS = 30.0  # a connection that has rested for longer is replaced: something on its way has forgotten it
MAX_BYTES = 1024 * 1024  # of an answer; the largest that we ask for is a page of history

_RECEIVE_BYTES = 64 * 1024


class Failed(Exception):
    """Redis could not be reached, did not answer in time or refused. The text says which and holds no data."""


class Upstash:
    """One database and the connection to it, for the life of an environment."""

    def __init__(self, url: str, token: Secret) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token.reveal()}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._coming: Future[socket.socket] | None = None
        self._socket: socket.socket | None = None
        self._used_at = 0.0

    def execute(self, command: list[Any], seconds: float) -> Any:
        """The result of one command within `seconds` of wall clock, DNS and TLS included. Raises Failed."""
        if self._secure:
            _trust()  # a tenth of a second, once, that is not Redis's
        deadline = time.monotonic() + seconds
        body = json.dumps(command).encode()
        try:
            connection = self._connection(deadline)
            connection.settimeout(_left(deadline))
            connection.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            status, answer, usable = _Answer(connection, deadline).read()
            found = json.loads(answer)["result"] if status == HTTPStatus.OK else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            # all but the first: an answer that is not the protocol's
            self._drop()  # what may still come belongs to this command and must not answer the next
            raise Failed(type(error).__name__) from error
        self._used_at = time.monotonic()
        if not usable:
            self._drop()
        if status != HTTPStatus.OK:
            raise Failed(f"HTTP {status}")
        return found

    def _connection(self, deadline: float) -> socket.socket:
        """The connection that is there, or a new one. Looking up a name cannot be bounded, hence the thread."""
        if self._socket is not None:
            rested = time.monotonic() - self._used_at > IDLE_SECONDS
            # nothing is owed to us, so whatever can be read is the end
            if not rested and not select.select([self._socket], [], [], 0)[0]:
                return self._socket
            self._drop()
        coming = self._coming
        if coming is None or (coming.done() and coming.exception()):
            coming = self._coming = self._threads.submit(self._connect)
        try:
            self._socket = coming.result(timeout=_left(deadline))
        finally:
            if coming.done():
                self._coming = None  # else it is left to arrive, for a later command
        return self._socket

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), timeout=CONNECT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._secure:
            return _trust().wrap_socket(connection, server_hostname=self._host)
        return connection

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Answer:
    """What comes back, as it comes."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self._deadline = deadline
        self._buffer = bytearray()
        self._bytes = 0

    def read(self) -> tuple[int, bytes, bool]:
        """Status and body, and whether the connection can be used again. Raises OSError, ValueError, KeyError."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        protocol, status = first.split(" ")[:2]
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip().lower() for name, _, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n").partition(b";")[0], 16):
                body += self._take(size)
                self._until(b"\r\n")
            self._until(b"\r\n")  # there are no trailers, since we ask for none
        else:
            body = self._take(int(headers["content-length"]))
        usable = protocol == "HTTP/1.1" and headers.get("connection") != "close" and not self._buffer
        return int(status), body, usable

    def _more(self) -> None:
        self._socket.settimeout(_left(self._deadline))
        data = self._socket.recv(_RECEIVE_BYTES)
        self._bytes += len(data)
        if not data or self._bytes > MAX_BYTES:
            raise ValueError("an answer that ends early, or never")
        self._buffer += data

    def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            self._more()
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
