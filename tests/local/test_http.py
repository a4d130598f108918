"""The HTTP server under all local servers, spoken to byte by byte."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from local import http
from local.http import Request, Response, serve, stop, url
from tests.local.fixtures.loop import Loop, connect, read_to_end, running_loop

MAX_BODY = 64 * 1024


@dataclass
class Server:
    """A server whose handler notes what reached it and answers by path."""

    loop: Loop
    url: str = ""
    seen: list[Request] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: Request) -> Response:
        """Echo, or what the path says."""
        self.seen.append(request)
        match request.path:
            case "/wait":
                await self.go_on.wait()
                self.finished.set()
            case "/fail":
                raise ValueError("as asked")
            case "/split":
                return Response(200, b"", [("X-Bad", "a\r\nSet-Cookie: stolen=1")])
            case "/none":
                return Response(204)
            case "/big":
                return Response(200, b"x" * 32 * 1024 * 1024)
        return Response.json(200, {"target": request.target, "body": request.body.decode("latin-1")})

    def exchange(self, data: bytes, *, shut: bool = True) -> bytes:
        """Send this, close our side, and read all answers."""
        with connect(self.url) as connection:
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


@pytest.fixture
def server(loop: Loop) -> Iterator[Server]:
    made = Server(loop)
    listening = loop.run(serve(made.handle, "127.0.0.1", 0, max_body=MAX_BODY, max_header=4096))
    made.url = url(listening)
    yield made
    loop.run(stop(listening))


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def bodies(answers: bytes) -> list[str]:
    """The targets that were answered, in order."""
    decoder, text, found, end = json.JSONDecoder(), answers.decode(), [], 0
    while (start := text.find("\r\n\r\n{", end)) >= 0:
        value, end = decoder.raw_decode(text, start + 4)
        found.append(value.get("target", value.get("message")))
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    assert bodies(server.exchange(get("/1") + get("/2?a=b") + get("/3"))) == ["/1", "/2?a=b", "/3"]


def test_one_connection_serves_many_requests_until_it_is_told_to_close(server: Server) -> None:
    with connect(server.url) as connection:
        for number in range(5):
            connection.sendall(get(f"/{number}"))
            assert bodies(connection.recv(65536)) == [f"/{number}"]
        connection.sendall(get("/last", "Connection: close"))
        answer = read_to_end(connection)
    assert b"Connection: close" in answer
    assert bodies(answer) == ["/last"]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nConnection: close\r\n\r\nhello world",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: ignored\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
def test_bodies_arrive_whole_however_they_are_cut(server: Server, request_bytes: bytes, size: int) -> None:
    with connect(server.url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request_bytes), size):
            connection.sendall(request_bytes[start : start + size])
        answer = read_to_end(connection)
    assert status(answer) == 200
    assert [request.body for request in server.seen] == [b"hello world"]


def test_headers_are_lowered_kept_in_order_and_stripped(server: Server) -> None:
    server.exchange(get("/", "X-A: 1", "Cookie: a", "x-a:\t2 ", "Cookie: b", "X-Empty:", "X-Uni: é"))
    (request,) = server.seen
    assert request.headers == [
        *[("host", "x"), ("x-a", "1"), ("cookie", "a"), ("x-a", "2")],
        *[("cookie", "b"), ("x-empty", ""), ("x-uni", "é")],
    ]
    assert request.header("x-a") == "1"
    assert request.header("absent") is None
    assert (request.method, request.client, request.protocol) == ("GET", "127.0.0.1", "HTTP/1.1")


def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    answer = server.exchange(get("/x").replace(b"GET", b"HEAD"))
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 25" in answer


def test_no_content_has_no_length(server: Server) -> None:
    answer = server.exchange(get("/none") + get("/after"))
    assert answer.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Content-Length" not in answer.partition(b"\r\n\r\n")[0]
    assert bodies(answer) == ["/after"]


def test_continue_is_sent_before_the_body(server: Server) -> None:
    with connect(server.url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert status(connection.recv(1000)) == 200


def test_http_1_0_closes_after_the_answer(server: Server) -> None:
    assert bodies(server.exchange(b"GET /old HTTP/1.0\r\n\r\n", shut=False)) == ["/old"]


def test_the_absolute_form_names_the_same_path(server: Server) -> None:
    assert bodies(server.exchange(get("http://example.com/a?b"))) == ["/a?b"]


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = {
    "two lengths": (400, POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + INNER),
    "two equal lengths": (400, POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + INNER),
    "a list of lengths": (400, POST + b"Content-Length: 0, 0\r\n\r\n" + INNER),
    "length and chunked": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER),
    "two codings": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + INNER),
    "another coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + INNER),
    "a hidden coding": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER),
    "chunked in 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER),
    "a space before the colon": (400, POST + b"Content-Length : 35\r\n\r\n" + INNER),
    "a folded header": (400, POST + b"X-A: 1\r\n Content-Length: 35\r\n\r\n" + INNER),
    "a bare LF in a header": (400, POST + b"X-A: 1\nContent-Length: 35\r\n\r\n" + INNER),
    "bare LFs only": (400, b"GET / HTTP/1.1\nHost: x\n\n" + INNER),
    "a bare CR": (400, POST + b"X-A: 1\rContent-Length: 35\r\n\r\n" + INNER),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\n" + INNER),
    "a signed length": (400, POST + b"Content-Length: +5\r\n\r\n" + INNER),
    "a length in other digits": (400, POST + "Content-Length: ٣\r\n\r\n".encode() + INNER),
    "an endless length": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "a chunk size in words": (400, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + INNER),
    "a signed chunk size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + INNER),
    "a chunk longer than its size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"),
    "a chunk without its end": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n"),
    "a chunk line with a bare LF": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n0\n\n" + INNER),
    "NUL in the path": (400, b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "NUL in a header": (400, POST + b"X-A: \0\r\n\r\n"),
    "a space in the path": (400, b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    "bytes above ASCII in the path": (400, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a path without a slash": (400, b"GET path HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT": (400, b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a broken absolute form": (400, b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "a header without a name": (400, POST + b": 1\r\n\r\n"),
    "a header without a colon": (400, POST + b"nothing\r\n\r\n"),
    "another protocol": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "too many headers": (431, POST + b"X-A: 1\r\n" * 1000 + b"\r\n"),
    "an endless header": (431, POST + b"X-A: " + b"a" * 5000),
    "an endless path": (431, b"GET /" + b"a" * 5000),
    "too large a body": (413, POST + b"Content-Length: 65537\r\n\r\n"),
    "too large a chunk": (413, POST + b"Transfer-Encoding: chunked\r\n\r\n10001\r\n"),
    "too many chunks": (
        413,
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_too_much_is_refused_and_nothing_smuggled(server: Server, name: str) -> None:
    expected, data = REFUSED[name]
    answer = server.exchange(data, shut=False)
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer
    assert server.seen == []


def test_a_client_that_sends_far_too_much_still_gets_its_answer(server: Server) -> None:
    with connect(server.url) as connection:
        connection.sendall(POST + b"Content-Length: 3000000\r\n\r\n")
        connection.sendall(b"x" * 3_000_000)
        assert status(read_to_end(connection)) == 413


def test_a_head_that_does_not_end_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    assert status(server.exchange(b"GET / HTTP/1.1\r\nHost:", shut=False)) == 408


def test_a_body_that_does_not_end_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http, "BODY_SECONDS", 0.2)
    assert status(server.exchange(POST + b"Content-Length: 5\r\n\r\nhell", shut=False)) == 408
    assert server.seen == []


def test_a_connection_without_a_request_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    assert server.exchange(b"", shut=False) == b""


def test_an_idle_connection_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.2)
    assert bodies(server.exchange(get("/once"), shut=False)) == ["/once"]


def test_a_client_that_does_not_read_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http, "BODY_SECONDS", 0.2)
    with connect(server.url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(get("/big"))
        for _ in range(200):  # the peer has gone as soon as a write fails
            try:
                connection.sendall(b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                break
            server.loop.run(asyncio.sleep(0.05))
        else:
            pytest.fail("the connection is still open")


def test_the_answer_waits_for_the_handler_not_for_a_deadline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.1)
    with connect(server.url) as connection:
        connection.sendall(get("/wait"))
        server.loop.run(asyncio.sleep(0.3))
        server.loop.loop.call_soon_threadsafe(server.go_on.set)
        assert bodies(connection.recv(65536)) == ["/wait"]


def test_a_handler_finishes_although_its_client_has_gone(server: Server) -> None:
    with connect(server.url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
        connection.sendall(get("/wait") + get("/next"))
        while not server.seen:
            server.loop.run(asyncio.sleep(0.01))
    server.loop.loop.call_soon_threadsafe(server.go_on.set)
    server.loop.run(asyncio.wait_for(server.finished.wait(), 10))
    assert bodies(server.exchange(get("/alive"))) == ["/alive"]


def test_requests_sent_ahead_wait_their_turn(server: Server) -> None:
    ahead = 20_000  # more than the server reads while it is busy
    data = get("/wait") + get("/ahead") * ahead + get("/end", "Connection: close")
    with connect(server.url) as connection, ThreadPoolExecutor() as pool:
        sending = pool.submit(connection.sendall, data)
        while not server.seen:
            server.loop.run(asyncio.sleep(0.01))
        server.loop.run(asyncio.sleep(0.2))
        server.loop.loop.call_soon_threadsafe(server.go_on.set)
        assert bodies(read_to_end(connection)) == ["/wait", *["/ahead"] * ahead, "/end"]
        sending.result()


@pytest.mark.parametrize("path", ["/fail", "/split"])
def test_a_handler_that_fails_is_a_500_and_the_server_goes_on(server: Server, path: str) -> None:
    answer = server.exchange(get(path) + get("/after"))
    assert status(answer) == 500
    assert b"stolen" not in answer
    assert b"as asked" not in answer
    assert bodies(answer) == ["Internal Server Error", "/after"]
