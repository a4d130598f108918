"""The small HTTP/1.1 server under every local server: strict in what it accepts, quick in what it answers.

    async def hello(request: Request) -> Response:
        return Response.json(200, {"path": request.path})

    server = await serve(hello, "127.0.0.1", 0, max_body=65536)
    url(server)                       # http://127.0.0.1:<the free port it took>
    await stop(server)

A handler runs to its end even if its client hangs up (its answer is dropped): to cancel half-way through a
conversation with a child process or a database does more harm. One that raises is logged and answered 500.
What cannot be read in exactly one way is refused and the connection closed, so that nobody smuggles a second
request inside the first: bare LF, folded headers, two Content-Lengths, or one beside Transfer-Encoding.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Self, cast

from local.http_head import NAME, Head, RefusedError, parse_head

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its headers
BODY_SECONDS = 30.0  # from there to the end of its body; also for a client that does not read its answer
IDLE_SECONDS = 75.0  # between two requests of one connection
LINGER_SECONDS = 2.0  # how long a refused client may go on sending before the connection is cut
READ_AHEAD_BYTES = 64 * 1024  # what a client may send while its request is being answered

_BAD_TEXT = re.compile(r"[\x00\r\n]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\x20-\x7e\t]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_NO_BODY = frozenset({204, 304})
_OURS = frozenset({"connection", "content-length", "date", "keep-alive", "transfer-encoding"})

# API Gateway's own sentences, so that a limit met here reads as it does there.
_MESSAGES = {413: "Request Entity Too Large", 431: "Request header fields too large"}
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was received; header names are lower-cased, their order and repetitions kept."""

    method: str
    target: str  # path, and "?" and query if there was one, percent-encoded as received
    headers: list[tuple[str, str]]
    body: bytes
    client: str  # IP address of the peer
    protocol: str = "HTTP/1.1"

    @property
    def path(self) -> str:
        """The path, percent-encoded as received."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its question mark, as received; empty if there is none."""
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The first value of a header (name in lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; Content-Length, Date and Connection are added when it is sent."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def json(cls, status: int, value: object) -> Self:
        """An answer whose body is the value as JSON."""
        text = json.dumps(value, separators=(",", ":"))
        return cls(status, text.encode(), [("Content-Type", "application/json")])

    @classmethod
    def html(cls, status: int, text: str) -> Self:
        """An answer whose body is a page."""
        return cls(status, text.encode(), [("Content-Type", "text/html; charset=utf-8")])


type Handler = Callable[[Request], Awaitable[Response]]


def refusal(status: int) -> Response:
    """The answer this server gives by itself, in API Gateway's form: {"message":"Not Found"}."""
    return Response.json(status, {"message": _MESSAGES.get(status, _REASONS[status])})


async def serve(
    handler: Handler, host: str, port: int, *, max_body: int, max_header: int = 16 * 1024
) -> asyncio.Server:
    """Listen and answer with the handler; port 0 takes a free one. Sizes in bytes. OSError if it is taken."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(handler, max_body, max_header), host, port, backlog=512)


def url(server: asyncio.Server) -> str:
    """Where the server listens, e.g. http://127.0.0.1:3000."""
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def stop(server: asyncio.Server) -> None:
    """Stop listening and cut the connections that are left."""
    server.close()
    server.abort_clients()
    await server.wait_closed()


class _Connection(asyncio.Protocol):
    """One client: its unread bytes and where in a request they stand. One is answered at a time."""

    def __init__(self, handler: Handler, max_body: int, max_header: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._max_body = max_body
        self._max_header = max_header
        self._buffer = bytearray()
        self._head: Head | None = None  # of the request that is being read or answered
        self._chunks: bytearray | None = None  # the body so far, if it is chunked
        self._trailers = False  # the last chunk has been seen
        self._answering = False
        self._closing = False  # refused or finished: whatever still comes is thrown away
        self._writable = True
        self._eof = False
        self._task: asyncio.Task[None] | None = None  # a task that nobody holds may be collected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = peer[0] if peer else ""
        self._deadline = self._loop.time() + HEAD_SECONDS
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closing = True
        self._timer.cancel()
        self._buffer.clear()

    def eof_received(self) -> bool:
        """A client may close its side and still wait for the answer."""
        self._eof = True
        if not self._answering:
            self._loop.call_soon(self._advance)
        return not self._closing

    def pause_writing(self) -> None:
        self._writable = False
        self._deadline = self._loop.time() + BODY_SECONDS

    def resume_writing(self) -> None:
        self._writable = True
        self._advance()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._buffer and self._head is None:
            self._deadline = self._loop.time() + HEAD_SECONDS
        self._buffer += data
        if not self._answering:
            self._advance()
        elif len(self._buffer) > READ_AHEAD_BYTES:
            self._transport.pause_reading()

    def _check_deadline(self) -> None:
        """One lazy timer per connection: requests only move the deadline, which costs them nothing."""
        now = self._loop.time()
        if self._answering and self._writable:
            self._deadline = now + BODY_SECONDS
        if now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        elif self._closing or not self._writable or (self._head is None and not self._buffer):
            self._transport.abort()
        else:
            self._refuse(408)

    def _advance(self) -> None:
        """Start on the next request if it is there whole and the one before is done."""
        if self._answering or self._closing or not self._writable:
            return
        try:
            head = self._head or self._read_head()
            body = self._read_body(head) if head else None
        except RefusedError as refused:
            self._refuse(refused.status)
            return
        if head is None or body is None:
            if self._eof:
                self._transport.close()
            return
        self._answering = True
        request = Request(head.method, head.target, head.headers, body, self._client, head.protocol)
        task = asyncio.Task(self._answer(request), loop=self._loop, eager_start=True)
        if task.done():
            self._ended(task)
        else:
            self._task = task
            task.add_done_callback(self._ended)

    def _read_head(self) -> Head | None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):
            del buffer[:2]  # clients of old send an empty line after a body
        end = buffer.find(b"\r\n\r\n", 0, self._max_header + 4)
        if end < 0:
            if len(buffer) > self._max_header:
                raise RefusedError(431)
            if _BARE_LF.search(buffer):
                raise RefusedError(400)
            return None
        head = parse_head(bytes(buffer[:end]), self._max_body)
        del buffer[: end + 4]
        self._head = head
        if head.length:
            self._deadline = self._loop.time() + BODY_SECONDS
            self._chunks = bytearray() if head.length < 0 else None
            if head.expects_continue and not buffer:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return head

    def _read_body(self, head: Head) -> bytes | None:
        if head.length == 0:
            return b""
        if self._chunks is not None:
            return self._read_chunks(self._chunks)
        if len(self._buffer) < head.length:
            return None
        body = bytes(self._buffer[: head.length])
        del self._buffer[: head.length]
        return body

    def _read_chunks(self, chunks: bytearray) -> bytes | None:
        """Take whole chunks off the buffer; the body when the last one and its trailers are there."""
        buffer = self._buffer
        while True:
            end = buffer.find(b"\r\n", 0, self._max_header)
            if end < 0:
                if len(buffer) >= self._max_header or _BARE_LF.search(buffer):
                    raise RefusedError(400)
                return None
            if self._trailers:
                trailer = bytes(buffer[:end])
                del buffer[: end + 2]
                if not trailer:
                    self._chunks, self._trailers = None, False
                    return bytes(chunks)
                continue
            line = _CHUNK_LINE.fullmatch(buffer, 0, end)
            if line is None:
                raise RefusedError(400)
            size = int(line[1], 16)
            if len(chunks) + size > self._max_body:
                raise RefusedError(413)
            if size == 0:
                self._trailers = True
                del buffer[: end + 2]
                continue
            start, stop_at = end + 2, end + 2 + size
            if len(buffer) < stop_at + 2:
                return None
            if buffer[stop_at : stop_at + 2] != b"\r\n":
                raise RefusedError(400)
            chunks += buffer[start:stop_at]
            del buffer[: stop_at + 2]

    async def _answer(self, request: Request) -> None:
        response = await self._handler(request)
        self._send(response)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only failures are left to deal with: a handler that worked has sent its answer."""
        self._task = None
        if task.cancelled():
            self._transport.abort()
        elif (error := task.exception()) is not None:
            log.error("a handler failed", exc_info=error)
            if self._answering:
                self._send(Response.json(500, {"message": "Internal Server Error"}))

    def _send(self, response: Response) -> None:
        head = self._head
        if head is None or self._transport.is_closing():
            return
        keep_alive = head.keep_alive and not (self._eof and not self._buffer)
        data = _encode(response, keep_alive=keep_alive, with_body=head.method != "HEAD")
        self._head = None
        self._answering = False
        self._deadline = self._loop.time() + IDLE_SECONDS
        self._transport.write(data)
        if not keep_alive:
            self._closing = True
            self._transport.close()
            return
        if self._buffer:
            self._transport.resume_reading()
            self._deadline = self._loop.time() + HEAD_SECONDS
            self._loop.call_soon(self._advance)

    def _refuse(self, status: int) -> None:
        """Answer, then let the client finish sending for a moment: a reset would take the answer from it."""
        self._closing = True
        self._buffer.clear()
        self._deadline = self._loop.time() + LINGER_SECONDS
        if self._transport.is_closing():
            return
        self._transport.write(_encode(refusal(status), keep_alive=False, with_body=True))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)


_date = (0, "")  # made once a second instead of once a request


def _http_date() -> str:
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def _encode(response: Response, *, keep_alive: bool, with_body: bool) -> bytes:
    """The bytes of an answer; ValueError if a header would break out of its line."""
    status, body = response.status, response.body
    bodiless = status in _NO_BODY
    parts = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nDate: {_http_date()}\r\n"]
    for name, value in response.headers:
        if NAME.fullmatch(name) is None or _BAD_TEXT.search(value):
            raise ValueError(f"a header of the answer is not valid: {name!r}")
        if name.lower() not in _OURS:
            parts.append(f"{name}: {value}\r\n")
    if not bodiless:
        parts.append(f"Content-Length: {len(body)}\r\n")
    parts.append("\r\n" if keep_alive else "Connection: close\r\n\r\n")
    head = "".join(parts).encode()
    return head if bodiless or not with_body else head + body
