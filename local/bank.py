"""Bank simulator for hdfc, axis and icici: a process of its own, with its own keys and no database.

    python -m local.bank --port 3004

Prints {"url": ...} once it listens, then reads one line from standard input, {"api": "http://127.0.0.1:3000",
"secrets": {"hdfc": ["whsec_..."], ...}}, so that the keys are neither in its arguments nor in its environment; ends
when its standard input closes, so that it never outlives the platform.

    GET  /hdfc/pay?reference=&amount=&currency=&expires_at=    the payment page; kind=withdrawal: of money that goes out
    POST to the same address                                   what its buttons do, as a form or as JSON:

    {"action": "approve" | "decline",
     "times": 1..10, "new_ids": bool, "at_once": bool,         the same event again; each under its own id
     "order": "failed_first" | "success_first",                both events, one after the other
     "amount": int, "currency": str, "bank_reference": str,    something else than what was asked for
     "webhook_id": str, "reason": str,
     "unknown_reference": bool, "bad_signature": bool, "oversize": bool,
     "skew_seconds": -86400..86400, "delay_seconds": 0..60,    a wrong clock; sent later, in the background
     "ignore_expiry": bool}                                    approve although the time is over

The answer lists every delivery with what the webhook said. A bank's reference is derived from the payment's,
so that paying twice is one payment; a refusal has another reference than a success.
"""

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast
from urllib.parse import parse_qsl, urlsplit

from standardwebhooks import Webhook

from local import bank_page
from local.http import Request, Response, serve, stop, url

BANKS = {"hdfc": "HDFC Bank", "axis": "Axis Bank", "icici": "ICICI Bank"}
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)  # waits between the attempts of one delivery
ATTEMPT_SECONDS = 10.0
ANSWER_MAX_BYTES = 64 * 1024  # of what the webhook answers, the rest is not read
OVERSIZE_BYTES = 70 * 1024  # past the webhook's limit of 64 KiB
PENDING_MAX = 100  # events waiting for their delay
AMOUNT_MAX = 2**53 - 1
KINDS = ("deposit", "withdrawal")

type Json = dict[str, object]


class BadInputError(Exception):
    """The request cannot be understood; the text says why, to whoever sent it."""


@dataclass(frozen=True, slots=True)
class Payment:
    """What a payment URL asks for; amount in minor units."""

    bank: str
    reference: str
    amount: int
    currency: str
    expires_at: datetime | None
    kind: str = "deposit"

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and datetime.now(UTC) >= self.expires_at


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with a payment, and how to misbehave while doing it."""

    action: Literal["approve", "decline"]
    times: int = 1
    new_ids: bool = False
    at_once: bool = False
    order: Literal["failed_first", "success_first"] | None = None
    amount: int | None = None
    currency: str | None = None
    bank_reference: str | None = None
    webhook_id: str | None = None
    reason: str | None = None
    unknown_reference: bool = False
    bad_signature: bool = False
    oversize: bool = False
    skew_seconds: int = 0
    delay_seconds: float = 0.0
    ignore_expiry: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One webhook event: its id and the exact bytes that are signed."""

    webhook_id: str
    type: str
    bank_reference: str
    body: str


def read_payment(request: Request) -> Payment:
    """The payment that the URL names. BadInputError says what is wrong; KeyError: the path is no bank's."""
    bank, _, rest = request.path.removeprefix("/").partition("/")
    if bank not in BANKS or rest != "pay":
        raise KeyError(request.path)
    query = _pairs(request.query)
    if query.get("kind", "deposit") not in KINDS:
        raise BadInputError(f"kind must be one of: {', '.join(KINDS)}")
    expires_at = None
    if query.get("expires_at"):
        try:
            expires_at = datetime.fromisoformat(query["expires_at"])
        except ValueError:
            raise BadInputError("expires_at must be a time such as 2026-11-23T10:00:00.000Z") from None
        if expires_at.tzinfo is None:
            raise BadInputError("expires_at must say its time zone")
    return Payment(
        bank=bank,
        reference=_text("reference", query.get("reference", "")),
        amount=_amount(query.get("amount", "")),
        currency=_currency(query.get("currency", "")),
        expires_at=expires_at,
        kind=query.get("kind", "deposit"),
    )


