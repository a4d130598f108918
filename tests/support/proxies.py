"""What stands between the functions and their servers in tests: it counts what goes by, and misbehaves on demand.

A round trip to Postgres is a Sync or a Query from the client; one to Redis is an HTTP request.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from local.redis_front import serve_front

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_ROUND_TRIPS = frozenset(b"SQ")


class _Server:
    """Listens on a free port and serves each connection in a thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._listener)
        for connection in list(self._open):
            _end(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(connection)
            threading.Thread(target=self._connected, args=(connection,), daemon=True).start()

    def _connected(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError, EOFError):
                self._serve(connection)
        finally:
            self._open.discard(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class PostgresProxy(_Server):
    """Counts the round trips to a Postgres; connecting is none."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.round_trips = 0
        super().__init__()

    def through(self, url: str) -> str:
        """The same database by way of this proxy."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    def _serve(self, client: socket.socket) -> None:
        with socket.create_connection((self._parts.hostname or "", self._parts.port or 5432)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            incoming = client.makefile("rb")
            started = False
            while True:
                kind = incoming.read(1) if started else b""
                length = _exactly(incoming.read, 4)
                rest = _exactly(incoming.read, struct.unpack(">I", length)[0] - 4)
                if started:
                    self.round_trips += kind[0] in _ROUND_TRIPS
                else:  # the client asks for encryption, which the servers of the tests refuse, and then starts
                    started = struct.unpack(">I", rest[:4])[0] not in (_SSL_REQUEST, _GSS_REQUEST)
                server.sendall(kind + length + rest)


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    data = read(count)
    if len(data) < count:
        raise EOFError
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _end(sink)


class RedisProxy(_Server):
    """Counts the requests to a Redis REST server.

    `misbehave` gets the connection and the request's body in the server's place, once a request has been read; the
    connection is closed when it returns. None lets requests through.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.requests = 0
        self.misbehave: Callable[[socket.socket, bytes], None] | None = None
        super().__init__()

    @property
    def url(self) -> str:
        """The server by way of this proxy."""
        return f"http://127.0.0.1:{self.port}"

    def _serve(self, client: socket.socket) -> None:
        with socket.create_connection((self._parts.hostname or "", self._parts.port or 80)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent, answered = client.makefile("rb"), server.makefile("rb")
            while True:
                head, body = _message(sent.readline, sent.read)
                self.requests += 1
                if self.misbehave is not None:
                    self.misbehave(client, body)
                    return
                server.sendall(head + body)
                client.sendall(b"".join(_message(answered.readline, answered.read)))


def _message(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """Head and body of one HTTP message that says its length."""
    head, length = b"", 0
    while (line := readline()) != b"\r\n":
        if not line:
            raise EOFError
        head += line
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + line, _exactly(read, length)


class Loop:
    """An event loop in a thread, for the servers that live in one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine gives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass(frozen=True)
class Between:
    """Both proxies in place; what the platform is to be started with, and the Redis REST server itself."""

    postgres: PostgresProxy
    redis: RedisProxy
    environment: dict[str, str] = field(repr=False)
    redis_rest_url: str


@contextmanager
def between(database_url: str, redis_url: str, token: str) -> Iterator[Between]:
    """Count what a platform started with `.environment` asks of this database and this Redis."""
    loop = Loop()
    front = loop.run(serve_front(redis_url, token, "127.0.0.1", 0))
    try:
        with PostgresProxy(database_url) as postgres, RedisProxy(front.url) as redis:
            environment = {
                "DATABASE_URL": postgres.through(database_url),
                "UPSTASH_REDIS_REST_URL": redis.url,
                "UPSTASH_REDIS_REST_TOKEN": token,
            }
            yield Between(postgres, redis, environment, front.url)
    finally:
        loop.run(front.stop())
        loop.stop()
