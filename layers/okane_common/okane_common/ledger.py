"""The money operations and reads, each one database call, with outcomes turned into refusals.

Results are the JSON objects of the database functions (database/functions/), whose headers draw them. A money call gives
`{"outcome": "made" | "replayed", "transaction": {...}, "limit", "changed": [{"person_id", "wallet", "keep"}]}`; what
changed is for the cache, and the caller publishes it after the call, when no lock is held any more.
"""

import datetime
import hashlib
import json
import uuid
from typing import Any
from urllib.parse import urlencode

from okane_common import database, ids, pages
from okane_common.caller import Caller, Visitor
from okane_common.errors import Refusal, accept, refuse

PAYMENT_SECONDS = 30 * 60  # how long a bank's payment page stays open

Result = dict[str, Any]


def _call(function: str, *arguments: Any) -> Result:
    """Raises the Refusal for an outcome that is one; database.Unavailable."""
    return accept(database.call(function, *arguments))


def make_transfer(
    caller: Caller, key: str, to: str, amount: int, currency: str, note: str | None, hold_seconds: int | None = None
) -> Result:
    """Move `amount` minor units to the person with the handle `to`, at once or into a hold, or record why not.

    Raises Refusal: session_ended, idempotency_key_reused, recipient_not_found, rate_limited (too many of these),
    self_transfer, currency_mismatch. What the wallets do not allow (insufficient_funds, limit_exceeded, wallet_frozen) is
    not raised: it is recorded, as a transaction in Failure.
    """
    transfer_id = ids.transfer_id(caller.person_id, "POST /v1/transfers", key)
    return _call("make_transfer", *caller, transfer_id, to, amount, currency, note, hold_seconds)


def make_batch(caller: Caller, key: str, whole: bool, currency: str, items: list[dict[str, Any]]) -> Result:
    """Pay many people, `[{"to": handle, "amount", "note"}]`, one after another; whole: all of them or none.

    -> `{"outcome": "made" | "replayed", "refused": bool, "items": [{"code", "limit", "transaction"}], "changed"}`; refused: none
    was paid, since one could not be.
    Raises Refusal: session_ended, idempotency_key_reused, rate_limited, currency_mismatch (no wallet of the caller's).
    """
    route = "POST /v1/transfers/batch"
    named = [
        # The dot is in no key, so no other key names this item.
        {**item, "id": str(ids.transfer_id(caller.person_id, route, f"{key}.{number}"))}
        for number, item in enumerate(items)
    ]
    asked = hashlib.sha256(json.dumps([whole, currency, items]).encode()).digest()
    batch_id = ids.transfer_id(caller.person_id, route, key)
    return _call("make_batch", *caller, batch_id, asked, whole, currency, database.json(named))


def capture(caller: Caller, key: str, transfer_id: uuid.UUID, amount: int | None) -> Result:
    """Capture a hold that was made for the caller: all of it, or `amount` minor units, and the rest goes back.

    The outcome may also be "expired" or "ended": it had come to another end.
    Raises Refusal: session_ended, idempotency_key_reused, not_found, forbidden (the sender), validation_failed (more than is
    held), wallet_frozen, limit_exceeded (the caller's wallet is full).
    """
    name = ids.transfer_id(caller.person_id, "POST /v1/transfers/{id}/capture", key)
    result = _call("resolve_hold", *caller, name, transfer_id, True, amount)
    if result["outcome"] == "capture_exceeds_hold":
        fault = {"pointer": "/amount", "code": "more_than_held", "detail": f"{result['held']} minor units are held."}
        raise Refusal("validation_failed", "More cannot be captured than is held.", errors=[fault])
    return result


def void(caller: Caller, key: str, transfer_id: uuid.UUID) -> Result:
    """Give a hold that was made for the caller back. The outcome may also be "expired" or "ended".

    Raises Refusal: session_ended, idempotency_key_reused, not_found, forbidden (the sender).
    """
    name = ids.transfer_id(caller.person_id, "POST /v1/transfers/{id}/void", key)
    return _call("resolve_hold", *caller, name, transfer_id, False, None)


def make_refund(caller: Caller, key: str, original: uuid.UUID, amount: int | None, note: str | None) -> Result:
    """Give `amount` minor units of a transfer to the caller back, or all that is left, or record why not.

    The outcome may also be "ended": the original has not succeeded.
    Raises Refusal: session_ended, idempotency_key_reused, not_found, forbidden (the sender), refund_exceeds_original.
    """
    refund_id = ids.transfer_id(caller.person_id, "POST /v1/transfers/{id}/refunds", key)
    result = database.call("make_refund", *caller, refund_id, original, amount, note)
    if result["outcome"] == "refund_exceeds_original":
        raise Refusal(result["outcome"], f"{result['left']} of {result['captured']} are left to refund.")
    return accept(result)


