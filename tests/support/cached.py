"""A platform whose Redis is a Valkey of its own behind a counting proxy, and what the cache's tests ask of it."""

import base64
import json
import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from local.valkey import Valkey
from tests.support.api import Api, Person
from tests.support.books import Ledger
from tests.support.platform import Database, Services, start_platform, stop_platform, wait_for_endpoints
from tests.support.proxies import Between, between

PROFILE, WALLET, HISTORY = "/v1/me", "/v1/wallets/INR", "/v1/wallets/INR/transactions"
PATHS = (PROFILE, WALLET, HISTORY)
FIRST = 2**63 - 1  # below this version lies everything
PAGE = 25

PATIENCE_SECONDS = 20.0  # until something must have happened that a busy machine, or the breaker, may delay
LOOK_SECONDS = 0.05


@dataclass
class Stand:
    """A running platform, its Redis, and the database as the functions see it."""

    api: Api
    between: Between
    ledger: Ledger
    valkey: Valkey
    folder: Path
    password: str = field(repr=False)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False), repr=False)

    def redis(self, *command: object) -> Any:
        """What Redis says to a command, past the counter."""
        return json.loads(self.rest(json.dumps(command).encode()))["result"]

    def rest(self, body: bytes, path: str = "/") -> bytes:
        """What the Redis REST server answers, past the counter."""
        token = self.between.environment["UPSTASH_REDIS_REST_TOKEN"]
        headers = {"Authorization": f"Bearer {token}"}
        answer = self.http.post(self.between.redis_rest_url + path, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.content

    def restart(self) -> None:
        """A new and empty Valkey in the place of the one that has ended."""
        self.valkey.stop()
        self.valkey = Valkey.start(self.folder, password=self.password, port=self.valkey.port)

    def until(self, happens: Callable[[], bool]) -> None:
        """Ask until it has happened; fails after PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happens():
            assert time.monotonic() < deadline, "it does not happen"
            time.sleep(LOOK_SECONDS)

    def truth(self, person: Person, path: str) -> Any:
        """What the database says a read must show; of a history, its lines."""
        caller = (uuid.UUID(person.id), session(person))
        if path == PROFILE:
            return self.ledger.call("read_profile", *caller)["profile"]
        if path == WALLET:
            return self.ledger.call("read_wallet", *caller, "INR")["wallet"]
        nothing = (None, None, None, None)
        return self.ledger.call("read_history", *caller, "INR", FIRST, PAGE, *nothing)["page"]["data"]

    def read(self, person: Person, path: str) -> str:
        """Read, and compare with the truth; what OKANE-Cache says."""
        answer = self.api.call("GET", path, token=person.token)
        assert answer.status_code == 200, answer.text
        content = answer.json()
        shown, truth = content["data"] if path == HISTORY else content, self.truth(person, path)
        assert shown == truth, f"{path} ({answer.headers['OKANE-Cache']}): {shown}, not {truth}"
        return answer.headers["OKANE-Cache"]

    def reads(self, person: Person, path: str, wanted: str) -> None:
        """Read until it is a hit, or whatever is wanted, with every answer true.

        Only reads that go without the cache may come before: a busy machine may be slower than the cache's budget.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.read(person, path)) != wanted:
            assert found == "bypass", f"{path}: {found}, not {wanted}"
            assert time.monotonic() < deadline, f"{path}: no {wanted}, but bypasses for {PATIENCE_SECONDS} s"
            time.sleep(LOOK_SECONDS)

    def warm(self, person: Person, *paths: str) -> None:
        """Have the answers in the cache."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for path in paths or PATHS:
            while self.read(person, path) != "hit":
                assert time.monotonic() < deadline, f"{path} does not get warm"

    def pay(self, payer: Person, payee: Person, amount: int = 1) -> dict[str, Any]:
        """A transfer, and its publication seen in Redis."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            asked = self.between.redis.requests
            transaction = self.transfer(payer, payee, amount)
            if self.between.redis.requests > asked:
                break
            assert time.monotonic() < deadline, "the transfer function leaves Redis alone"
            time.sleep(LOOK_SECONDS)
        while not (self.redis("GET", wallet_key(payer)) or "").startswith(f"{transaction['wallet_version']}."):
            assert time.monotonic() < deadline, "the new balance does not get to Redis"
            time.sleep(LOOK_SECONDS)
        return transaction

    def transfer(self, payer: Person, payee: Person, amount: int = 1) -> dict[str, Any]:
        """A transfer that succeeds, whatever Redis does."""
        body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
        key = f"pay-{secrets.token_hex(12)}"
        answer = self.api.call("POST", "/v1/transfers", json=body, token=payer.token, key=key)
        assert answer.status_code == 201, answer.text
        transaction: dict[str, Any] = answer.json()
        return transaction


def claims(person: Person) -> dict[str, Any]:
    """What the person's access token says."""
    part = person.token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def session(person: Person) -> uuid.UUID:
    """The id of the person's session."""
    return uuid.UUID(claims(person)["sid"])


def session_key(person: Person) -> str:
    """Where Redis has the sign that the person's session lives, or has ended."""
    return f"session:{session(person)}"


def wallet_key(person: Person) -> str:
    """Where Redis has the person's balance."""
    return f"wallet:{person.id}:INR"


def key_of(person: Person, path: str) -> str:
    """Where Redis has the answer."""
    return {
        PROFILE: f"profile:{person.id}",
        WALLET: wallet_key(person),
        HISTORY: f"history:{person.id}:INR",
    }[path]


@contextmanager
def cached_platform(services: Services, database: Database, folder: Path) -> Iterator[Stand]:
    """`up` on free ports with the database of the module and a Valkey of its own."""
    options = ["--built"] if os.environ.get("OKANE_BUILT") == "1" else []
    password = secrets.token_urlsafe(24)
    valkey = Valkey.start(folder, password=password)
    stand = None
    try:
        with between(database.url, valkey.url, secrets.token_urlsafe(24)) as both, Ledger(database.app_url) as ledger:
            process = start_platform(
                services.state, "--no-people", "--no-schedule", *options, **both.environment, **services.openid
            )
            try:
                api = Api(wait_for_endpoints(services.state, process))
                stand = Stand(api, both, ledger, valkey, folder, password)
                yield stand
                api.close()
                stand.http.close()
            finally:
                stop_platform(process)
    finally:
        (stand.valkey if stand else valkey).stop()
