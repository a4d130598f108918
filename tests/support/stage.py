"""A stage for bad input: somebody with money, somebody who wants it, and every route that reads a body."""

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import psycopg

from tests.support.api import Person
from tests.support.bank import event, signed
from tests.support.contract import CheckedApi


class Target(NamedTuple):
    """A route that reads a body, and the paths of its fields with what each takes."""

    method: str
    path: str
    body: Mapping[str, Any]
    texts: tuple[str, ...]  # fields of text that refuse control characters
    secrets: tuple[str, ...] = ()  # fields of text in which any character but NUL may be
    required: tuple[str, ...] = ()
    amount: str = ""


WHO = {"email": "nobody@example.com", "password": "a long enough one"}
TARGETS = {
    "register": Target(
        "POST", "/v1/auth/register", WHO | {"name": "Asha"}, ("email", "name"), ("password",), ("email", "password", "name")
    ),
    "verify": Target(
        "POST", "/v1/auth/verify", {"email": WHO["email"], "code": "123456"}, ("email", "code"), (), ("email", "code")
    ),
    "login": Target("POST", "/v1/auth/login", WHO, ("email",), ("password",), ("email", "password")),
    "refresh": Target(
        "POST", "/v1/auth/refresh", {"refresh_token": "0" * 64}, (), ("refresh_token",), ("refresh_token",)
    ),
    "change_me": Target("PATCH", "/v1/me", {"name": "Asha", "handle": "asha_kumar"}, ("handle", "name")),
    "open_wallet": Target("POST", "/v1/wallets", {"currency": "USD"}, ("currency",), (), ("currency",)),
    "deposit": Target(
        "POST", "/v1/wallets/INR/deposits", {"amount": 100, "bank": "hdfc"}, ("bank",), (), ("amount", "bank"), "amount"
    ),
    "transfer": Target(
        "POST", "/v1/transfers", {"to": "@", "amount": 100, "currency": "INR", "note": "Lunch", "capture": "automatic"},
        ("to", "currency", "note", "capture"), (), ("to", "amount", "currency"), "amount",
    ),
    "webhook": Target(
        "POST", "/v1/webhooks/bank/hdfc", event("", 100, reason="none"),
        ("type", "timestamp", "data/reference", "data/bank_reference", "data/currency", "data/reason"), (),
        ("type", "timestamp", "data", "data/reference", "data/bank_reference", "data/amount", "data/currency"),
        "data/amount",
    ),
}  # fmt: skip


@dataclass
class Stage:
    """Asha has the money; Ravi asks for what he must not get."""

    api: CheckedApi
    asha: Person
    ravi: Person
    reference: str  # of a deposit that Asha's bank could still settle
    secret: str
    database_url: str

    def send(self, target: Target, content: bytes, **headers: str | None) -> httpx.Response:
        """As Ravi, with a good token, a fresh key and a right signature, but for the headers given; None leaves one out."""
        sent = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.ravi.token}",
            "Idempotency-Key": f"key-{secrets.token_hex(12)}",
            **signed(self.secret, content),
            **headers,
        }
        # As bytes, since httpx takes only ASCII otherwise.
        present: Any = {name: value.encode() for name, value in sent.items() if value is not None}
        return self.api.call(target.method, target.path, content=content, headers=present)

    def send_raw(self, target: Target, content: bytes, media_type: str = "application/json") -> httpx.Response:
        """As send(), but with the path exactly as it stands: httpx would tidy it. media_type: "" sends none."""
        headers = {
            "Host": "okane", "Connection": "close", "Content-Length": str(len(content)),
            **({"Content-Type": media_type} if media_type else {}), **signed(self.secret, content),
            "Authorization": f"Bearer {self.ravi.token}", "Idempotency-Key": f"key-{secrets.token_hex(12)}",
        }  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"{target.method} {target.path} HTTP/1.1\r\n{head}\r\n".encode() + content
        answer = exchange(self.api.endpoints.api, request)
        self.api.contract.check(answer, target.method, target.path)
        return answer

    def body(self, target: Target) -> dict[str, Any]:
        """A body that would be taken."""
        filled: dict[str, Any] = json.loads(json.dumps(target.body))
        if filled.get("to"):
            filled["to"] = f"@{self.asha.handle}"
        if "data" in filled:
            filled["data"]["reference"] = self.reference
        return filled

    def money(self) -> list[tuple[Any, ...]]:
        """All there is of it, as the books say, and everything that was ever recorded."""
        with psycopg.connect(self.database_url) as connection:
            connection.execute("SET search_path = okane")
            return connection.execute(
                "SELECT id::text, currency, available, locked, version FROM wallets UNION ALL"
                " SELECT 'transfers', '', count(*), 0, 0 FROM transfers UNION ALL"
                " SELECT 'events', '', count(*), 0, 0 FROM bank_events UNION ALL"
                " SELECT 'people', '', count(*), 0, 0 FROM people ORDER BY 1"
            ).fetchall()


def put(body: dict[str, Any], field: str, raw: str) -> bytes:
    """The body as JSON, with a field (`data/amount`) as the text `raw`."""
    *outer, last = field.split("/")
    changed: dict[str, Any] = json.loads(json.dumps(body))
    inner = changed
    for step in outer:
        inner = inner[step]
    inner[last] = "@here@"
    return json.dumps(changed).replace('"@here@"', raw).encode()


class Faults:
    """Collects what went otherwise than it must, so that one run shows all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def expect(self, what: str, answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> None:
        problem = answer.json()
        pointers = [fault["pointer"] for fault in problem.get("errors", [])]
        if (answer.status_code, problem.get("code")) != (status, code) or (
            pointer is not None and not any(one == pointer or one.startswith(f"{pointer}/") for one in pointers)
        ):
            self.found.append(f"{what}: {answer.status_code} {answer.text[:900]}, not {status} {code} {pointer or ''}")

    def none(self) -> None:
        assert not self.found, "\n".join(self.found)


def exchange(api: str, request: bytes) -> httpx.Response:
    """Bytes to the gateway and what it answers, up to the end of the connection."""
    parts = urlsplit(api)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=15) as connection:
        connection.sendall(request)
        answered = b""
        while more := connection.recv(65536):
            answered += more
    head, _, body = answered.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)
