"""A stage for bad input: somebody with money, somebody who wants it, and every route that reads a body."""

import json
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import psycopg

from tests.support.api import Person
from tests.support.bank import event, signed
from tests.support.books import check_books
from tests.support.contract import CheckedApi
from tests.support.platform import Platform


class Target(NamedTuple):
    """A route that reads a body, and the paths of its fields with what each takes.

    {hold} and {paid} in its path: what Asha holds for Ravi, and what she has paid him. bodiless: it may go without a body.
    """

    method: str
    path: str
    body: Mapping[str, Any]
    texts: tuple[str, ...]  # fields of text that refuse control characters
    secrets: tuple[str, ...] = ()  # fields of text in which any character but NUL may be
    required: tuple[str, ...] = ()
    amount: str = ""
    bodiless: bool = False


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
    "withdrawal": Target(
        "POST", "/v1/wallets/INR/withdrawals", {"amount": 100, "bank": "hdfc", "account": "00123456789"}, ("bank", "account"), (),
        ("amount", "bank", "account"), "amount",
    ),
    "transfer": Target(
        "POST", "/v1/transfers",
        {"to": "@", "amount": 100, "currency": "INR", "note": "Lunch", "capture": "manual", "expires_in": 3600},
        ("to", "currency", "note", "capture"), (), ("to", "amount", "currency"), "amount",
    ),
    "batch": Target(
        "POST", "/v1/transfers/batch",
        {"currency": "INR", "all_or_nothing": True, "items": [{"to": "@", "amount": 100, "note": "Lunch"}]},
        ("currency", "items/0/to", "items/0/note"), (), ("currency", "items", "items/0/to", "items/0/amount"), "items/0/amount",
    ),
    "capture": Target("POST", "/v1/transfers/{hold}/capture", {"amount": 10}, (), amount="amount", bodiless=True),
    "void": Target("POST", "/v1/transfers/{hold}/void", {}, (), bodiless=True),
    "refund": Target(
        "POST", "/v1/transfers/{paid}/refunds", {"amount": 10, "note": "Sorry"}, ("note",), amount="amount", bodiless=True
    ),
    "webhook": Target(
        "POST", "/v1/webhooks/bank/hdfc", event("", 100, reason="none"),
        ("type", "timestamp", "data/reference", "data/bank_reference", "data/currency", "data/reason"), (),
        ("type", "timestamp", "data", "data/reference", "data/bank_reference", "data/amount", "data/currency"),
        "data/amount",
    ),
}  # fmt: skip

# Values of the right type that a field does not take all the same, by target and field; and some of the wrong one.
MISFITS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "open_wallet": {"currency": ("inr", "XXX", "INR\n")},
    "deposit": {"bank": ("nobank", "../hdfc")},
    "transfer": {
        "to": ("asha", "@@asha"),
        "note": ("a" * 141, "a\u202eb"),
        "capture": ("manual!",),
        "currency": ("XXX",),
        "expires_in": (59, 604_801, 0, -1, 60.0, "60", True, []),
    },
    "withdrawal": {
        "bank": ("nobank", "../hdfc"),
        "account": ("abc", "a" * 65, " abcd", "abcd-", "ab;cd", "ab\u0661cd", "ab\u202ecd", "ab\ncd"),
    },
    "batch": {
        "items": (
            [], {}, "a", None, [[]], [None], [1], [{}], [{"to": "@asha", "amount": 1}] * 101,
            [{"to": "@asha", "amount": 1, "currency": "INR"}],
        ),
        "all_or_nothing": ("true", 1, None, []),
        "items/0/to": ("asha", "@", "@@asha"),
        "items/0/note": ("a" * 141, "a\u202eb"),
        "currency": ("XXX", "inr"),
    },
    "capture": {"amount": (501,), "note": ("none is taken",)},
    "void": {"amount": (1, None)},
    "refund": {"note": ("a" * 141, "a\u202eb"), "currency": ("INR",)},
}  # fmt: skip


@dataclass
class Stage:
    """Asha has the money; Ravi asks for what he must not get."""

    api: CheckedApi
    asha: Person
    ravi: Person
    reference: str  # of a deposit that Asha's bank could still settle
    hold: str  # of hers that Ravi could capture
    paid: str  # by her, which Ravi could give back
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
        return self.api.call(target.method, self.path(target), content=content, headers=present)

    def send_raw(self, target: Target, content: bytes, media_type: str = "application/json") -> httpx.Response:
        """As send(), but with the path exactly as it stands: httpx would tidy it. media_type: "" sends none."""
        headers = {
            "Host": "okane", "Connection": "close", "Content-Length": str(len(content)),
            **({"Content-Type": media_type} if media_type else {}), **signed(self.secret, content),
            "Authorization": f"Bearer {self.ravi.token}", "Idempotency-Key": f"key-{secrets.token_hex(12)}",
        }  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        path = self.path(target)
        request = f"{target.method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content
        answer = exchange(self.api.endpoints.api, request)
        self.api.contract.check(answer, target.method, path)
        return answer

    def path(self, target: Target) -> str:
        """The path of what is there."""
        return target.path.replace("{hold}", self.hold).replace("{paid}", self.paid)

    def body(self, target: Target) -> dict[str, Any]:
        """A body that would be taken."""
        filled: dict[str, Any] = json.loads(json.dumps(target.body))
        for payment in (filled, *filled.get("items", [])):
            if "to" in payment:
                payment["to"] = f"@{self.asha.handle}"
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
                " SELECT 'batches', '', count(*), 0, 0 FROM batches UNION ALL"
                " SELECT 'events', '', count(*), 0, 0 FROM bank_events UNION ALL"
                " SELECT 'people', '', count(*), 0, 0 FROM people ORDER BY 1"
            ).fetchall()


@contextmanager
def stage_on(platform: Platform) -> Iterator[Stage]:
    """A stage on a running platform; at the end its books must add up."""
    api = CheckedApi(platform.endpoints)
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(asha, 100_000)
    api.deposit(ravi, 50_000)
    terms = {"to": f"@{ravi.handle}", "amount": 500, "currency": "INR"}
    hold, paid = (
        api.call("POST", "/v1/transfers", json=terms | {"capture": way}, token=asha.token, key=f"key-{way}").json()[
            "id"
        ]
        for way in ("manual", "automatic")
    )
    reference = api.intend(asha, 777)["id"]
    secret = platform.endpoints.bank_secrets["hdfc"][0]
    yield Stage(api, asha, ravi, reference, hold, paid, secret, platform.endpoints.database_url)
    assert check_books(platform.endpoints.database_url) == []
    api.close()


def put(body: dict[str, Any], field: str, raw: str) -> bytes:
    """The body as JSON, with a field (`data/amount`, `items/0/to`) as the text `raw`."""
    changed: dict[str, Any] = json.loads(json.dumps(body))
    inside(changed, field)[field.rpartition("/")[2]] = "@here@"
    return json.dumps(changed).replace('"@here@"', raw).encode()


def inside(body: dict[str, Any], field: str) -> dict[str, Any]:
    """The object that a field is one of."""
    found: Any = body
    for step in field.split("/")[:-1]:
        found = found[int(step) if isinstance(found, list) else step]
    inner: dict[str, Any] = found
    return inner


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
