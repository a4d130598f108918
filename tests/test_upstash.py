"""The client of Upstash's REST interface: quick with a good server, and one error within its time from every bad one."""

import datetime
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from okane_common import upstash
from okane_common.settings import Secret
from okane_common.upstash import MAX_BYTES, Failed, Upstash

SECONDS = 0.2
BOUND_SECONDS = 2.0  # for what should take SECONDS; generous, since a busy machine takes its time
PATIENT_SECONDS = 10.0  # where the answer has to come
TOKEN = "a-token-of-the-tests"

type Answer = Callable[[socket.socket], None]


class Server:
    """Answers every request on every connection with `answer`, and remembers what it got."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[tuple[bytes, bytes]] = []  # head, body
        self.connections = 0
        self.ended = threading.Semaphore(0)  # counts the connections that were closed here
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(BOUND_SECONDS)

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._converse(connection)
        finally:
            self.ended.release()

    def _converse(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError, IndexError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as incoming:
                while True:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += incoming.readline() or b"\r\n\r\n"
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    self.requests.append((head, incoming.read(length)))
                    self.answer(connection)


def sends(data: bytes) -> Answer:
    """An answer of these bytes, after which the connection stays open."""
    return lambda connection: connection.sendall(data)


def closes(data: bytes) -> Answer:
    """An answer of these bytes, and the end of the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        raise ConnectionResetError

    return answer


def drips(data: bytes, each: float = 0.02) -> Answer:
    """An answer that comes byte by byte."""

    def answer(connection: socket.socket) -> None:
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            time.sleep(each)

    return answer


