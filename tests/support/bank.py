"""A bank of the tests: events signed with nothing but HMAC, so that OKANE's check is held against a second reading
of Standard Webhooks 1.0."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import httpx
import psycopg

from tests.support.api import Api


def sign(secret: str, webhook_id: str, timestamp: int | str, body: bytes) -> str:
    """`v1,<base64>`: HMAC-SHA256 over id, timestamp and body with dots between them."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed(
    secret: str, body: bytes, webhook_id: str | None = None, timestamp: int | str | None = None
) -> dict[str, str]:
    """The three headers for a body; a fresh id and the present time where none is given."""
    webhook_id = webhook_id or f"msg_{secrets.token_hex(12)}"
    timestamp = int(time.time()) if timestamp is None else timestamp
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, webhook_id, timestamp, body),
    }


def event(reference: object, amount: int, kind: str = "deposit.succeeded", **data: Any) -> dict[str, Any]:
    """An event in INR under a bank reference of its own, with `data` added to its data or put in its place."""
    fresh = f"ref_{secrets.token_hex(10)}"
    told = {"reference": str(reference), "bank_reference": fresh, "amount": amount, "currency": "INR"}
    return {"type": kind, "timestamp": "2026-11-23T10:00:00.000Z", "data": told | data}


class Bank:
    """One bank that posts to a running platform."""

    def __init__(self, api: Api, name: str = "hdfc") -> None:
        self.api = api
        self.name = name
        self.secret = api.endpoints.bank_secrets[name][0]

    def post(self, body: bytes | dict[str, Any], headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Post an event, or any bytes; signed rightly unless other headers are given."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers) if headers is not None else signed(self.secret, content)
        return self.api.call("POST", f"/v1/webhooks/bank/{self.name}", content=content, headers=sent)

    def tell(self, told: dict[str, Any], webhook_id: str | None = None) -> str:
        """Post an event, signed rightly. Returns the status in the receipt; fails where there is none."""
        content = json.dumps(told).encode()
        answer = self.post(content, signed(self.secret, content, webhook_id))
        assert answer.status_code == 200, answer.text
        status: str = answer.json()["status"]
        return status


def stored(database_url: str, reference: object) -> list[tuple[str, str, str | None]]:
    """Type, status and remark of every event that was kept for a reference, oldest first; `database_url` is the owner's."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT type, status, remark FROM okane.bank_events WHERE reference = %s ORDER BY received_at",
            [str(reference)],
        ).fetchall()


def count_events(database_url: str) -> int:
    """How many events were kept in all."""
    with psycopg.connect(database_url) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM okane.bank_events").fetchall()
    found: int = count
    return found
