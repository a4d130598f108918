"""One connection to a Redis-compatible server, shared by everyone who asks: asyncio and RESP2, nothing else.

    redis = Redis("redis://:secret@127.0.0.1:6379/0")
    replies = await redis.ask(encoded([b"GET", b"foo"]), 1)
    redis.close()

What is asked in one call goes out in one piece, so nothing comes between MULTI and EXEC. The connection is made
when it is needed, and made anew after it was lost. Nothing is ever sent twice: whoever was waiting when it was
lost gets RedisGoneErrorError.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote, urlsplit

CONNECT_SECONDS = 1.0  # to reach Redis and be let in
ANSWER_SECONDS = 1.0  # without a byte from Redis while something is waiting; noticed within twice that

type Command = list[bytes]
type Reply = int | str | bytes | Failure | list[Reply] | None  # str is a status such as OK, bytes a value


@dataclass(frozen=True, slots=True)
class Failure:
    """An error reply to one command."""

    message: str


class RedisGoneError(Exception):
    """Redis cannot be reached or did not answer; whether a command was executed is not known."""


def encoded(command: Command) -> bytes:
    """A command in Redis' protocol."""
    parts = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in command])
    return b"*%d\r\n%b" % (len(command), parts)


class Redis:
    """The one connection to Redis, made when it is needed."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port or 6379
        except ValueError:
            parts = urlsplit("")  # its message may quote a piece of the password
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
            raise ValueError("REDIS_URL must be redis://[user:password@]host[:port][/database]")
        self._ssl = ssl.create_default_context() if parts.scheme == "rediss" else None
        self._greeting: list[Command] = []
        if parts.password:
            user = [unquote(parts.username).encode()] if parts.username else []
            self._greeting.append([b"AUTH", *user, unquote(parts.password).encode()])
        if database := parts.path.strip("/"):
            self._greeting.append([b"SELECT", database.encode()])
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    async def ask(self, commands: bytes, count: int) -> list[Reply]:
        """Send commands in one piece; their replies in order. RedisGoneError."""
        link = self._link
        if link is None or link.lost:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(self._connected)
            link = await asyncio.shield(self._connecting)
        return await link.ask(commands, count)

    def close(self) -> None:
        """Drop the connection; whoever waits for an answer gets RedisGoneError."""
        if self._connecting:
            self._connecting.cancel()
        if self._link:
            self._link.drop("the front is closing")

    def _connected(self, task: asyncio.Task["_Link"]) -> None:
        self._connecting = None
        if not task.cancelled() and not task.exception():
            self._link = task.result()

    async def _connect(self) -> "_Link":
        loop = asyncio.get_running_loop()
        link = _Link(loop)
        usable = False
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: link, self._host, self._port, ssl=self._ssl)
                for command in self._greeting:
                    (reply,) = await link.ask(encoded(command), 1)
                    if isinstance(reply, Failure):
                        raise RedisGoneError(f"Redis refuses us: {reply.message}")
            usable = True
        except OSError as error:  # a TimeoutError is one, too
            why = error.strerror or str(error) or "it does not answer"
            raise RedisGoneError(f"Redis cannot be reached: {why}") from error
        finally:
            if not usable:
                link.drop("Redis cannot be reached")
        return link


class _Link(asyncio.Protocol):
    """One connection: requests go out as they come, replies come back in the same order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self._loop = loop
        self._replies = _Replies()
        self._waiting: deque[tuple[asyncio.Future[list[Reply]], int, list[Reply]]] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = False  # since the timer was set

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Send commands, in one piece; the future gets as many replies, or RedisGoneError."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.lost or self._transport is None:
            future.set_exception(RedisGoneError("Redis has closed the connection"))
            return future
        self._waiting.append((future, count, []))
        self._transport.write(commands)
        if self._timer is None:
            self._heard = False
            self._timer = self._loop.call_later(ANSWER_SECONDS, self._check)
        return future

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard = True
        try:
            replies = self._replies.feed(data)
        except ValueError:
            self.drop("what answers is not Redis")
            return
        for reply in replies:
            if not self._waiting:
                self.drop("Redis answered what nobody asked")
                return
            future, count, got = self._waiting[0]
            got.append(reply)
            if len(got) == count:
                self._waiting.popleft()
                if not future.done():
                    future.set_result(got)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio passes it)
        """Called by asyncio."""
        self.drop("Redis has closed the connection")

    def drop(self, reason: str) -> None:
        """Close, and tell everyone who waits. What comes later could be taken for another's answer."""
        self.lost = True
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(RedisGoneError(reason))

    def _check(self) -> None:
        """One timer for whatever is waiting, so that a request costs none."""
        self._timer = None
        if self._waiting and not self._heard:
            self.drop("Redis does not answer")
        elif self._waiting:
            self._heard = False
            self._timer = self._loop.call_later(ANSWER_SECONDS, self._check)


class _Replies:
    """Reads Redis' protocol, version 2, from pieces that end anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._open: list[tuple[list[Reply], int]] = []  # arrays that are not complete, the innermost last

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that this piece completes. ValueError if it is not the protocol."""
        buffer = self._buffer
        buffer += data
        start = 0
        complete: list[Reply] = []
        while (end := buffer.find(b"\r\n", start)) >= 0:
            kind, line = buffer[start], bytes(buffer[start + 1 : end])
            after = end + 2
            reply: Reply
            if kind == 0x24:  # $ a value
                size = int(line)
                if size >= 0:
                    if len(buffer) < after + size + 2:
                        break
                    reply = bytes(buffer[after : after + size])
                    after += size + 2
                else:
                    reply = None
            elif kind == 0x2A:  # * an array
                size = int(line)
                if size > 0:
                    self._open.append(([], size))
                    start = after
                    continue
                reply = [] if size == 0 else None
            elif kind == 0x3A:  # :
                reply = int(line)
            elif kind == 0x2B:  # +
                reply = line.decode()
            elif kind == 0x2D:  # -
                reply = Failure(line.decode(errors="replace"))
            else:
                raise ValueError("not a reply")
            start = after
            while self._open:
                items, size = self._open[-1]
                items.append(reply)
                if len(items) < size:
                    break
                reply = items
                self._open.pop()
            else:
                complete.append(reply)
        del buffer[:start]
        return complete