def read_order(request: Request) -> Order:
    """The order in a POST body, a form or JSON. BadInputError with what is wrong."""
    media_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    given: Mapping[str, object]
    if media_type == "application/x-www-form-urlencoded":
        # An empty field of the form is one that was left alone.
        given = {name: value for name, value in _pairs(request.body.decode(errors="replace")).items() if value}
    elif media_type == "application/json":
        try:
            given = json.loads(request.body)
        except (ValueError, RecursionError):
            raise BadInputError("the body is not JSON") from None
        if not isinstance(given, dict):
            raise BadInputError("the body must be an object")
    else:
        raise BadInputError("send a form or application/json")
    unknown = sorted(set(given) - set(Order.__dataclass_fields__))
    if unknown:
        raise BadInputError(f"unknown field: {unknown[0][:50]}")
    flags = ("new_ids", "at_once", "unknown_reference", "bad_signature", "oversize", "ignore_expiry")
    return Order(
        action=cast(Literal["approve", "decline"], _choice(given, "action", ("approve", "decline"))),
        times=int(_number(given, "times", 1, 1, 10)),
        order=cast(
            Literal["failed_first", "success_first"] | None,
            _choice(given, "order", ("failed_first", "success_first")) if "order" in given else None,
        ),
        amount=_amount(given["amount"]) if "amount" in given else None,
        currency=_currency(given["currency"]) if "currency" in given else None,
        bank_reference=_text("bank_reference", given["bank_reference"]) if "bank_reference" in given else None,
        webhook_id=_text("webhook_id", given["webhook_id"]) if "webhook_id" in given else None,
        reason=_text("reason", given["reason"]) if "reason" in given else None,
        skew_seconds=int(_number(given, "skew_seconds", 0, -86400, 86400)),
        delay_seconds=_number(given, "delay_seconds", 0, 0, 60),
        **{name: _flag(given, name) for name in flags},
    )


