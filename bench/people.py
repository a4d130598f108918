"""The people of the benchmarks: signed up, in and funded through the API itself."""

import datetime
import http.client
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from standardwebhooks import Webhook

from bench.stand import BANK, Stand

SECONDS = 30.0


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    handle: str
    token: str = field(repr=False)


def sign_up(stand: Stand) -> Person:
    """A new person. RuntimeError if the platform does not play along."""
    who = {"email": f"bench-{secrets.token_hex(6)}@example.com", "password": f"correct-{secrets.token_hex(8)}"}
    _call(202, "POST", f"{stand.api}/v1/auth/register", who | {"name": "Asha"})
    [mail] = _call(200, "GET", f"{stand.mailbox}/messages?to={quote(who['email'])}")["data"]
    [code] = re.findall(r"(?<!\d)\d{6}(?!\d)", mail["text"])
    tokens = _call(200, "POST", f"{stand.api}/v1/auth/verify", {"email": who["email"], "code": code})
    me = _call(200, "GET", f"{stand.api}/v1/me", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    return Person(me["handle"], tokens["access_token"])


def fund(stand: Stand, person: Person, amount: int) -> None:
    """Bring money in, in minor units of INR, with the bank's webhook. RuntimeError as above."""
    headers = {"Authorization": f"Bearer {person.token}", "Idempotency-Key": f"deposit-{secrets.token_hex(8)}"}
    deposits = f"{stand.api}/v1/wallets/INR/deposits"
    intent = _call(201, "POST", deposits, {"amount": amount, "bank": BANK}, headers)
    now = datetime.datetime.now(datetime.UTC)
    webhook_id = f"msg_{secrets.token_hex(8)}"
    data = {"reference": intent["id"], "bank_reference": webhook_id, "amount": amount, "currency": "INR"}
    event = {"type": "deposit.succeeded", "timestamp": now.isoformat(), "data": data}
    signed = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(stand.bank_secret).sign(webhook_id, now, json.dumps(event)),
    }
    _call(200, "POST", f"{stand.api}/v1/webhooks/bank/{BANK}", event, signed)


def _call(
    status: int, method: str, url: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> Any:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=SECONDS)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, json.dumps(body) if body is not None else None, sent)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != status:
        raise RuntimeError(f"{method} {parts.path}: {answer.status} {content.decode(errors='replace')[:300]}")
    return json.loads(content)
