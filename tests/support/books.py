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


# What each transfer has done on each of its sides, and in how many lines. An arrival is a line that has no number yet.
_SIDES = """
    WITH lines AS (
        SELECT wallet_id, transfer_id, seq, available_delta, coalesce(locked_delta, 0) AS locked_delta, tag::text AS tag
          FROM entry_rows
         UNION ALL SELECT wallet_id, transfer_id, NULL, amount, 0, 'arrival' FROM arrivals
    ), sums AS (
        SELECT wallet_id, transfer_id, max(seq) FILTER (WHERE tag IS DISTINCT FROM 'folded') AS latest,
               count(*) FILTER (WHERE tag IS DISTINCT FROM 'closing') AS openings,
               count(*) FILTER (WHERE tag = 'closing') AS closings,
               max(seq) FILTER (WHERE tag = 'closing') < max(seq) AS closed_first,
               sum(available_delta) AS available, sum(locked_delta) AS locked
          FROM lines GROUP BY wallet_id, transfer_id
    ), sides AS (
        SELECT t.*, s.sign, s.said, l.latest, l.closed_first,
               t.failure_code IN ('insufficient_funds', 'limit_exceeded', 'wallet_frozen') AS refused,
               coalesce(l.openings, 0) AS openings, coalesce(l.closings, 0) AS closings,
               coalesce(l.available, 0) AS available, coalesce(l.locked, 0) AS locked
          FROM transfers t
         CROSS JOIN LATERAL (VALUES (t.from_wallet, t.from_seq, -1), (t.to_wallet, t.to_seq, 1)) s (wallet_id, said, sign)
          LEFT JOIN sums l ON l.transfer_id = t.id AND l.wallet_id = s.wallet_id)
"""

