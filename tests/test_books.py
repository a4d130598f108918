"""The audit of tests/support/books.py: every check of it notices what it is there for."""

import psycopg
import pytest

from tests.support.books import CHECKS, Ledger, check_books, differences
from tests.support.platform import Database

PAID = "(SELECT id FROM transfers WHERE note = 'paid')"
REFUSED = "(SELECT id FROM transfers WHERE failure_code = 'insufficient_funds')"
DEPOSIT = "(SELECT id FROM transfers WHERE status = 'Processing' AND kind = 'deposit')"
HOLD = "(SELECT id FROM transfers WHERE status = 'Processing' AND kind = 'transfer')"
CAPTURED = "(SELECT id FROM transfers WHERE captured_amount IS NOT NULL)"
REFUND = "(SELECT id FROM transfers WHERE kind = 'refund')"
WITHDRAWN = "(SELECT id FROM transfers WHERE status = 'Success' AND kind = 'withdrawal')"
CREDITED = "(SELECT id::text FROM transfers WHERE status = 'Success' AND kind = 'deposit')"
LATEST = "(SELECT wallet_id, max(seq) FROM entries GROUP BY wallet_id)"
PEOPLE = "(SELECT id FROM wallets WHERE person_id IS NOT NULL)"
OTHER_ID = """jsonb_populate_record(b, '{"webhook_id": "other"}')"""

