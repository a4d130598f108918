"""The invariants of the ledger: that the audit would notice, and that random traffic from many threads breaks none.

The traffic goes through HTTP, the webhooks are signed by the package that banks use, and a model in plain Python listens
to the answers. What it comes to is compared with the tables, with the API and with the audit's own sums.
"""

import json
import os
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from standardwebhooks import Webhook

from tests.support.api import Api, Person
from tests.support.books import CHECKS, TRANSFER, Ledger, check_books, differences
from tests.support.platform import Database

THREADS = 16
PEOPLE = 5
STEPS = 24  # of each thread; a step is one to five requests
MOST_AMOUNT = 900  # against balances of a few thousand, so that some transfers cannot be paid

ANY_ENTRY = "(SELECT (e.wallet_id, e.seq) FROM entries e JOIN wallets w ON w.id = e.wallet_id WHERE w.person_id IS NOT NULL LIMIT 1)"
SUCCESS = "(SELECT id FROM transfers WHERE status = 'Success' AND kind = 'transfer' LIMIT 1)"
FAILED = "(SELECT id FROM transfers WHERE status = 'Failure' AND kind = 'transfer' LIMIT 1)"
OPEN = "(SELECT id FROM transfers WHERE status = 'Processing' LIMIT 1)"
CREDITED = "(SELECT id::text FROM transfers WHERE status = 'Success' AND kind = 'deposit' LIMIT 1)"
LATEST = "(SELECT wallet_id, max(seq) FROM entries GROUP BY wallet_id)"

# What somebody with the keys to the database could do to the books -> which check must notice.
CORRUPTIONS = {
    "UPDATE wallets SET available = available + 1 WHERE person_id IS NOT NULL": "a currency does not add up to nothing",
    "UPDATE wallets SET version = version + 1": "a wallet is not the sum of its entries",
    "UPDATE wallets SET available = available - 1, locked = locked + 1 WHERE available > 0": "locked is not the sum of the open holds",
    f"DELETE FROM entries WHERE (wallet_id, seq) IN {LATEST}": "a wallet is not the sum of its entries",
    "UPDATE entries SET available_after = available_after + 1 WHERE seq = 1": "an entry does not follow from the one before",
    "UPDATE entries SET locked_after = 1 WHERE seq = 1": "an entry does not follow from the one before",
    "UPDATE entries SET seq = seq + 1": "an entry does not follow from the one before",
    "UPDATE entries SET transfer_id = gen_random_uuid() WHERE seq = 1": "an entry belongs to no transfer of its wallet",
    f"UPDATE transfers SET to_wallet = gen_random_uuid() WHERE id = {SUCCESS}": "a transfer has the wrong wallets",
    f"UPDATE transfers SET currency = 'USD' WHERE id = {SUCCESS}": "a transfer has the wrong wallets",
    "UPDATE transfers SET asked = 'axis' WHERE kind = 'deposit'": "a transfer has the wrong wallets",
    "UPDATE wallets SET available = -1 WHERE person_id IS NOT NULL": "a person's wallet is negative",
    f"UPDATE entries SET available_delta = available_delta + 1 WHERE transfer_id = {SUCCESS}": "a success has not moved its amount from one side to the other",
    f"UPDATE transfers SET amount = amount + 1 WHERE id = {SUCCESS}": "a success has not moved its amount from one side to the other",
    f"UPDATE entries SET available_delta = -5 WHERE transfer_id = {FAILED}": "what has not succeeded has moved something",
    f"UPDATE entries SET available_delta = -5, locked_delta = 5 WHERE transfer_id = {OPEN}": "what has not succeeded has moved something",
    f"UPDATE transfers SET status = 'Failure', failure_code = 'declined' WHERE id = {SUCCESS}": "what has not succeeded has moved something",
    f"UPDATE transfers SET to_seq = NULL WHERE id = {SUCCESS}": "a transfer and its entries disagree about each other",
    "UPDATE entries SET opening = NOT opening": "a transfer and its entries disagree about each other",
    f"DELETE FROM entries WHERE transfer_id = {OPEN}": "a transfer is half done",
    f"DELETE FROM entries WHERE available_delta > 0 AND transfer_id = {SUCCESS}": "a transfer is half done",
    f"UPDATE transfers SET completed_at = now() WHERE id = {SUCCESS}": "a transfer is half done",
    f"""INSERT INTO entries SELECT wallet_id, transfer_id, generate_series(seq + 1, seq + 2), 0, 0, available_after,
        locked_after, created_at, false FROM entries WHERE transfer_id = {SUCCESS}""": "a transfer has ended twice",
    f"INSERT INTO transfers SELECT * FROM transfers WHERE id = {SUCCESS}": "a key names two transfers",
    "INSERT INTO bank_events SELECT * FROM bank_events LIMIT 1": "an event was recorded twice",
    """INSERT INTO bank_events SELECT (jsonb_populate_record(b, '{"webhook_id": "other"}')).* FROM bank_events b
        WHERE status = 'processed' AND type = 'deposit.succeeded'""": "a movement at the bank was credited twice",
    f"DELETE FROM bank_events WHERE reference = {CREDITED}": "a deposit has not ended by exactly one event",
    f"UPDATE bank_events SET amount = amount - 1 WHERE reference = {CREDITED}": "a deposit has not ended by exactly one event",
    f"UPDATE bank_events SET status = 'parked' WHERE reference = {CREDITED}": "an event waits, or has acted, for no reason",
    "UPDATE bank_events SET reference = 'nothing' WHERE status = 'processed'": "an event waits, or has acted, for no reason",
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
def small_books(database: Database) -> str:
    """A bit of everything: credited, declined, open and quarantined deposits, a transfer, a refusal. The owner's URL."""
    with Ledger(database.app_url) as ledger:
        asha, ravi = ledger.person("asha"), ledger.person("ravi")
        ledger.fund(asha, 1000)
        ledger.fund(ravi, 500, bank="axis")
        ledger.transfer(asha, "key-paid", ravi.handle, 300)
        assert ledger.transfer(ravi, "key-poor", asha.handle, 9000)["transaction"]["status"] == "Failure"
        declined, opened = (ledger.intend(asha, key, 70)["transaction"]["id"] for key in ("key-declined", "key-open"))
        assert ledger.event(declined, 70, type="deposit.failed")["status"] == "processed"
        assert ledger.event(opened, 71)["status"] == "quarantined"
        assert ledger.event("nobody", 5)["status"] == "parked"
    assert check_books(database.url) == []
    return database.url


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_audit_notices(small_books: str, corruption: str) -> None:
    with psycopg.connect(small_books) as connection:
        connection.execute("SET LOCAL search_path = okane")
        connection.execute(GUARDS)
        assert connection.execute(corruption.encode()).rowcount > 0
        found = {difference.partition(":")[0] for difference in differences(connection)}
        connection.rollback()
    assert CORRUPTIONS[corruption] in found
    assert check_books(small_books) == []


def test_every_check_is_seen_to_fail() -> None:
    assert set(CORRUPTIONS.values()) == set(CHECKS)
