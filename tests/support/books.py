"""The books below HTTP: the database functions as the application calls them, and the audit that re-adds everything.

The audit is the test's own: it shares no line with the functions that it checks, and asks the tables as their owner.
"""

import hashlib
import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from okane_common import ids

IDLE_SECONDS = 7 * 24 * 3600
FULL = 2**53 - 1  # minor units: what a wallet can hold
TRANSFER = "POST /v1/transfers"
DEPOSIT = "POST /v1/wallets/{currency}/deposits"
WITHDRAWAL = "POST /v1/wallets/{currency}/withdrawals"
CAPTURE = "POST /v1/transfers/{id}/capture"
VOID = "POST /v1/transfers/{id}/void"
REFUND = "POST /v1/transfers/{id}/refunds"
BATCH = "POST /v1/transfers/batch"


class Party(NamedTuple):
    """Somebody with a wallet and a live session."""

    person: uuid.UUID
    session: uuid.UUID
    handle: str


class Ledger:
    """The money functions over one connection of the application's role, each call one transaction."""

    def __init__(self, app_url: str) -> None:
        self.connection = psycopg.connect(app_url, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def call(self, function: str, *arguments: Any) -> dict[str, Any]:
        """One function of the schema okane, and its JSON. Raises psycopg.Error."""
        given = sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
        statement = sql.SQL("SELECT okane.{}({})").format(sql.Identifier(function), given)
        ((found,),) = self.connection.execute(statement, arguments).fetchall()
        answer: dict[str, Any] = found
        return answer

    def person(self, name: str = "asha", currency: str = "INR") -> Party:
        """Sign somebody up and in, with a handle nobody has."""
        email, code = f"{name}-{secrets.token_hex(8)}@example.com", secrets.token_bytes(32)
        handle, session = f"{name}_{secrets.token_hex(8)}", uuid.uuid4()
        self.call("sign_up", email, name, [handle], "no hash", code, 600)
        refresh = secrets.token_bytes(32)
        verified = self.call(
            "verify_email", email, code, currency, session, "test", refresh, IDLE_SECONDS, IDLE_SECONDS
        )
        return Party(uuid.UUID(verified["person_id"]), session, handle)

    def transfer(
        self, payer: Party, key: str, to: str, amount: int, currency: str = "INR", note: str | None = None
    ) -> dict[str, Any]:
        """make_transfer, with the id that the key names."""
        name = ids.transfer_id(payer.person, TRANSFER, key)
        return self.call("make_transfer", payer.person, payer.session, name, to, amount, currency, note, None)

    def hold(
        self,
        payer: Party,
        key: str,
        to: str,
        amount: int,
        *,
        seconds: int = 3600,
        currency: str = "INR",
        note: str | None = None,
    ) -> dict[str, Any]:
        """make_transfer that only holds the amount."""
        name = ids.transfer_id(payer.person, TRANSFER, key)
        return self.call("make_transfer", payer.person, payer.session, name, to, amount, currency, note, seconds)

    def capture(self, payee: Party, key: str, hold: object, amount: int | None = None) -> dict[str, Any]:
        """resolve_hold; whole where no amount is given."""
        name = ids.transfer_id(payee.person, CAPTURE, key)
        return self.call("resolve_hold", payee.person, payee.session, name, str(hold), True, amount)

    def void(self, payee: Party, key: str, hold: object) -> dict[str, Any]:
        """resolve_hold, with nothing captured."""
        name = ids.transfer_id(payee.person, VOID, key)
        return self.call("resolve_hold", payee.person, payee.session, name, str(hold), False, None)

    def refund(
        self, giver: Party, key: str, original: object, amount: int | None = None, note: str | None = None
    ) -> dict[str, Any]:
        """make_refund; all that is left where no amount is given."""
        name = ids.transfer_id(giver.person, REFUND, key)
        return self.call("make_refund", giver.person, giver.session, name, str(original), amount, note)

    def withdraw(
        self,
        payer: Party,
        key: str,
        amount: int,
        *,
        currency: str = "INR",
        bank: str = "hdfc",
        account: str = "00123456789",
    ) -> dict[str, Any]:
        """open_withdrawal, with the id that the key names."""
        name = ids.transfer_id(payer.person, WITHDRAWAL, key)
        page = "http://bank.example.com/pay"
        return self.call("open_withdrawal", payer.person, payer.session, name, currency, amount, bank, account, page)

    def batch(
        self, payer: Party, key: str, items: Sequence[tuple[str, int]], *, whole: bool = False, currency: str = "INR"
    ) -> dict[str, Any]:
        """make_batch of (handle, amount)s; whole: all or none."""
        given = [
            {
                "id": str(ids.transfer_id(payer.person, BATCH, f"{key}.{number}")),
                "to": to,
                "amount": amount,
                "note": None,
            }
            for number, (to, amount) in enumerate(items)
        ]
        name, asked = ids.transfer_id(payer.person, BATCH, key), hashlib.sha256(repr((whole, items)).encode()).digest()
        return self.call("make_batch", payer.person, payer.session, name, asked, whole, currency, Json(given))

    def intend(self, payee: Party, key: str, amount: int, currency: str = "INR", bank: str = "hdfc") -> dict[str, Any]:
        """open_deposit, with the id that the key names."""
        name = ids.transfer_id(payee.person, DEPOSIT, key)
        page, until = "http://bank.example.com/pay", "2030-01-01T00:00:00Z"
        return self.call("open_deposit", payee.person, payee.session, name, currency, amount, bank, page, until)

    def event(self, reference: object, amount: int, **other: Any) -> dict[str, Any]:
        """receive_bank_event; what `other` does not say is that of a fresh success at hdfc in INR."""
        webhook_id = other.get("webhook_id", f"msg_{secrets.token_hex(8)}")
        return self.call(
            "receive_bank_event",
            other.get("bank", "hdfc"),
            webhook_id,
            hashlib.sha256(other.get("body", b"body")).digest(),
            other.get("type", "deposit.succeeded"),
            str(reference),
            other.get("bank_reference", f"ref_{secrets.token_hex(8)}"),
            amount,
            other.get("currency", "INR"),
            other.get("reason"),
        )

    def fund(self, payee: Party, amount: int, currency: str = "INR", bank: str = "hdfc") -> None:
        """Bring money in, from the intent to the credit."""
        intent = self.intend(payee, f"fund-{secrets.token_hex(8)}", amount, currency, bank)
        credited = self.event(intent["transaction"]["id"], amount, currency=currency, bank=bank)
        assert credited["status"] == "processed", credited

    def wallet(self, party: Party, currency: str = "INR") -> dict[str, Any]:
        """The wallet as its owner sees it."""
        found: dict[str, Any] = self.call("read_wallet", party.person, party.session, currency)["wallet"]
        return found

    def history(self, party: Party, currency: str = "INR", before: int = 2**63 - 1, limit: int = 100) -> dict[str, Any]:
        """A page of the wallet's history, `{"data", "has_more", "last_seq"}`."""
        asked = (party.person, party.session, currency, before, limit, None, None, None, None)
        page: dict[str, Any] = self.call("read_history", *asked)["page"]
        return page


# What each transfer has done on each of its sides, and in how many entries.
_SIDES = """
    WITH sides AS (
        SELECT t.id, s.wallet_id, s.seq AS said, s.sign, t.status, t.amount, t.kind, t.completed_at,
               count(e.seq) AS entries, max(e.seq) AS latest, min(e.seq) AS first,
               min(e.seq) FILTER (WHERE e.opening) AS opening, count(e.seq) FILTER (WHERE e.opening) AS openings,
               coalesce(sum(e.available_delta), 0) AS available, coalesce(sum(e.locked_delta), 0) AS locked,
               (array_agg(e.created_at ORDER BY e.seq DESC))[1] AS at
          FROM transfers t
         CROSS JOIN LATERAL (VALUES (t.from_wallet, t.from_seq, -1), (t.to_wallet, t.to_seq, 1)) s (wallet_id, seq, sign)
          LEFT JOIN entries e ON e.transfer_id = t.id AND e.wallet_id = s.wallet_id
         GROUP BY t.id, s.wallet_id, s.seq, s.sign, t.status, t.amount, t.kind, t.completed_at)
"""

# Each selects what must not be there; ledger.md's invariants by number.
CHECKS: Mapping[str, str] = {
    # 1
    "a currency does not add up to nothing": """
        SELECT currency, sum(available + locked) FROM wallets GROUP BY currency HAVING sum(available + locked) <> 0
    """,
    # 2
    "a wallet is not the sum of its entries": """
        SELECT w.id, w.available, w.locked, w.version, e.available, e.locked, e.entries, e.latest
          FROM wallets w
          LEFT JOIN (SELECT wallet_id, sum(available_delta) AS available, sum(locked_delta) AS locked,
                            count(*) AS entries, max(seq) AS latest FROM entries GROUP BY wallet_id) e ON e.wallet_id = w.id
         WHERE (w.available, w.locked, w.version, w.version) IS DISTINCT FROM
               (coalesce(e.available, 0), coalesce(e.locked, 0), coalesce(e.entries, 0), coalesce(e.latest, 0))
    """,
    "an entry does not follow from the one before": """
        SELECT wallet_id, seq FROM (
            SELECT wallet_id, seq, available_delta, locked_delta, available_after, locked_after,
                   lag(seq, 1, 0::bigint) OVER w AS before, lag(available_after, 1, 0::bigint) OVER w AS available,
                   lag(locked_after, 1, 0::bigint) OVER w AS locked
              FROM entries WINDOW w AS (PARTITION BY wallet_id ORDER BY seq)) e
         WHERE (seq, available_after, locked_after) <> (before + 1, available + available_delta, locked + locked_delta)
    """,
    "an entry belongs to no transfer of its wallet": """
        SELECT e.wallet_id, e.seq FROM entries e
         WHERE NOT EXISTS (SELECT FROM wallets w WHERE w.id = e.wallet_id)
            OR NOT EXISTS (SELECT FROM transfers t
                            WHERE t.id = e.transfer_id AND e.wallet_id IN (t.from_wallet, t.to_wallet))
    """,
    # 3
    "a person's wallet is negative": """
        SELECT id, available, locked FROM wallets WHERE person_id IS NOT NULL AND least(available, locked) < 0
    """,
    "locked is not the sum of the open holds": """
        SELECT w.id, w.locked FROM wallets w
         WHERE w.locked <> (SELECT coalesce(sum(t.amount), 0) FROM transfers t
                             WHERE t.from_wallet = w.id AND t.status = 'Processing' AND t.kind <> 'deposit')
    """,
    # 4
    "a success has not moved its amount from one side to the other": _SIDES
    + """
        SELECT id, sign, available, locked FROM sides
         WHERE status = 'Success' AND (available, locked) <> (sign * amount, 0)
    """,
    "what has not succeeded has moved something": _SIDES
    + """
        SELECT id, sign, available, locked FROM sides
         WHERE status <> 'Success' AND (available + locked <> 0 OR (locked <> 0 AND (status = 'Failure' OR kind = 'deposit')))
    """,
    "a transfer and its entries disagree about each other": _SIDES
    + """
        SELECT id, sign, said, latest, opening, first, entries FROM sides
         WHERE said IS DISTINCT FROM latest OR opening IS DISTINCT FROM first OR openings > 1
    """,
    "a transfer is half done": _SIDES
    + """
        SELECT id FROM sides GROUP BY id
        HAVING sum(entries) = 0 OR (min(status) = 'Success' AND min(entries) = 0)
            OR (min(completed_at) IS NOT NULL AND max(at) <> min(completed_at))
    """,
    "a transfer has the wrong wallets": """
        SELECT t.id FROM transfers t
          LEFT JOIN wallets f ON f.id = t.from_wallet
          LEFT JOIN wallets o ON o.id = t.to_wallet
         WHERE (f.currency, o.currency) IS DISTINCT FROM (t.currency, t.currency)
            OR o.person_id IS NULL OR (t.kind = 'deposit') <> (f.party IS NOT NULL)
            OR (t.kind = 'deposit' AND f.party <> 'bank:' || t.asked)
    """,
    # 5
    "a transfer has ended twice": _SIDES + "SELECT id, sign, entries FROM sides WHERE entries > 2",
    # 6
    "a key names two transfers": "SELECT id, count(*) FROM transfers GROUP BY id HAVING count(*) > 1",
    "an event was recorded twice": """
        SELECT bank, webhook_id, count(*) FROM bank_events GROUP BY bank, webhook_id HAVING count(*) > 1
    """,
    "a movement at the bank was credited twice": """
        SELECT bank, bank_reference, count(*) FROM bank_events WHERE status = 'processed' AND type = 'deposit.succeeded'
         GROUP BY bank, bank_reference HAVING count(*) > 1
    """,
    "a deposit has not ended by exactly one event": """
        SELECT t.id, t.status, e.succeeded, e.failed FROM transfers t
         CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE type = 'deposit.succeeded') AS succeeded,
                   count(*) FILTER (WHERE type = 'deposit.failed') AS failed FROM bank_events
             WHERE reference = t.id::text AND status = 'processed' AND settled_at IS NOT NULL
               AND (bank, amount, currency) = (t.asked, t.amount, t.currency)) e
         WHERE t.kind = 'deposit' AND (e.succeeded, e.failed) <>
               ((t.status = 'Success')::integer, (t.status = 'Failure')::integer)
    """,
    "an event waits, or has acted, for no reason": """
        SELECT e.bank, e.webhook_id, e.status FROM bank_events e LEFT JOIN transfers t ON t.id::text = e.reference
         WHERE (e.status = 'processed') <> (e.settled_at IS NOT NULL) OR (e.status = 'processed' AND t.id IS NULL)
            OR (e.status = 'parked' AND t.id IS NOT NULL)
    """,
}


def check_books(database_url: str) -> list[str]:
    """Re-add everything. `database_url` is the owner's. Returns the differences in words; empty when the books are right."""
    with psycopg.connect(database_url) as connection:
        return differences(connection)


def differences(connection: "psycopg.Connection[Any]") -> list[str]:
    """What check_books() finds, within the connection's own transaction, seen at one moment."""
    # One statement, so one snapshot: the books may be written to meanwhile.
    parts = [
        f"SELECT {number} AS n, to_jsonb(found)::text AS what FROM ({check}) found"
        for number, check in enumerate(CHECKS.values())
    ]
    connection.execute("SET LOCAL search_path = okane")
    rows = connection.execute(" UNION ALL ".join(f"({part})" for part in parts).encode()).fetchall()
    names = list(CHECKS)
    return [f"{names[number]}: {what}" for number, what in rows]