def floods(head: bytes, piece: bytes) -> Answer:
    """An answer that never ends."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A well-formed answer."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A well-formed answer in chunks."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


OK = http(b'{"result":"OK"}')

GOOD = {
    "plain": (sends(OK), "OK"),
    "nothing": (sends(http(b'{"result":null}')), None),
    "a list": (sends(http(b'{"result":["a",null]}')), ["a", None]),
    "other case": (sends(OK.replace(b"Content-Length", b"CONTENT-LENGTH")), "OK"),
    "more headers": (sends(http(b'{"result":"OK"}', "200 OK", "Strange: a:b", "Upstash-Sync-Token: x")), "OK"),
    "in chunks": (sends(chunked(b'{"res', b'ult":"', b'OK"}')), "OK"),
    "chunks with extensions": (sends(chunked().replace(b"0\r\n\r\n", b'f;a=b\r\n{"result":"OK"}\r\n0\r\n\r\n')), "OK"),
    "closed after": (closes(http(b'{"result":"OK"}', "200 OK", "Connection: close")), "OK"),
    "in pieces": (drips(OK, 0.0), "OK"),
    "large": (sends(http(b'{"result":"%b"}' % (b"x" * 500_000))), "x" * 500_000),
}

BAD = {
    "an error": sends(http(b'{"error":"ERR no"}', "400 Bad Request")),
    "an error that says 200": sends(http(b'{"error":"ERR no"}')),
    "a wrong token": sends(http(b'{"error":"WRONGPASS"}', "401 Unauthorized")),
    "too many": sends(http(b"{}", "429 Too Many Requests")),
    "a failure": sends(http(b"<html>Bad Gateway</html>", "502 Bad Gateway")),
    "a redirect": sends(http(b"", "302 Found", "Location: http://127.0.0.1:9/")),
    "an interim answer": sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "no content": sends(http(b"", "204 No Content")),
    "HTML": sends(http(b"<html>Welcome</html>")),
    "nothing at all": sends(http(b"")),
    "a list": sends(http(b'["result"]')),
    "a number": sends(http(b"7")),
    "a text": sends(http(b'"result"')),
    "not UTF-8": sends(http(b'{"result":"\xff\xfe"}')),
    "very deep": sends(http(b"[" * 200_000)),
    "a number without end": sends(http(b'{"result":%b}' % (b"1" * 10_000))),
    "truncated": sends(http(b'{"result":"O')),
    "shorter than it says": closes(OK[:-5]),
    "shorter than it says, and open": sends(OK[:-5]),
    "longer than any": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
    "of negative length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "of no length, and slow": drips(b'HTTP/1.1 200 OK\r\n\r\n{"result":"' + b"x" * 1000),
    "of lengthy length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n"),
    "not HTTP": sends(b"-ERR unknown command 'POST'\r\n"),
    "not HTTP, but complete": sends(b"SSH-2.0-server\r\n\r\n"),
    "one word": sends(b"hello\r\n\r\n"),
    "zeros": sends(b"\0" * 64),
    "bad chunks": sends(chunked(end=b"zz\r\n\r\n")),
    "a negative chunk": sends(chunked(end=b"-5\r\nhello\r\n0\r\n\r\n")),
    "chunks that stop": closes(chunked(b'{"result":', end=b"")),
    "the end": closes(b""),
    "silence": sends(b""),
    "slow": drips(OK),
    "a slow head": drips(b"HTTP/1.1 200 OK\r\n" + b"X-Header: y\r\n" * 100),
    "a body without end": floods(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65536),
    "a head without end": floods(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1000),
    "chunks without end": floods(chunked(end=b""), b"1\r\nx\r\n" * 1000),
    "just too large": sends(http(b'{"result":"%b"}' % (b"x" * MAX_BYTES))),
}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(sends(OK))
    yield running
    running.stop()


def soon(redis: Upstash) -> object:
    """The answer to a command that may fail for a while after what happened before."""
    deadline = time.monotonic() + PATIENT_SECONDS
    while True:
        try:
            return redis.execute(["GET", "a"], PATIENT_SECONDS)
        except Failed:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("kind", GOOD)
def test_what_a_server_may_send(server: Server, kind: str) -> None:
    server.answer, expected = GOOD[kind]
    redis = Upstash(server.url, Secret(TOKEN))
    for _ in range(3):
        assert redis.execute(["GET", "a"], PATIENT_SECONDS) == expected
    assert server.connections == (3 if kind == "closed after" else 1)


@pytest.mark.parametrize("kind", BAD)
def test_what_no_server_should_send_is_one_error_within_the_time(server: Server, kind: str) -> None:
    redis = Upstash(server.url, Secret(TOKEN))
    assert redis.execute(["GET", "a"], PATIENT_SECONDS) == "OK"
    server.answer = BAD[kind]
    started = time.monotonic()
    with pytest.raises(Failed) as failed:
        redis.execute(["GET", "a"], SECONDS)
    assert time.monotonic() - started < BOUND_SECONDS
    assert TOKEN not in str(failed.value)
    server.answer = sends(http(b'{"result":"the next"}'))  # for which nothing is taken that came late
    assert soon(redis) == "the next"
    assert time.monotonic() - started < 2 * BOUND_SECONDS


def test_the_request_is_what_upstash_documents(server: Server) -> None:
    redis = Upstash(server.url, Secret(TOKEN))
    redis.execute(["EVAL", "return 1", 1, "key", "bär \ud800 €"], PATIENT_SECONDS)
    [(head, body)] = server.requests
    first, *lines = head.decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert first == "POST / HTTP/1.1"
    assert headers["host"] == server.url.removeprefix("http://")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == ["EVAL", "return 1", 1, "key", "bär \ud800 €"]


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Failed, match="ConnectionRefusedError"):
        Upstash(f"http://127.0.0.1:{port}", Secret(TOKEN)).execute(["PING"], SECONDS)


def test_a_name_that_takes_long_to_look_up_costs_no_more_than_the_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the connection that comes at last is kept for the next command."""
    looked_up = threading.Event()
    connect = socket.create_connection

    def slowly(*arguments: Any, **options: Any) -> socket.socket:
        assert looked_up.wait(PATIENT_SECONDS)
        return connect(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", slowly)
    redis = Upstash(server.url, Secret(TOKEN))
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(Failed):
            redis.execute(["PING"], SECONDS)
        assert time.monotonic() - started < BOUND_SECONDS
    looked_up.set()
    assert soon(redis) == "OK"
    assert server.connections == 1


def test_a_connection_that_has_ended_meanwhile_is_replaced(server: Server) -> None:
    redis = Upstash(server.url, Secret(TOKEN))
    server.answer = closes(OK)  # without saying so
    for _ in range(3):
        assert redis.execute(["PING"], PATIENT_SECONDS) == "OK"
        assert server.ended.acquire(timeout=PATIENT_SECONDS)
    assert server.connections == 3


def test_a_connection_that_has_rested_is_replaced(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    redis = Upstash(server.url, Secret(TOKEN))
    redis.execute(["PING"], PATIENT_SECONDS)
    monkeypatch.setattr(upstash, "IDLE_SECONDS", -1.0)
    redis.execute(["PING"], PATIENT_SECONDS)
    assert server.connections == 2


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstash of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "upstash.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return file


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = Server(sends(OK), context)
    try:
        with pytest.raises(Failed, match="SSLCertVerificationError"):
            Upstash(server.url, Secret(TOKEN)).execute(["PING"], PATIENT_SECONDS)
        assert not server.requests, "the token went to a stranger"
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        redis = Upstash(server.url, Secret(TOKEN))
        for _ in range(3):
            assert redis.execute(["PING"], PATIENT_SECONDS) == "OK"
        assert server.connections == 2
    finally:
        server.stop()
