"""The money operations and reads, each one database call, with outcomes turned into refusals.

Results are the JSON objects of the database functions (database/functions/), whose headers draw them. A money call gives
`{"outcome": "made" | "replayed", "transaction": {...}, "changed": [{"person_id", "wallet"}]}`; what changed is for the
cache, and the caller publishes it after the call, when no lock is held any more.
"""

import datetime
import uuid
from typing import Any
from urllib.parse import urlencode

from okane_common import database, ids, pages
from okane_common.caller import Caller
from okane_common.errors import accept, refuse

PAYMENT_SECONDS = 30 * 60  # how long a bank's payment page stays open

Result = dict[str, Any]


def _call(function: str, *arguments: Any) -> Result:
    """Raises the Refusal for an outcome that is one; database.Unavailable."""
    return accept(database.call(function, *arguments))


def make_transfer(caller: Caller, key: str, to: str, amount: int, currency: str, note: str | None) -> Result:
    """Move `amount` minor units to the person with the handle `to` at once, or record why not.

    Raises Refusal: session_ended, idempotency_key_reused, recipient_not_found, rate_limited (too many of these),
    self_transfer, currency_mismatch. A lack of money is not raised: it is recorded, as a transaction in Failure.
    """
    transfer_id = ids.transfer_id(caller.person_id, "POST /v1/transfers", key)
    return _call("make_transfer", *caller, transfer_id, to, amount, currency, note)


def open_deposit(caller: Caller, key: str, currency: str, amount: int, bank: str, bank_url: str) -> Result:
    """Open a deposit that the bank will settle; its payment page is `bank_url` with the terms in the query.

    Raises Refusal: session_ended, idempotency_key_reused, not_found (no wallet in this currency).
    """
    transfer_id = ids.transfer_id(caller.person_id, "POST /v1/wallets/{currency}/deposits", key)
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=PAYMENT_SECONDS)
    terms = {
        "reference": transfer_id,
        "amount": amount,
        "currency": currency,
        "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
    }
    payment_url = f"{bank_url}?{urlencode(terms)}"
    return _call(
        "open_deposit",
        *caller,
        transfer_id,
        currency,
        amount,
        bank,
        payment_url,
        expires_at.replace(microsecond=0),
    )


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


def find_recipient(caller: Caller, handle: str) -> Result:
    """-> `{"recipient": {"handle", "name"}}`. Raises Refusal: recipient_not_found, session_ended, rate_limited."""
    return _call("find_recipient", *caller, handle)


def read_wallets(caller: Caller) -> Result:
    """-> `{"wallets": [wallet]}`. Raises Refusal(session_ended)."""
    return _call("read_wallets", *caller)


def read_wallet(caller: Caller, currency: str) -> Result:
    """-> `{"wallet"}`. Raises Refusal: not_found, session_ended."""
    return _call("read_wallet", *caller, currency)


def open_wallet(caller: Caller, currency: str) -> Result:
    """-> `{"outcome": "made" | "found", "wallet"}`. Raises Refusal(session_ended)."""
    return _call("open_wallet", *caller, currency)


def read_history(caller: Caller, currency: str, before: int, limit: int, filters: dict[str, str | None]) -> Result:
    """A page below version `before`. filters: kind, status, from, to (RFC 3339; from is included, to is not).

    -> `{"version", "page": {"data", "has_more", "last_seq"}}`. Raises Refusal: not_found, session_ended.
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


def read_transaction(caller: Caller, transaction_id: uuid.UUID, kinds: list[str]) -> Result:
    """-> `{"transaction"}` if it is one of `kinds` and the caller is a side of it. Raises Refusal: not_found, session_ended."""
    return _call("read_transaction", *caller, transaction_id, kinds)


def read_person_to_warm(person_id: uuid.UUID, page: int = pages.DEFAULT_LIMIT) -> list[Result]:
    """Everything the cache keeps of one person: at most one of `{"person_id", "version", "profile", "wallets"}`."""
    people: list[Result] = database.call("read_person_to_warm", person_id, page)["people"]
    return people