# What somebody with the keys to the database could do to the books, by the check that must notice.
CORRUPTIONS = {
    "a currency does not add up to nothing": [
        "UPDATE wallets SET available = available + 1 WHERE person_id IS NOT NULL",
        "UPDATE arrivals SET amount = amount + 1",
    ],
    "a wallet is not the sum of its entries": [
        "UPDATE wallets SET available = available - 1, locked = locked + 1",
        "UPDATE wallets SET version = version + 1",
        f"DELETE FROM entry_rows WHERE (wallet_id, seq) IN {LATEST}",
    ],
    "an entry does not follow from the one before": [
        "UPDATE entry_rows SET available_after = available_after + 1 WHERE seq = 1",
        "UPDATE entry_rows SET locked_after = 1 WHERE seq = 1",
        "UPDATE entry_rows SET seq = seq + 1",
    ],
    "an entry belongs to no transfer of its wallet": [
        "UPDATE entry_rows SET transfer_id = gen_random_uuid() WHERE seq = 1",
        "UPDATE arrivals SET transfer_id = gen_random_uuid()",
        f"UPDATE transfers SET to_wallet = from_wallet, from_wallet = -1 WHERE id IN {PAID}",
        "DELETE FROM wallets",
    ],
    "a person's wallet is negative": [
        "UPDATE wallets SET available = -1 WHERE person_id IS NOT NULL",
        "UPDATE wallets SET locked = -1 WHERE person_id IS NOT NULL",
    ],
    "locked is not the sum of the open holds": [
        "UPDATE wallets SET available = available - 1, locked = locked + 1",
        f"UPDATE transfers SET kind = 'transfer' WHERE id IN {DEPOSIT}",
        f"UPDATE transfers SET amount = amount + 1 WHERE id IN {HOLD}",
    ],
    "a success has not moved its amount from one side to the other": [
        f"UPDATE entry_rows SET available_delta = available_delta + 1 WHERE transfer_id IN {PAID}",
        f"UPDATE entry_rows SET available_delta = available_delta - 1, locked_delta = 1 WHERE transfer_id IN {PAID}",
        f"UPDATE transfers SET amount = amount + 1 WHERE id IN {PAID}",
        f"UPDATE transfers SET captured_amount = captured_amount + 1 WHERE id IN {CAPTURED}",
        f"UPDATE transfers SET status = 'Success', failure_code = NULL WHERE id IN {REFUSED}",
        "UPDATE arrivals SET amount = amount - 1",
    ],
    "what has not succeeded has moved something": [
        f"UPDATE entry_rows SET available_delta = -5 WHERE transfer_id IN {REFUSED}",
        f"UPDATE entry_rows SET available_delta = -5, locked_delta = 5 WHERE transfer_id IN {DEPOSIT}",
        f"UPDATE entry_rows SET locked_delta = 5 WHERE transfer_id IN {HOLD}",
        f"UPDATE transfers SET status = 'Failure', failure_code = 'declined' WHERE id IN {PAID}",
    ],
    "a transfer and its entries disagree about each other": [
        f"UPDATE transfers SET to_seq = NULL WHERE id IN {PAID}",
        f"UPDATE transfers SET from_seq = from_seq - 1 WHERE id IN {CAPTURED}",
        "UPDATE entry_rows SET tag = CASE WHEN tag IS NULL THEN 'closing'::entry_tag END",
    ],
    "a transfer does not have the lines of its state": [
        f"DELETE FROM entry_rows WHERE transfer_id IN {DEPOSIT}",
        f"DELETE FROM entry_rows WHERE available_delta > 0 AND transfer_id IN {PAID}",
        f"DELETE FROM entry_rows WHERE tag = 'closing' AND transfer_id IN {CAPTURED}",
        f"DELETE FROM entry_rows WHERE wallet_id NOT IN {PEOPLE} AND transfer_id IN {WITHDRAWN}",
        "DELETE FROM arrivals",
        "UPDATE entry_rows SET tag = NULL",
        "INSERT INTO entry_rows SELECT wallet_id, transfer_id, seq + 1, 0, available_after, NULL, locked_after, 'closing'"
        f" FROM entry_rows WHERE transfer_id IN {PAID}",
    ],
    "a transfer has the wrong wallets": [
        f"UPDATE transfers SET to_wallet = -1 WHERE id IN {PAID}",
        f"UPDATE transfers SET currency = 'USD' WHERE id IN {PAID}",
        f"UPDATE transfers SET kind = 'deposit' WHERE id IN {PAID}",
        "UPDATE transfers SET asked = 'icici' WHERE kind = 'deposit'",
        "UPDATE transfers SET asked = 'icici' WHERE kind = 'withdrawal'",
        f"UPDATE transfers SET from_wallet = to_wallet, to_wallet = from_wallet WHERE id IN {REFUND}",
        f"UPDATE transfers SET refund_of = id WHERE id IN {REFUND}",
    ],
    "more was captured than was held, or outside its time": [
        f"UPDATE transfers SET captured_amount = amount + 1 WHERE id IN {CAPTURED}",
        f"UPDATE transfers SET expires_at = completed_at WHERE id IN {CAPTURED}",
    ],
    "more was refunded than was captured": [
        f"UPDATE transfers SET amount = 1000 WHERE id IN {REFUND}",
        f"UPDATE transfers SET refund_of = (SELECT id FROM transfers WHERE failure_code = 'voided') WHERE id IN {REFUND}",
    ],
    "a key names two transfers": [f"INSERT INTO transfers SELECT * FROM transfers WHERE id IN {PAID}"],
    "an event was recorded twice": ["INSERT INTO bank_events SELECT * FROM bank_events LIMIT 1"],
    "a movement at the bank was posted twice": [
        f"INSERT INTO bank_events SELECT ({OTHER_ID}).* FROM bank_events b WHERE type = 'deposit.succeeded'",
        f"INSERT INTO bank_events SELECT ({OTHER_ID}).* FROM bank_events b WHERE type = 'withdrawal.succeeded'",
    ],
    "a transfer with a bank has not ended by exactly one event": [
        f"DELETE FROM bank_events WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET amount = amount - 1 WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET type = 'deposit.failed' WHERE reference IN {CREDITED}",
        f"INSERT INTO bank_events SELECT ({OTHER_ID}).* FROM bank_events b WHERE type = 'deposit.failed'",
        "DELETE FROM bank_events WHERE type = 'withdrawal.succeeded'",
        "UPDATE bank_events SET type = 'withdrawal.succeeded' WHERE type = 'withdrawal.failed'",
    ],
    "an event waits, or has acted, for no reason": [
        f"UPDATE bank_events SET status = 'parked', settled_at = NULL WHERE reference IN {CREDITED}",
        f"UPDATE bank_events SET settled_at = NULL WHERE reference IN {CREDITED}",
        "UPDATE bank_events SET reference = 'nothing' WHERE status = 'processed'",
    ],
    "a batch has lost an item": [
        "UPDATE batches SET refused = true",
        "UPDATE transfers SET failure_code = 'declined' WHERE asked = 'too_much' OR amount = 99999",
    ],
    "what counts for the limits is not what was paid": [
        "UPDATE wallets SET day_amount = day_amount + 1 WHERE day IS NOT NULL",
        "UPDATE wallets SET day_count = day_count - 1 WHERE day_count > 0",
        "UPDATE wallets SET day = NULL",
        "INSERT INTO wallet_days SELECT id, day - 1, 5, 1 FROM wallets WHERE day IS NOT NULL",
    ],
    "the days before do not add up": [
        "UPDATE wallets SET earlier_amount = 5, earlier_count = 1 WHERE day IS NOT NULL",
        "INSERT INTO wallet_days SELECT id, day - 29, 5, 1 FROM wallets WHERE day IS NOT NULL",
    ],
}
# What stands in the way of that; taken down within a transaction that is rolled back.
GUARDS = """
    ALTER TABLE entry_rows DISABLE TRIGGER USER, DROP CONSTRAINT entries_pkey;
    ALTER TABLE transfers DISABLE TRIGGER USER, DROP CONSTRAINT transfers_pkey;
    ALTER TABLE arrivals DISABLE TRIGGER USER;
    ALTER TABLE batches DISABLE TRIGGER USER;
    ALTER TABLE bank_events DISABLE TRIGGER USER, DROP CONSTRAINT bank_events_pkey;
    ALTER TABLE wallets DROP CONSTRAINT wallets_in_bounds;
    DROP INDEX bank_events_one_credit, bank_events_one_payout;
"""


