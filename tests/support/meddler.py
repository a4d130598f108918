"""A provider in the middle: it stands between the functions and the local provider, and meddles on demand.

It is also strict where the local one is not: a code is exchanged only for the verifier of the S256 challenge that it was asked
for with (RFC 7636; RFC 9700, 2.1.1).
"""

import base64
import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from local.provider import Provider
from tests.support.browser import queried
from tests.support.contract import CheckedApi
from tests.support.platform import (
    Database,
    Platform,
    Services,
    descendants,
    empty_redis,
    start_platform,
    stop_platform,
    wait_for_endpoints,
)

DISCOVERY, KEYS, TOKENS = "/.well-known/openid-configuration", "/jwks", "/oauth2/token"
HANGS_SECONDS = 20.0  # at most, and no longer than the test

type Json = dict[str, Any]


class Reply(NamedTuple):
    """One answer of a provider."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


def says(content: object, status: int = 200) -> Callable[[Reply], Reply]:
    """A change of an answer: this instead."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda _: Reply(status, raw)


def but(**members: object) -> Callable[[Reply], Reply]:
    """A change of a JSON answer: these members are others; None takes one away."""

    def changed(reply: Reply) -> Reply:
        found = json.loads(reply.content) | members
        kept = {name: value for name, value in found.items() if value is not None}
        return reply._replace(content=json.dumps(kept).encode())

    return changed


