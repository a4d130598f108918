"""The audit of tests/support/books.py: every check of it notices what it is there for."""

import psycopg
import pytest

from tests.support.books import CHECKS, Ledger, check_books, differences
from tests.support.platform import Database

PAID = "(SELECT id FROM transfers WHERE status = 'Success' AND kind = 'transfer')"
REFUSED = "(SELECT id FROM transfers WHERE status = 'Failure' AND kind = 'transfer')"
OPEN = "(SELECT id FROM transfers WHERE status = 'Processing')"
CREDITED = "(SELECT id::text FROM transfers WHERE status = 'Success' AND kind = 'deposit')"
LATEST = "(SELECT wallet_id, max(seq) FROM entries GROUP BY wallet_id)"
OTHER_ID = """jsonb_populate_record(b, '{"webhook_id": "other"}')"""

# What somebody with the keys to the database could do to the books, by the check that must notice.
CORRUPTIONS = {
    "a currency does not add up to nothing": [
        "UPDATE wallets SET available = available + 1 WHERE person_id IS NOT NULL"
    ],
    "a wallet is not the sum of its entries": [
        "UPDATE wallets SET available = available - 1, locked = locked + 1",
        "UPDATE wallets SET version = version + 1",
        f"DELETE FROM entries WHERE (wallet_id, seq) IN {LATEST}",
    ],
    "an entry does not follow from the one before": [
        "UPDATE entries SET available_after = available_after + 1 WHERE seq = 1",
        "UPDATE entries SET locked_after = 1 WHERE seq = 1",
        "UPDATE entries SET seq = seq + 1",
    ],
    "an entry belongs to no transfer of its wallet": [
        "UPDATE entries SET transfer_id = gen_random_uuid() WHERE seq = 1",
        f"UPDATE transfers SET to_wallet = from_wallet, from_wallet = gen_random_uuid() WHERE id IN {PAID}",
        "DELETE FROM wallets",
    ],
    "a person's wallet is negative": [
        "UPDATE wallets SET available = -1 WHERE person_id IS NOT NULL",
        "UPDATE wallets SET locked = -1 WHERE person_id IS NOT NULL",
    ],
    "locked is not the sum of the open holds": [
        "UPDATE wallets SET available = available - 1, locked = locked + 1",
        f"UPDATE transfers SET kind = 'transfer' WHERE id IN {OPEN}",
    ],
    "a success has not moved its amount from one side to the other": [
        f"UPDATE entries SET available_delta = available_delta + 1 WHERE transfer_id IN {PAID}",
        f"UPDATE entries SET available_delta = available_delta - 1, locked_delta = 1 WHERE transfer_id IN {PAID}",
        f"UPDATE transfers SET amount = amount + 1 WHERE id IN {PAID}",
        f"UPDATE transfers SET status = 'Success', failure_code = NULL WHERE id IN {REFUSED}",
    ],
    "what has not succeeded has moved something": [
        f"UPDATE entries SET available_delta = -5 WHERE transfer_id IN {REFUSED}",
        f"UPDATE entries SET available_delta = -5, locked_delta = 5 WHERE transfer_id IN {OPEN}",
        f"UPDATE transfers SET status = 'Failure', failure_code = 'declined' WHERE id IN {PAID}",
    ],
    "a transfer and its entries disagree about each other": [
        f"UPDATE transfers SET to_seq = NULL WHERE id IN {PAID}",
        "UPDATE entries SET opening = NOT opening",
        "UPDATE entries SET opening = true",
    ],
    "a transfer is half done": [
        f"DELETE FROM entries WHERE transfer_id IN {OPEN}",
        f"DELETE FROM entries WHERE available_delta > 0 AND transfer_id IN {PAID}",
        f"UPDATE transfers SET completed_at = now() WHERE id IN {PAID}",
    ],
    "a transfer has the wrong wallets": [
        f"UPDATE transfers SET to_wallet = gen_random_uuid() WHERE id IN {PAID}",
        f"UPDATE transfers SET currency = 'USD' WHERE id IN {PAID}",
        f"UPDATE transfers SET kind = 'deposit' WHERE id IN {PAID}",
        "UPDATE transfers SET asked = 'icici' WHERE kind = 'deposit'",
    ],
    "a transfer has ended twice": [
        "INSERT INTO entries SELECT wallet_id, transfer_id, generate_series(seq + 1, seq + 2), 0, 0, available_after,"
        f" locked_after, created_at, false FROM entries WHERE transfer_id IN {PAID}"
    ],
    "a key names two transfers": [f"INSERT INTO transfers SELECT * FROM transfers WHERE id IN {PAID}"],
    "an event was recorded twice": ["INSERT INTO bank_events SELECT * FROM bank_events LIMIT 1"],
    "a movement at the bank was credited twice": [
        f"INSERT INTO bank_events SELECT ({OTHER_ID}).* FROM bank_events b WHERE type = 'deposit.succeeded'"
    ],
    "a deposit has not ended by exactly one event": [
        f"DELETE FROM bank_events WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET amount = amount - 1 WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET type = 'deposit.failed' WHERE reference IN {CREDITED}",
        f"INSERT INTO bank_events SELECT ({OTHER_ID}).* FROM bank_events b WHERE type = 'deposit.failed'",
    ],
    "an event waits, or has acted, for no reason": [
        f"UPDATE bank_events SET status = 'parked', settled_at = NULL WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET settled_at = NULL WHERE reference IN {CREDITED}",
        "UPDATE bank_events SET reference = 'nothing' WHERE status = 'processed'",
    ],
}
# What stands in the way of that; taken down within a transaction that is rolled back.
GUARDS = """
    ALTER TABLE entries DISABLE TRIGGER USER, DROP CONSTRAINT entries_pkey;
    ALTER TABLE transfers DISABLE TRIGGER USER, DROP CONSTRAINT transfers_pkey;
    ALTER TABLE bank_events DISABLE TRIGGER USER, DROP CONSTRAINT bank_events_pkey;
    ALTER TABLE wallets DROP CONSTRAINT wallets_never_negative;
    DROP INDEX bank_events_one_credit;
"""