@pytest.fixture(scope="module")
def books(database: Database) -> str:
    """A bit of everything that a wallet's money does. The owner's URL."""
    with Ledger(database.app_url) as ledger:
        asha, ravi, shop = ledger.person("asha"), ledger.person("ravi"), ledger.person("shop")
        ledger.fund(asha, 5000)
        ledger.fund(ravi, 500, bank="axis")
        assert ledger.transfer(asha, "key-paid", ravi.handle, 300, note="paid")["transaction"]["status"] == "Success"
        assert ledger.transfer(ravi, "key-poor", asha.handle, 9000)["transaction"]["status"] == "Failure"
        declined, opened = (ledger.intend(asha, key, 70)["transaction"]["id"] for key in ("key-declined", "key-open"))
        assert ledger.event(declined, 70, type="deposit.failed")["status"] == "processed"
        assert ledger.event(opened, 71)["status"] == "quarantined"
        assert ledger.event("nobody", 5)["status"] == "parked"
        _, captured, voided = (
            ledger.hold(asha, f"key-hold-{number}", ravi.handle, 100)["transaction"]["id"] for number in range(3)
        )
        assert ledger.capture(ravi, "key-capture", captured, 60)["outcome"] == "made"
        assert ledger.void(ravi, "key-void", voided)["outcome"] == "made"
        assert ledger.refund(ravi, "key-refund", captured, 20)["outcome"] == "made"
        for key, end in (("key-out-1", "succeeded"), ("key-out-2", "failed")):
            withdrawn = ledger.withdraw(asha, key, 40)["transaction"]["id"]
            assert ledger.event(withdrawn, 40, type=f"withdrawal.{end}")["status"] == "processed"
        ledger.batch(asha, "key-batch", [(ravi.handle, 5), ("nobody_here", 5), (ravi.handle, 99999)])
        with psycopg.connect(database.url) as owner:
            owner.execute("SELECT okane.switch_wallet(%s, 'INR', NULL, NULL, true)", [shop.handle])
        assert ledger.transfer(asha, "key-shop-1", shop.handle, 7)["transaction"]["status"] == "Success"
        ledger.history(shop)  # folds
        assert ledger.transfer(asha, "key-shop-2", shop.handle, 8)["transaction"]["status"] == "Success"
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