class Key:
    """A signing key with a name."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.private = rsa.generate_private_key(65537, 2048)

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, padding.PKCS1v15(), SHA256())

    def public(self) -> Json:
        numbers = self.private.public_key().public_numbers()
        members = {name: encoded(number.to_bytes(-(-number.bit_length() // 8))) for name, number in vars_of(numbers)}
        return {"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256"} | members


def vars_of(numbers: rsa.RSAPublicNumbers) -> list[tuple[str, int]]:
    return [("n", numbers.n), ("e", numbers.e)]


class Meddler:
    """The proxy and the provider behind it.

    asked: how often each path was asked for. changes: by path, what becomes of its answers. faults: by path, what happens in
    place of an answer. forge: makes an ID token from the claims of the real one.
    """

    def __init__(self, folder: Path) -> None:
        self._provider = Provider(0, folder)
        self.keys = [Key("meddler")]
        self._challenges: dict[str, tuple[str, str]] = {}
        self.strict = True
        self.asked: Counter[str] = Counter()
        self.refused = 0  # exchanges, for their verifier
        self._port = 0
        self.behave()
        self.open()

    def behave(self) -> None:
        """Let everything through from now on."""
        self.changes: dict[str, Callable[[Reply], Reply]] = {}
        self.faults: dict[str, Callable[[socket.socket], object]] = {}
        self.forge: Callable[[Json], str] | None = None
        self.more_keys: list[Json] = []
        self.strict = True
        self.end = threading.Event()  # of what hangs

    def open(self) -> None:
        """Listen, always on the same port."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), lambda *given: _Handler(self, *given))
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        self.end.set()
        self.close()
        self._provider.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def wait_until_ready(self) -> None:
        self._provider.wait_until_ready()

    # What can become of an answer

    def hang(self, _: socket.socket) -> None:
        """Nothing, for ever."""
        self.end.wait(HANGS_SECONDS)

    def drip(self, connection: socket.socket) -> None:
        """One byte of the content at a time."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        self._drip(connection)

    def drip_head(self, connection: socket.socket) -> None:
        """One byte of the first header at a time."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        self._drip(connection)

    def _drip(self, connection: socket.socket) -> None:
        for _ in range(200):
            if self.end.wait(HANGS_SECONDS / 200):
                return
            connection.sendall(b" ")

    def relay(self, handler: "_Handler", body: bytes) -> Reply:
        """What the provider says, changed as far as that is wanted."""
        parts = urlsplit(handler.path)
        if parts.path == TOKENS and self.strict and not self._is_proved(body):
            self.refused += 1
            return Reply(400, b'{"error": "invalid_grant"}')
        reply = self._ask(handler, body)
        if parts.path == "/oauth2/authorize" and reply.status == 302:
            asked = queried(handler.path)
            code = queried(dict(reply.headers)["Location"]).get("code", "")
            self._challenges[code] = asked.get("code_challenge_method", ""), asked.get("code_challenge", "")
        if parts.path == KEYS:
            found = json.loads(reply.content)["keys"] + [key.public() for key in self.keys] + self.more_keys
            reply = says({"keys": found})(reply)
        if parts.path == TOKENS and reply.status == 200 and self.forge:
            reply = but(id_token=self.forge(claims_of(json.loads(reply.content)["id_token"])))(reply)
        change = self.changes.get(parts.path)
        return change(reply) if change else reply

    def _is_proved(self, body: bytes) -> bool:
        sent = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        digest = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        return self._challenges.get(sent.get("code", "")) == ("S256", encoded(digest))

    def _ask(self, handler: "_Handler", body: bytes) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self._provider.url).netloc, timeout=10)
        sent = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
        connection.request(handler.command, handler.path, body or None, sent)
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name in ("Location", "Content-Type")]
        with closing(connection):
            return Reply(answer.status, answer.read(), tuple(kept))


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    def __init__(self, meddler: Meddler, *given: Any) -> None:
        self._meddler = meddler
        super().__init__(*given)

    def _do(self) -> None:
        path = urlsplit(self.path).path
        self._meddler.asked[path] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        with suppress(ConnectionError):
            if path in self._meddler.faults:
                self._meddler.faults[path](self.connection)
                return
            reply = self._meddler.relay(self, body)
            self.send_response_only(reply.status)
            for name, value in (*reply.headers, ("Content-Length", str(len(reply.content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.content)

    do_GET = do_POST = do_PUT = _do  # noqa: N815 - http.server's names


def drop(_: socket.socket) -> None:
    """A fault: the connection ends without an answer."""


def raw(data: bytes) -> Callable[[socket.socket], None]:
    """A fault: these bytes, whatever they are."""
    return lambda connection: connection.sendall(data)


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token: str) -> Json:
    found: Json = json.loads(decoded(token.split(".")[1]))
    return found


def compact(header: object, payload: object, sign: Callable[[bytes], bytes]) -> str:
    """A token of any header and payload (bytes as they are), signed anyhow."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    data = ".".join(encoded(part) for part in parts)
    return f"{data}.{encoded(sign(data.encode()))}"


CLIENT, SECRET = "okane-tests", "secret-of-the-tests"


@dataclass(frozen=True)
class Scene:
    """A platform that signs in by a meddler."""

    platform: Platform
    meddler: Meddler
    api: CheckedApi

    def person(self, **claims: object) -> str:
        """The sub of somebody new whom the provider knows and we do not."""
        sub = f"sub-{secrets.token_hex(8)}"
        known = {"email": f"{sub}@example.com", "email_verified": True, "name": "Mina Rao"} | claims
        put = httpx.put(
            f"{self.meddler.url}/users/{sub}", json={k: v for k, v in known.items() if v is not None}, verify=False
        )
        assert put.status_code == 204, put.text
        return sub

    @contextmanager
    def gains(self, people: int = 0, identities: int = 0, sessions: int = 0) -> Iterator[None]:
        """So many more there must be afterwards, and none besides."""
        before = self._counted()
        yield
        after = self._counted()
        assert tuple(now - then for now, then in zip(after, before, strict=True)) == (people, identities, sessions)

    def _counted(self) -> tuple[int, ...]:
        question = "SELECT " + ", ".join(f"(SELECT count(*) FROM okane.{table})" for table in TABLES)
        with psycopg.connect(self.api.endpoints.database_url) as connection:
            [counted] = connection.execute(question.encode()).fetchall()
        return tuple(counted)

    def forget(self) -> None:
        """End the functions' processes: the next ones know nothing of the provider."""
        for pid in descendants(self.platform.pid):
            with suppress(OSError):
                if b"/functions/auth" in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline
            if httpx.get(f"{self.api.endpoints.api}/v1/health").status_code == 200:
                return
            time.sleep(0.05)


TABLES = ("people", "identities", "sessions")


@contextmanager
def scene(services: Services, database: Database, folder: Path) -> Iterator[Scene]:
    """Start both."""
    meddler = Meddler(folder)
    try:
        meddler.wait_until_ready()
        empty_redis(services.redis_url)
        process = start_platform(
            services.state,
            "--no-people",
            "--no-schedule",
            DATABASE_URL=database.url,
            REDIS_URL=services.redis_url,
            OPENID_ISSUER=meddler.url,
            OPENID_CLIENT_ID=CLIENT,
            OPENID_CLIENT_SECRET=SECRET,
        )
        try:
            endpoints = wait_for_endpoints(services.state, process)
            api = CheckedApi(endpoints)
            yield Scene(Platform(endpoints, process.pid, services.state), meddler, api)
            api.close()
        finally:
            stop_platform(process)
    finally:
        meddler.stop()