@pytest.fixture(scope="module")
def books(database: Database) -> str:
    """A bit of everything: credited, declined, open and quarantined deposits, a payment, a refusal. The owner's URL."""
    with Ledger(database.app_url) as ledger:
        asha, ravi = ledger.person("asha"), ledger.person("ravi")
        ledger.fund(asha, 1000)
        ledger.fund(ravi, 500, bank="axis")
        assert ledger.transfer(asha, "key-paid", ravi.handle, 300)["transaction"]["status"] == "Success"
        assert ledger.transfer(ravi, "key-poor", asha.handle, 9000)["transaction"]["status"] == "Failure"
        declined, opened = (ledger.intend(asha, key, 70)["transaction"]["id"] for key in ("key-declined", "key-open"))
        assert ledger.event(declined, 70, type="deposit.failed")["status"] == "processed"
        assert ledger.event(opened, 71)["status"] == "quarantined"
        assert ledger.event("nobody", 5)["status"] == "parked"
    return database.url


def test_sound_books_have_no_differences(books: str) -> None:
    assert check_books(books) == []


def test_every_check_is_tried() -> None:
    assert CORRUPTIONS.keys() == CHECKS.keys()


@pytest.mark.parametrize(
    ("check", "corruption"), [(check, corruption) for check, several in CORRUPTIONS.items() for corruption in several]
)
def test_audit_notices(books: str, check: str, corruption: str) -> None:
    with psycopg.connect(books) as connection:
        connection.execute("SET LOCAL search_path = okane")
        connection.execute(GUARDS)
        assert connection.execute(corruption.encode()).rowcount > 0
        found = differences(connection)
        connection.rollback()
    assert any(difference.startswith(f"{check}:") for difference in found)
