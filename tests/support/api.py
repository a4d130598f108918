"""A plain client of a running platform, for tests: calls, people, money that has come in."""

import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

import httpx

MAIL_SECONDS = 10.0  # how long a mail may take from the answer to the mailbox


@dataclass(frozen=True)
class Endpoints:
    """What endpoints.json says of the running platform."""

    api: str
    bank: str
    mailbox: str
    provider: str
    database_url: str
    redis_rest_url: str
    redis_rest_token: str
    bank_secrets: dict[str, list[str]]


@dataclass
class Person:
    """Somebody who has signed up and is signed in."""

    id: str
    name: str
    handle: str
    email: str
    password: str
    token: str  # the access token
    refresh_token: str


class Api:
    """The platform's API over one kept-alive connection pool."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._http = httpx.Client(timeout=30, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | str | None = None,
        token: str | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """One request, e.g. call("POST", "/v1/transfers", json={...}, token=asha.token, key="k-1234567")."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if key is not None:
            sent["Idempotency-Key"] = key
        if json is not None:
            return self._http.request(method, self.endpoints.api + path, json=json, headers=sent)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        return self._http.request(method, self.endpoints.api + path, content=content, headers=sent)

    def mails(self, email: str) -> list[dict[str, str]]:
        """The mails to an address, newest first."""
        answer = self._http.get(f"{self.endpoints.mailbox}/messages", params={"to": email})
        found: list[dict[str, str]] = answer.raise_for_status().json()["data"]
        return found

    def code(self, email: str, *, after: int = 0) -> str:
        """The code in the newest mail to an address, once there are more than `after` of them."""
        deadline = time.monotonic() + MAIL_SECONDS
        while len(mails := self.mails(email)) <= after:
            assert time.monotonic() < deadline, f"no mail to {email} arrived"
            time.sleep(0.02)
        [code] = re.findall(r"(?<!\d)\d{6}(?!\d)", mails[0]["text"])
        return str(code)

    def newest_code(self, email: str) -> str:
        """The code in the newest mail that has one, once there is one."""
        deadline = time.monotonic() + MAIL_SECONDS
        while True:
            for mail in self.mails(email):
                if found := re.findall(r"(?<!\d)\d{6}(?!\d)", mail["text"]):
                    return str(found[0])
            assert time.monotonic() < deadline, f"no code to {email} arrived"
            time.sleep(0.02)

    def sign_up(self, name: str = "asha") -> Person:
        """Register a new person, enter the mailed code, and read the profile."""
        email = f"{re.sub('[^a-z0-9]', '', name.lower()) or 'person'}-{secrets.token_hex(6)}@example.com"
        password = f"correct-{secrets.token_hex(8)}"
        registered = self.call("POST", "/v1/auth/register", json={"email": email, "password": password, "name": name})
        assert registered.status_code == 202, registered.text
        verified = self.call("POST", "/v1/auth/verify", json={"email": email, "code": self.code(email)})
        assert verified.status_code == 200, verified.text
        tokens = verified.json()
        me = self.call("GET", "/v1/me", token=tokens["access_token"])
        assert me.status_code == 200, me.text
        return Person(
            id=me.json()["id"],
            name=name,
            handle=me.json()["handle"],
            email=email,
            password=password,
            token=tokens["access_token"],
            refresh_token=tokens["refresh_token"],
        )

    def intend(self, person: Person, amount: int, currency: str = "INR", bank: str = "hdfc") -> dict[str, Any]:
        """Open a deposit: the transaction in Processing, with its payment_url."""
        answer = self.call(
            "POST",
            f"/v1/wallets/{currency}/deposits",
            json={"amount": amount, "bank": bank},
            token=person.token,
            key=f"deposit-{secrets.token_hex(12)}",
        )
        assert answer.status_code == 201, answer.text
        transaction: dict[str, Any] = answer.json()
        return transaction

    def pay(self, payment_url: str, action: str = "approve", **misbehaviour: Any) -> list[dict[str, Any]]:
        """Press a button on the bank's page; what the webhook said to each delivery. See local/bank.py."""
        answer = self._http.post(payment_url, json={"action": action} | misbehaviour, timeout=90)
        assert answer.status_code in (200, 202), answer.text
        deliveries: list[dict[str, Any]] = answer.json()["deliveries"]
        return deliveries

    def deposit(self, person: Person, amount: int, currency: str = "INR", bank: str = "hdfc") -> dict[str, Any]:
        """Bring money in, from the intent to the credit; the transaction as it is afterwards."""
        intent = self.intend(person, amount, currency, bank)
        [delivery] = self.pay(intent["payment_url"])
        assert (delivery["status"], delivery["answer"]) == (200, {"status": "processed"}), delivery
        answer = self.call("GET", f"/v1/transactions/{intent['id']}", token=person.token)
        assert answer.status_code == 200, answer.text
        transaction: dict[str, Any] = answer.json()
        assert transaction["status"] == "Success", transaction
        return transaction