def _pairs(encoded: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(encoded, keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise BadInputError("too many fields") from None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 100 or not (value.isascii() and value.isprintable()):
        raise BadInputError(f"{name} must be 1 to 100 printable ASCII characters")
    return value


def _integer(value: object) -> int | None:
    """A JSON integer, or the ASCII digits of a form or query; never a boolean or a float."""
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 17:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _amount(value: object) -> int:
    amount = _integer(value)
    if amount is None or not 1 <= amount <= AMOUNT_MAX:
        raise BadInputError(f"amount must be a whole number of minor units, 1 to {AMOUNT_MAX}")
    return amount


def _currency(value: object) -> str:
    if not isinstance(value, str) or len(value) != 3 or not (value.isascii() and value.isalpha() and value.isupper()):
        raise BadInputError("currency must be three capital letters")
    return value


def _number(given: Mapping[str, object], name: str, default: int, least: int, most: int) -> float:
    value = given.get(name, default)
    number: float | None = _integer(value)
    if number is None and name == "delay_seconds":
        with contextlib.suppress(ValueError):
            number = float(value) if isinstance(value, float | str) else None
    if number is None or not least <= number <= most:
        raise BadInputError(f"{name} must be a number from {least} to {most}")
    return number


def _flag(given: Mapping[str, object], name: str) -> bool:
    value = given.get(name, False)
    if isinstance(value, bool):
        return value
    if value in ("on", "true", "false"):
        return value != "false"
    raise BadInputError(f"{name} must be true or false")


def _choice(given: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str:
    value = given.get(name)
    if value not in choices:
        raise BadInputError(f"{name} must be one of: {', '.join(choices)}")
    return value


def make_events(payment: Payment, order: Order) -> list[Event]:
    """The events that the order leads to, in the order in which they go out."""
    success, failure = f"{payment.kind}.succeeded", f"{payment.kind}.failed"
    expired = payment.expired and not order.ignore_expiry
    types = [success if order.action == "approve" and not expired else failure]
    if order.order is not None:
        types = [failure, success] if order.order == "failed_first" else [success, failure]
    events = []
    reference = str(uuid.uuid4()) if order.unknown_reference else payment.reference
    for kind in types:
        bank_reference = order.bank_reference or _bank_reference(payment.bank, reference, kind)
        data: Json = {
            "reference": reference,
            "bank_reference": bank_reference,
            "amount": payment.amount if order.amount is None else order.amount,
            "currency": order.currency or payment.currency,
        }
        if kind == failure:
            data["reason"] = order.reason or ("expired" if expired else "declined")
        elif order.oversize:
            data["reason"] = "x" * OVERSIZE_BYTES
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = json.dumps({"type": kind, "timestamp": now, "data": data})
        webhook_id = order.webhook_id or _new_webhook_id()
        events += [
            Event(_new_webhook_id() if order.new_ids and turn else webhook_id, kind, bank_reference, body)
            for turn in range(order.times)
        ]
    return events


def _new_webhook_id() -> str:
    return f"msg_{secrets.token_hex(16)}"


def _bank_reference(bank: str, reference: str, kind: str) -> str:
    digest = hashlib.sha256(f"{bank} {reference} {kind}".encode()).hexdigest()
    return f"{bank.upper()}{digest[:16].upper()}"


class Bank:
    """The running simulator: where the API is, the keys, and the events that wait for their delay."""

    def __init__(self, api: str, keys: Mapping[str, list[str]]) -> None:
        self._api = urlsplit(api)
        # A bank signs with the newest of its keys; the receiver knows all that are live.
        self._signers = {bank: Webhook(keys[bank][0]) for bank in BANKS}
        self._pending: set[asyncio.Task[list[Json]]] = set()

    async def handle(self, request: Request) -> Response:
        """Answers one request; bad input is a 4xx that says what is wrong."""
        if request.path == "/" and request.method in ("GET", "HEAD"):
            return bank_page.index(BANKS)
        as_json = (request.header("content-type") or "").startswith("application/json")
        try:
            payment = read_payment(request)
            if request.method in ("GET", "HEAD"):
                return bank_page.payment(BANKS[payment.bank], payment)
            if request.method != "POST":
                return Response(405, b"", [("Allow", "GET, HEAD, POST")])
            status, result = await self._carry_out(payment, read_order(request))
        except KeyError:
            return _problem(404, "there is no such page", as_json=as_json)
        except BadInputError as error:
            return _problem(400, str(error), as_json=as_json)
        if as_json:
            return Response.json(status, result)
        return bank_page.result(status, BANKS[payment.bank], payment, result)

    async def _carry_out(self, payment: Payment, order: Order) -> tuple[int, Json]:
        result: Json = {"bank": payment.bank, "reference": payment.reference, "action": order.action}
        if order.delay_seconds:
            if len(self._pending) >= PENDING_MAX:
                return 429, {**result, "error": "too many delayed events", "deliveries": []}
            task = asyncio.create_task(self._send_all(payment, order))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            return 202, {**result, "delay_seconds": order.delay_seconds, "deliveries": []}
        return 200, {**result, "deliveries": await self._send_all(payment, order)}

    async def _send_all(self, payment: Payment, order: Order) -> list[Json]:
        await asyncio.sleep(order.delay_seconds)
        events = make_events(payment, order)
        if order.at_once:
            return list(await asyncio.gather(*(self._deliver(payment.bank, order, event) for event in events)))
        return [await self._deliver(payment.bank, order, event) for event in events]

    async def _deliver(self, bank: str, order: Order, event: Event) -> Json:
        """Posts one event until it is answered with anything but a 5xx, a bounded number of times."""
        attempts = 0
        for wait in (*RETRY_SECONDS, None):
            attempts += 1
            status, answer = await asyncio.to_thread(self._post, bank, order, event)
            if wait is None or (status is not None and status < 500):
                break
            await asyncio.sleep(wait)
        return {
            "webhook_id": event.webhook_id,
            "type": event.type,
            "bank_reference": event.bank_reference,
            "attempts": attempts,
            "status": status,
            "answer": answer,
        }

    def _post(self, bank: str, order: Order, event: Event) -> tuple[int | None, object]:
        """One attempt, signed anew. The status and the answer; no status if there was no answer at all."""
        now = datetime.now(UTC) + timedelta(seconds=order.skew_seconds)
        signature = self._signers[bank].sign(event.webhook_id, now, event.body)
        if order.bad_signature:
            signature = Webhook(secrets.token_bytes(24)).sign(event.webhook_id, now, event.body)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"okane-bank-simulator ({bank})",
            "webhook-id": event.webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        connection = http.client.HTTPConnection(self._api.netloc, timeout=ATTEMPT_SECONDS)
        try:
            connection.request("POST", f"/v1/webhooks/bank/{bank}", event.body.encode(), headers)
            answered = connection.getresponse()
            text = answered.read(ANSWER_MAX_BYTES).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return None, type(error).__name__
        finally:
            connection.close()
        try:
            return answered.status, json.loads(text)
        except ValueError:
            return answered.status, text


def _problem(status: int, text: str, *, as_json: bool) -> Response:
    return Response.json(status, {"error": text}) if as_json else bank_page.problem(status, text)


async def _run(port: int) -> None:
    loop = asyncio.get_running_loop()
    bank: Bank | None = None

    async def handle(request: Request) -> Response:
        return await bank.handle(request) if bank else _problem(503, "the bank is not open yet", as_json=False)

    server = await serve(handle, "127.0.0.1", port, max_body=64 * 1024)
    print(json.dumps({"url": url(server)}), flush=True)
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    line = await loop.run_in_executor(None, sys.stdin.readline)
    if line:
        settings = json.loads(line)
        bank = Bank(settings["api"], settings["secrets"])
        loop.add_reader(sys.stdin.fileno(), done.set)  # nothing more is sent: readable means closed
        await done.wait()
        loop.remove_reader(sys.stdin.fileno())
    await stop(server)
    os._exit(0)  # asyncio.run would first wait for the deliveries that are under way


def main() -> int:
    """The process: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m local.bank", description="OKANE's bank simulator")
    parser.add_argument("--port", type=int, default=3004)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the platform stops us in order
    try:
        asyncio.run(_run(parser.parse_args().port))
    except OSError as error:
        print(json.dumps({"error": error.strerror}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