def open_deposit(caller: Caller, key: str, currency: str, amount: int, bank: str, bank_url: str) -> Result:
    """Open a deposit that the bank will settle; its payment page is `bank_url` with the terms in the query.

    Raises Refusal: session_ended, idempotency_key_reused, not_found (no wallet in this currency), wallet_frozen.
    """
    transfer_id = ids.transfer_id(caller.person_id, "POST /v1/wallets/{currency}/deposits", key)
    expires_at = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=PAYMENT_SECONDS)).replace(
        microsecond=0
    )
    page = _page(bank_url, transfer_id, amount, currency, expires_at=expires_at.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
    return _call("open_deposit", *caller, transfer_id, currency, amount, bank, page, expires_at)


def open_withdrawal(
    caller: Caller, key: str, currency: str, amount: int, bank: str, account: str, bank_url: str
) -> Result:
    """Lock `amount` minor units until the bank has paid them out to `account`, or record why not.

    The page at which the bank takes it over is `bank_url` with the terms in the query; the account is not among them.
    Raises Refusal: session_ended, idempotency_key_reused, not_found (no wallet in this currency).
    """
    transfer_id = ids.transfer_id(caller.person_id, "POST /v1/wallets/{currency}/withdrawals", key)
    page = _page(bank_url, transfer_id, amount, currency, kind="withdrawal")
    return _call("open_withdrawal", *caller, transfer_id, currency, amount, bank, account, page)


def _page(bank_url: str, reference: uuid.UUID, amount: int, currency: str, **more: str) -> str:
    return f"{bank_url}?{urlencode({'reference': reference, 'amount': amount, 'currency': currency, **more})}"


def receive_bank_event(bank: str, webhook_id: str, body_hash: bytes, event_type: str, data: dict[str, Any]) -> Result:
    """Take in one event from a bank, once. data: reference, bank_reference, amount (minor units), currency, reason.

    -> `{"status": "processed" | "duplicate" | "parked" | "quarantined", "recorded", "changed"}`; `recorded` says quarantined
    also for a duplicate that a person must look at.
    Raises Refusal(event_conflict).
    """
    result = database.call(
        "receive_bank_event",
        bank,
        webhook_id,
        body_hash,
        event_type,
        data["reference"],
        data["bank_reference"],
        data["amount"],
        data["currency"],
        data["reason"],
    )
    if result["status"] == "conflict":
        raise refuse("event_conflict")
    return result


def find_recipient(caller: Caller, handle: str, visitor: Visitor) -> Result:
    """-> `{"recipient": {"handle", "name"}}`. Raises Refusal: recipient_not_found, session_ended, rate_limited."""
    return _call("find_recipient", *caller, handle, visitor.source)


def read_wallets(caller: Caller) -> Result:
    """-> `{"wallets": [wallet]}`. Raises Refusal(session_ended)."""
    return _call("read_wallets", *caller)


def read_wallet(caller: Caller, currency: str) -> Result:
    """-> `{"wallet", "keep": whether the cache may keep it}`. Raises Refusal: not_found, session_ended."""
    return _call("read_wallet", *caller, currency)


def read_wallet_at(caller: Caller, currency: str, version: int) -> Result:
    """The wallet as it was at `version`. -> `{"version": the present one, "wallet": None where it has not reached `version`}`

    Raises Refusal: not_found, session_ended.
    """
    return _call("read_wallet_at", *caller, currency, version)


def open_wallet(caller: Caller, currency: str) -> Result:
    """-> `{"outcome": "made" | "found", "wallet"}`. Raises Refusal(session_ended)."""
    return _call("open_wallet", *caller, currency)


def read_history(caller: Caller, currency: str, before: int, limit: int, filters: dict[str, str | None]) -> Result:
    """A page below version `before`. filters: kind, status, from, to (RFC 3339; from is included, to is not).

    -> `{"version", "keep", "page": {"data", "has_more", "last_seq"}}`; keep: whether the cache may keep it.
    Raises Refusal: not_found, session_ended.
    """
    return _call(
        "read_history",
        *caller,
        currency,
        before,
        limit,
        filters["kind"],
        filters["status"],
        filters["from"],
        filters["to"],
    )


def read_statement(caller: Caller, currency: str, month: str, after: int, most: int) -> Result:
    """At most `most` lines of a month, "2026-11", above version `after`; 0 for its beginning.

    -> `{"statement": {"currency", "month", "from", "to", "final", "opening", "lines", "closing"}, "next": the `after` of the
    lines that are left, or None}`
    Raises Refusal: not_found (no such wallet, or a month that has not begun), session_ended.
    """
    return _call("read_statement", *caller, currency, f"{month}-01", after, most)


def read_transaction(caller: Caller, transaction_id: uuid.UUID, kinds: list[str]) -> Result:
    """-> `{"transaction"}` if it is one of `kinds` and the caller is a side of it. Raises Refusal: not_found, session_ended."""
    return _call("read_transaction", *caller, transaction_id, kinds)


def read_person_to_warm(person_id: uuid.UUID, page: int = pages.DEFAULT_LIMIT) -> list[Result]:
    """Everything the cache keeps of one person: at most one of `{"person_id", "version", "profile", "wallets"}`."""
    people: list[Result] = database.call("read_person_to_warm", person_id, page)["people"]
    return people