# Each selects what must not be there; ledger.md's invariants by number.
CHECKS: Mapping[str, str] = {
    # 1
    "a currency does not add up to nothing": """
        SELECT currency, sum(available + locked + coalesce(arrived, 0)) FROM wallets
          LEFT JOIN (SELECT wallet_id, sum(amount) AS arrived FROM arrivals GROUP BY wallet_id) a ON a.wallet_id = id
         GROUP BY currency HAVING sum(available + locked + coalesce(arrived, 0)) <> 0
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
        SELECT e.wallet_id, e.transfer_id FROM (SELECT wallet_id, transfer_id FROM entry_rows
                                      UNION ALL SELECT wallet_id, transfer_id FROM arrivals) e
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
         WHERE status = 'Success' AND (available, locked) <> (sign * coalesce(captured_amount, amount), 0)
    """,
    "what has not succeeded has moved something": _SIDES
    + """
        SELECT id, sign, available, locked FROM sides
         WHERE status <> 'Success' AND (available, locked) <> (
                CASE WHEN status = 'Processing' AND kind <> 'deposit' AND sign = -1 THEN -amount ELSE 0 END,
                CASE WHEN status = 'Processing' AND kind <> 'deposit' AND sign = -1 THEN amount ELSE 0 END)
    """,
    "a transfer and its entries disagree about each other": _SIDES
    + """
        SELECT id, sign, said, latest FROM sides WHERE said IS DISTINCT FROM latest OR closed_first
    """,
    "a transfer does not have the lines of its state": _SIDES
    + """
        SELECT id, kind, status, sign, openings, closings FROM sides
         WHERE openings <> CASE sign WHEN -1 THEN kind <> 'deposit'
                                     ELSE kind <> 'withdrawal' AND refused IS NOT TRUE END::integer
            OR closings <> CASE
                WHEN status = 'Processing' OR refused THEN false
                WHEN kind = 'deposit' THEN sign = 1 OR status = 'Success'
                WHEN kind = 'withdrawal' THEN sign = -1 OR status = 'Success'
                ELSE expires_at IS NOT NULL END::integer
    """,
    "a transfer has the wrong wallets": """
        SELECT t.id FROM transfers t
          LEFT JOIN wallets f ON f.id = t.from_wallet
          LEFT JOIN wallets o ON o.id = t.to_wallet
          LEFT JOIN transfers r ON r.id = t.refund_of
         WHERE (f.currency, o.currency) IS DISTINCT FROM (t.currency, t.currency)
            OR f.party IS DISTINCT FROM CASE t.kind WHEN 'deposit' THEN 'bank:' || t.asked END
            OR o.party IS DISTINCT FROM CASE t.kind WHEN 'withdrawal' THEN 'bank:' || t.asked END
            OR (t.kind = 'refund' AND (r.kind, r.from_wallet, r.to_wallet) IS DISTINCT FROM
                                      ('transfer'::transfer_kind, t.to_wallet, t.from_wallet))
    """,
    # 5
    "more was captured than was held, or outside its time": """
        SELECT id FROM transfers WHERE captured_amount > amount OR (captured_amount IS NOT NULL AND completed_at >= expires_at)
    """,
    "more was refunded than was captured": """
        SELECT o.id, sum(r.amount) FROM transfers r JOIN transfers o ON o.id = r.refund_of WHERE r.status = 'Success'
         GROUP BY o.id, o.status, o.captured_amount, o.amount
        HAVING o.status <> 'Success' OR sum(r.amount) > coalesce(o.captured_amount, o.amount)
    """,
    # 6
    "a key names two transfers": "SELECT id, count(*) FROM transfers GROUP BY id HAVING count(*) > 1",
    "an event was recorded twice": """
        SELECT bank, webhook_id, count(*) FROM bank_events GROUP BY bank, webhook_id HAVING count(*) > 1
    """,
    "a movement at the bank was posted twice": """
        SELECT bank, bank_reference, type, count(*) FROM bank_events WHERE status = 'processed' AND type LIKE '%.succeeded'
         GROUP BY bank, bank_reference, type HAVING count(*) > 1
    """,
    "a transfer with a bank has not ended by exactly one event": """
        SELECT t.id, t.status, e.succeeded, e.failed FROM transfers t
         CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE type = t.kind || '.succeeded') AS succeeded,
                   count(*) FILTER (WHERE type = t.kind || '.failed') AS failed FROM bank_events
             WHERE reference = t.id::text AND status = 'processed' AND settled_at IS NOT NULL
               AND (bank, amount, currency) = (t.asked, t.amount, t.currency)) e
         WHERE t.kind IN ('deposit', 'withdrawal') AND (e.succeeded, e.failed) <>
               ((t.status = 'Success')::integer, (t.failure_code IS NOT DISTINCT FROM 'declined')::integer)
    """,
    "an event waits, or has acted, for no reason": """
        SELECT e.bank, e.webhook_id, e.status FROM bank_events e LEFT JOIN transfers t ON t.id::text = e.reference
         WHERE (e.status = 'processed') <> (e.settled_at IS NOT NULL) OR (e.status = 'processed' AND t.id IS NULL)
            OR (e.status = 'parked' AND t.id IS NOT NULL)
    """,
    "a batch has lost an item": """
        SELECT b.id FROM batches b CROSS JOIN json_array_elements(b.outcomes) o
         WHERE o->>'id' IS NOT NULL AND (b.refused OR NOT EXISTS (
               SELECT FROM transfers t WHERE t.id = (o->>'id')::uuid AND t.failure_code IS NOT DISTINCT FROM o->>'code'))
    """,
    # 7
    "what counts for the limits is not what was paid": """
        SELECT wallet_id, day, sum(amount), sum(count) FROM (
            SELECT from_wallet AS wallet_id, (created_at AT TIME ZONE 'UTC')::date AS day,
                   -CASE status WHEN 'Failure' THEN 0 ELSE coalesce(captured_amount, amount) END AS amount,
                   -(status <> 'Failure')::integer AS count
              FROM transfers WHERE kind IN ('transfer', 'withdrawal')
             UNION ALL SELECT id, day, day_amount, day_count FROM wallets WHERE day IS NOT NULL
             UNION ALL SELECT wallet_id, day, amount, count FROM wallet_days) said
         GROUP BY wallet_id, day HAVING sum(amount) <> 0 OR sum(count) <> 0
    """,
    "the days before do not add up": """
        SELECT w.id, w.earlier_amount, w.earlier_count FROM wallets w
          LEFT JOIN wallet_days d ON d.wallet_id = w.id AND d.day BETWEEN w.day - 29 AND w.day - 1
         GROUP BY w.id HAVING (w.earlier_amount, w.earlier_count) <> (coalesce(sum(d.amount), 0), coalesce(sum(d.count), 0))
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
