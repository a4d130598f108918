"""The audit: every check of it notices what it is there for, heavy traffic gives no false alarm, and it carries on."""

import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import psycopg
import pytest

from tests.support.audited import auditor, calls_on
from tests.support.books import Ledger, Party, check_books
from tests.support.owner import Owner
from tests.support.platform import Database

PLENTY = 1000.0  # seconds
SLICE = 4  # rows: so that wallets are cut, too
TRAFFIC_SECONDS = 4.0  # of payments while audits run
WORKERS = 6

TOTALS = "a currency does not add up to nothing"
WALLET = "a wallet is not what its entries come to"
LOCKED = "locked is not the sum of the open holds"
NEGATIVE = "a person's wallet is negative"
CHAIN = "an entry does not follow from the one before"
ORPHAN = "an entry belongs to no transfer of its wallet"
ENTRY = "an entry does not say what its transfer says"
POINTER = "a transfer and its entries disagree about each other"
LINES = "a transfer does not have the lines of its state"
SIDES = "a transfer has the wrong wallets"
CAPTURED = "more was captured than was held, or outside its time"
REFUNDED = "more was refunded than was captured"
ENDED = "a transfer with a bank has not ended by exactly one event"
ARRIVAL = "an arrival is not what its transfer brings"
EVENT = "an event waits, or has acted, for no reason"
ACTED = "an event has not ended the transfer that it names"
TWICE = "a movement at the bank was posted twice"
BATCH = "a batch has lost an item"
COUNTED = "what counts for the limits is not what was paid"
EARLIER = "the days before do not add up"

PAID = "id IN (SELECT id FROM transfers WHERE note = 'paid')"
OF_PAID = "transfer_id IN (SELECT id FROM transfers WHERE note = 'paid')"
REFUSED = (
    "id IN (SELECT id FROM transfers WHERE failure_code = 'insufficient_funds' AND kind = 'transfer' AND note = 'poor')"
)
HELD = "id IN (SELECT id FROM transfers WHERE status = 'Processing' AND note = 'held')"
CUT = "id IN (SELECT id FROM transfers WHERE captured_amount < amount)"
OF_CUT = "transfer_id IN (SELECT id FROM transfers WHERE captured_amount < amount)"
GIVEN_BACK = "kind = 'refund'"
CREDIT = "reference IN (SELECT id::text FROM transfers WHERE status = 'Success' AND kind = 'deposit')"
OTHER_ID = """(jsonb_populate_record(b, '{"webhook_id": "other"}')).*"""
OTHER_MOVEMENT = """(jsonb_populate_record(b, '{"webhook_id": "other", "bank_reference": "other"}')).*"""

# What somebody with the keys to the database could do to the books, and all that the full audit then says.
CORRUPTIONS: list[tuple[str, set[str]]] = [
    ("UPDATE wallets SET currency = 'EUR' WHERE party IS NOT NULL AND version > 0", {TOTALS, SIDES}),
    ("UPDATE arrivals SET amount = amount + 1", {TOTALS, ARRIVAL}),
    ("UPDATE wallets SET version = version + 1", {WALLET}),
    ("UPDATE wallets SET available = available + 1 WHERE person_id IS NOT NULL", {WALLET, TOTALS}),
    ("DELETE FROM entry_rows WHERE (wallet_id, seq) IN (SELECT wallet_id, max(seq) FROM entry_rows GROUP BY 1)",
     {WALLET, POINTER, COUNTED}),
    ("UPDATE wallets SET available = available - 1, locked = locked + 1 WHERE locked > 0", {WALLET, LOCKED}),
    (f"UPDATE transfers SET status = 'Failure', failure_code = 'insufficient_funds', completed_at = now() WHERE {HELD}",
     {LOCKED, ENTRY, POINTER, COUNTED}),
    ("UPDATE wallets SET available = -1 WHERE person_id IS NOT NULL", {NEGATIVE, WALLET, TOTALS}),
    ("UPDATE entry_rows SET available_after = available_after + 1 WHERE seq = 1 AND wallet_id IN (SELECT id FROM wallets WHERE"
     " version > 1)", {CHAIN}),
    ("UPDATE entry_rows SET locked_after = 1 WHERE seq = 1 AND wallet_id IN (SELECT id FROM wallets WHERE version > 1)", {CHAIN}),
    (f"UPDATE entry_rows SET seq = seq + 1000000 WHERE {OF_PAID}", {CHAIN, POINTER, WALLET}),
    ("INSERT INTO entry_rows SELECT w.id, gen_random_uuid(), version + 1, 0, available, NULL, nullif(locked, 0), NULL"
     " FROM wallets w WHERE person_id IS NOT NULL", {ORPHAN, WALLET}),
    ("DELETE FROM wallets WHERE party IS NOT NULL AND available <> 0", {ORPHAN, SIDES, TOTALS}),
    (f"UPDATE entry_rows SET available_delta = available_delta + 1, available_after = available_after + 1 WHERE {OF_PAID}",
     {ENTRY, CHAIN}),
    (f"UPDATE entry_rows SET available_delta = available_delta - 1, locked_delta = 1 WHERE {OF_PAID}", {ENTRY, CHAIN}),
    (f"UPDATE transfers SET amount = amount + 1 WHERE {PAID}", {ENTRY, COUNTED}),
    (f"UPDATE transfers SET captured_amount = captured_amount + 1 WHERE {CUT}", {ENTRY, COUNTED}),
    (f"UPDATE transfers SET status = 'Success', failure_code = NULL WHERE {REFUSED}", {ENTRY, POINTER, COUNTED}),
    (f"UPDATE transfers SET status = 'Failure', failure_code = 'declined' WHERE {PAID}", {ENTRY, POINTER, COUNTED}),
    ("UPDATE transfers SET amount = 71 WHERE status = 'Success' AND kind = 'deposit' AND amount = 70", {ENTRY, ENDED, ACTED}),
    (f"UPDATE transfers SET to_seq = NULL WHERE {PAID}", {POINTER}),
    (f"DELETE FROM entry_rows WHERE {OF_PAID} AND available_delta > 0", {CHAIN, POINTER}),
    (f"UPDATE transfers SET from_seq = from_seq - 1 WHERE {CUT}", {POINTER}),
    ("UPDATE transfers SET to_seq = 1 WHERE kind = 'transfer' AND to_seq IS NULL AND status = 'Success' AND id NOT IN"
     " (SELECT transfer_id FROM arrivals)", {POINTER}),
    ("DELETE FROM arrivals", {POINTER, TOTALS}),
    (f"UPDATE entry_rows SET tag = 'closing' WHERE {OF_PAID}", {ENTRY, POINTER, COUNTED}),
    # The same movement once more, as a line of 0 that no sum shows.
    ("INSERT INTO entry_rows SELECT t.to_wallet, t.id, w.version + 1, 0, w.available, NULL, nullif(w.locked, 0), NULL"
     f" FROM transfers t JOIN wallets w ON w.id = t.to_wallet WHERE t.{HELD}", {POINTER, WALLET}),
    (f"UPDATE entry_rows SET transfer_id = (SELECT id FROM transfers WHERE failure_code = 'voided') WHERE {OF_CUT}"
     " AND tag IS NULL AND available_delta = 0", {LINES}),
    (f"UPDATE transfers SET to_wallet = -1 WHERE {PAID}", {SIDES, ORPHAN, POINTER}),
    (f"UPDATE transfers SET currency = 'USD' WHERE {PAID}", {SIDES}),
    ("UPDATE transfers SET asked = 'icici' WHERE kind = 'withdrawal' AND status = 'Processing'", {SIDES}),
    (f"UPDATE transfers SET refund_of = id WHERE {GIVEN_BACK}", {SIDES}),
    (f"UPDATE transfers SET captured_amount = amount + 1 WHERE {CUT}", {CAPTURED, ENTRY, COUNTED}),
    (f"UPDATE transfers SET expires_at = completed_at WHERE {CUT}", {CAPTURED}),
    ("INSERT INTO transfers SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).* FROM transfers t"
     f" CROSS JOIN generate_series(1, 3) WHERE {GIVEN_BACK}", {REFUNDED, POINTER}),
    (f"UPDATE transfers SET status = 'Failure', failure_code = 'voided', captured_amount = NULL WHERE {CUT}",
     {REFUNDED, ENTRY, COUNTED}),
    ("UPDATE arrivals SET transfer_id = (SELECT id FROM transfers WHERE note = 'paid') WHERE amount > 0", {ARRIVAL, POINTER}),
    ("INSERT INTO arrivals (wallet_id, transfer_id, amount, arrived_at) SELECT wallet_id, transfer_id, 0, now() FROM arrivals"
     " WHERE amount = 0", {ARRIVAL}),
    ("INSERT INTO arrivals (wallet_id, transfer_id, amount, arrived_at) SELECT wallet_id, transfer_id, 0, now() FROM entry_rows"
     " WHERE tag = 'folded' AND available_delta = 0", {POINTER, ARRIVAL}),
    ("UPDATE wallets SET has_received = false", {ARRIVAL}),
    (f"DELETE FROM bank_events WHERE {CREDIT}", {ENDED}),
    (f"UPDATE bank_events SET amount = amount - 1 WHERE {CREDIT}", {ENDED, ACTED}),
    (f"INSERT INTO bank_events SELECT {OTHER_MOVEMENT} FROM bank_events b WHERE {CREDIT} AND amount = 70", {ENDED}),
    (f"INSERT INTO bank_events SELECT {OTHER_ID} FROM bank_events b WHERE type = 'withdrawal.succeeded'", {ENDED, TWICE}),
    (f"UPDATE bank_events SET status = 'parked', settled_at = NULL WHERE {CREDIT}", {ENDED, EVENT}),
    ("UPDATE bank_events SET settled_at = now() WHERE status = 'quarantined'", {EVENT}),
    (f"UPDATE bank_events SET settled_at = NULL WHERE {CREDIT}", {ENDED, EVENT}),
    ("UPDATE bank_events SET reference = 'nothing' WHERE type = 'withdrawal.failed'", {ENDED, ACTED}),
    ("UPDATE batches SET refused = true", {BATCH}),
    ("UPDATE transfers SET failure_code = 'wallet_frozen' WHERE amount = 99999", {BATCH}),
    ("UPDATE wallets SET day_amount = day_amount + 1 WHERE day IS NOT NULL", {COUNTED}),
    ("UPDATE wallets SET day_count = day_count + 1 WHERE person_id IS NOT NULL AND version = 0", {COUNTED}),
    ("INSERT INTO wallet_days SELECT id, day - 50, 5, 1 FROM wallets WHERE day IS NOT NULL", {COUNTED}),
    ("UPDATE wallet_days SET count = count + 1 WHERE day < now() - interval '35 days'", {COUNTED}),
    ("UPDATE wallets SET earlier_amount = earlier_amount + 5 WHERE day IS NOT NULL", {EARLIER}),
]  # fmt: skip

# What the look at what is new does not see, since it does not read everything: left to the full audit.
LEFT_TO_FULL = {COUNTED, EVENT, ACTED, TWICE, BATCH}

# What stands in the way of that; taken down within a transaction that is rolled back.
GUARDS = """
    SET LOCAL search_path = okane;
    ALTER TABLE entry_rows DISABLE TRIGGER USER, DROP CONSTRAINT entries_pkey;
    ALTER TABLE transfers DISABLE TRIGGER USER;
    ALTER TABLE arrivals DISABLE TRIGGER USER;
    ALTER TABLE batches DISABLE TRIGGER USER;
    ALTER TABLE bank_events DISABLE TRIGGER USER;
    ALTER TABLE wallets DROP CONSTRAINT wallets_in_bounds;
    DROP INDEX bank_events_one_credit, bank_events_one_payout;
"""


@pytest.fixture(scope="module")
def books(database: Database) -> str:
    """A bit of everything that a wallet's money does, on several days, the last of them today. The owner's URL."""
    with Ledger(database.app_url) as ledger, Owner(database.url) as owner:
        asha, ravi, shop = ledger.person("asha"), ledger.person("ravi"), ledger.person("shop")
        ledger.fund(asha, 9000)
        ledger.fund(ravi, 500, bank="axis")
        for number in range(3):
            ledger.transfer(asha, f"key-old-{number}", ravi.handle, 10)
        late = ledger.hold(asha, "key-late", ravi.handle, 11)["transaction"]["id"]
        owner.pass_days(40)
        ledger.transfer(asha, "key-later", ravi.handle, 20)
        owner.pass_days(2)
        for number in range(2 * SLICE):
            ledger.transfer(asha, f"key-{number}", ravi.handle, 30)
        owner.expire(late)
        assert ledger.call("sweep_holds", 10)["released"] == 1
        ledger.transfer(asha, "key-paid", ravi.handle, 300, note="paid")
        ledger.transfer(ravi, "key-poor", asha.handle, 9000, note="poor")
        declined, opened = (ledger.intend(asha, key, 70)["transaction"]["id"] for key in ("key-declined", "key-open"))
        assert ledger.event(declined, 70, type="deposit.failed")["status"] == "processed"
        assert ledger.event(opened, 71)["status"] == "quarantined"
        assert ledger.event("nobody", 5)["status"] == "parked"
        ledger.fund(ravi, 70)
        ledger.hold(asha, "key-held", ravi.handle, 100, note="held")
        captured, voided = (
            ledger.hold(asha, f"key-hold-{number}", ravi.handle, 100)["transaction"]["id"] for number in range(2)
        )
        assert ledger.capture(ravi, "key-capture", captured, 60)["outcome"] == "made"
        assert ledger.refund(ravi, "key-refund", captured, 20)["outcome"] == "made"
        assert ledger.void(ravi, "key-void", voided)["outcome"] == "made"
        for key, end in (("key-out-1", "succeeded"), ("key-out-2", "failed")):
            withdrawn = ledger.withdraw(asha, key, 40)["transaction"]["id"]
            assert ledger.event(withdrawn, 40, type=f"withdrawal.{end}")["status"] == "processed"
        ledger.withdraw(asha, "key-out-3", 40)
        ledger.batch(asha, "key-batch", [(ravi.handle, 5), ("nobody_here", 5), (ravi.handle, 99999)])
        owner.switch(shop.handle, receiving=True)
        ledger.transfer(asha, "key-shop-1", shop.handle, 7)
        kept = ledger.hold(asha, "key-shop-2", shop.handle, 9)["transaction"]["id"]
        ledger.hold(asha, "key-shop-3", shop.handle, 9)
        assert ledger.capture(shop, "key-shop-capture", kept)["outcome"] == "made"  # folds
        ledger.transfer(asha, "key-shop-4", shop.handle, 8)
        ledger.hold(asha, "key-shop-5", shop.handle, 9)
        ledger.person("idle")
    assert check_books(database.url) == []
    return database.url


@pytest.fixture(scope="module")
def audit(books: str) -> Iterator[ModuleType]:
    """The layer's audit of these books, in small slices."""
    with auditor(books) as module, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SLICE", SLICE)
        patch.setattr(module, "RECENT_SLICE", SLICE)
        yield module


@pytest.fixture
def owner(books: str) -> "Iterator[psycopg.Connection[Any]]":
    """The owner's connection, without the guards; what it does is rolled back. What is new may be a moment old."""
    with psycopg.connect(books) as connection:
        connection.execute(GUARDS)
        [(body,)] = connection.execute("SELECT pg_get_functiondef('audit_recent'::regproc)").fetchall()
        assert "interval '10 seconds'" in body
        connection.execute(body.replace("interval '10 seconds'", "interval '-1 second'").encode())
        yield connection
        connection.rollback()


def checks(found: Any) -> set[str]:
    """What differs."""
    assert found.finished
    assert found.total >= len(found.differences) >= min(1, found.total)
    return {difference["check"] for difference in found.differences}


@pytest.mark.parametrize("size", [1, 2, 3, SLICE, 1000])
@pytest.mark.parametrize("scope", ["full", "recent"])
def test_sound_books_have_no_differences(
    audit: ModuleType, owner: "psycopg.Connection[Any]", scope: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SLICE", size)
    monkeypatch.setattr(audit, "RECENT_SLICE", size)
    with calls_on(audit, owner):
        found = audit.run_by_hand(scope)
    assert checks(found) == set(), found.differences
    if scope == "full":
        rows = {
            what: owner.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            for what, table in (
                *((name, name) for name in ("wallets", "transfers", "arrivals", "batches")),
                ("entries", "entry_rows"),
                ("events", "bank_events"),
            )
        }
        assert {what: (number,) for what, number in found.checked.items() if what != "currencies"} == rows
    else:
        assert found.checked["transfers"] > 2 * SLICE


def test_every_check_is_tried(owner: "psycopg.Connection[Any]") -> None:
    [(bodies,)] = owner.execute(
        "SELECT string_agg(prosrc, ' ') FROM pg_proc WHERE pronamespace = 'okane'::regnamespace AND proname LIKE 'faults_of_%'"
    ).fetchall()
    tried = set().union(*(expected for _, expected in CORRUPTIONS))
    assert {
        name.replace("''", "'") for name in re.findall(r"'((?:a|an|locked|more|what|the) (?:[^']|'')*)'", bodies)
    } == tried


@pytest.mark.parametrize(("corruption", "expected"), CORRUPTIONS)
def test_audit_notices_and_says_nothing_else(
    audit: ModuleType, owner: "psycopg.Connection[Any]", corruption: str, expected: set[str]
) -> None:
    assert owner.execute(corruption.encode()).rowcount > 0
    with calls_on(audit, owner):
        full, recent = audit.run_by_hand("full"), audit.run_by_hand("recent")
    assert checks(full) == expected, full.differences
    assert checks(recent) <= expected, recent.differences
    assert bool(recent.total) == bool(expected - LEFT_TO_FULL), recent.differences


def test_a_difference_names_the_wallet_and_the_amounts(audit: ModuleType, owner: "psycopg.Connection[Any]") -> None:
    [(wallet, person)] = owner.execute(
        "UPDATE wallets SET available = available + 1 WHERE id = (SELECT min(id) FROM wallets WHERE person_id IS NOT NULL)"
        " RETURNING id, person_id"
    ).fetchall()
    with calls_on(audit, owner):
        found = audit.run_by_hand("full")
        [(scope, checked, differences)] = owner.execute(
            "SELECT scope, checked, differences FROM audits ORDER BY id DESC LIMIT 1"
        ).fetchall()
    total, its = found.differences
    assert total == {
        "check": TOTALS, "wallet": None, "owner": None, "transfer": None, "said": "0 INR", "found": "1"
    }  # fmt: skip
    assert (its["check"], its["wallet"], its["owner"], its["transfer"]) == (WALLET, wallet, str(person), None)
    said, actual = (row.strip("()").split(",") for row in (its["said"], its["found"]))
    assert int(said[0]) == int(actual[0]) + 1
    assert said[1:] == actual[1:]
    assert (scope, checked, differences) == ("full", {**found.checked, "differences": 2}, found.differences)


def test_of_many_differences_the_first_are_named_and_all_are_counted(
    audit: ModuleType, owner: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SLICE", 1000)
    owner.execute(
        "INSERT INTO wallet_days SELECT w.id, '2000-01-01'::date + n, 1, 1 FROM wallets w, generate_series(1, 300) n"
    )
    with calls_on(audit, owner):
        found = audit.run_by_hand("full")
    [(wallets, payers)] = owner.execute("SELECT count(*), count(*) FILTER (WHERE version > 0) FROM wallets").fetchall()
    assert found.total == 300 * payers + (wallets - payers), "a wallet without entries is one difference"
    assert len(found.differences) == 100


def test_a_full_audit_that_was_interrupted_carries_on(audit: ModuleType, owner: "psycopg.Connection[Any]") -> None:
    def left(*seconds: float) -> Any:
        given = iter(seconds)
        return lambda: next(given, 0.0)

    with calls_on(audit, owner):
        assert audit.run_full(left(), only_go_on=True) is None, "none is under way"
        whole = audit.run_by_hand("full")
        owner.execute("UPDATE wallets SET version = version + 1 WHERE id = (SELECT max(id) FROM wallets)")
        runs: list[Any] = [audit.run_full(left(PLENTY, PLENTY))]
        assert not runs[0].finished
        [(kept,)] = owner.execute("SELECT value FROM marks WHERE name = 'audit_full'").fetchall()
        assert kept["steps"][0] == "wallets"
        assert kept["after"]["wallet"] > 0

        function, audit_wallets = audit.database.call, "audit_wallets"

        def fail(name: str, *arguments: Any) -> Any:
            if name == audit_wallets:
                raise audit.database.Unavailable("gone")
            return function(name, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(audit.database, "call", fail)
            with pytest.raises(audit.database.Unavailable):
                audit.run_full(left(PLENTY))
        while not runs[-1].finished:
            runs.append(audit.run_full(left(PLENTY, PLENTY), only_go_on=True))
        assert len(runs) > 5
        assert runs[-1].checked == whole.checked, "every row once, however often it stopped"
        assert checks(runs[-1]) == {WALLET}
        assert owner.execute("SELECT count(*) FROM audits WHERE scope = 'full'").fetchone() == (2,)
        assert audit.run_full(left(PLENTY), only_go_on=True) is None, "it is over"
        assert not audit.run_full(left(PLENTY)).finished, "and another one begins at the beginning"


def test_the_look_at_what_is_new_goes_on_where_it_stopped(
    audit: ModuleType, owner: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "OVERLAP_SECONDS", 0)
    with calls_on(audit, owner):
        whole = audit.run_by_hand("recent")
        assert not owner.execute("SELECT FROM marks WHERE name = 'audit_recent'").fetchall(), (
            "by hand it leaves no mark"
        )
        runs: list[Any] = []
        while not runs or not runs[-1].finished:
            seconds = iter([PLENTY] * 4)
            runs.append(audit.run_recent(lambda: next(seconds, 0.0)))  # noqa: B023 - called before the next round
            assert len(runs) < 50
        assert len(runs) > 3
        seen = [found.checked.get("transfers", 0) for found in runs]
        assert sum(seen) == whole.checked["transfers"]
        again = audit.run_recent(lambda: PLENTY)
        assert again.finished
        assert again.checked.get("transfers") == 0, "nothing is new"
        assert owner.execute("SELECT count(*) FROM audits").fetchone() == (len(runs) + 2,)


def test_the_look_at_what_is_new_sees_the_last_minutes_again(
    audit: ModuleType, owner: "psycopg.Connection[Any]"
) -> None:
    with calls_on(audit, owner):
        first = audit.run_recent(lambda: PLENTY)
        again = audit.run_recent(lambda: PLENTY)
    assert again.finished
    assert 0 < again.checked["transfers"] <= first.checked["transfers"]


def pay_at_random(database: Database, parties: list[Party], seed: int, until: threading.Event) -> int:
    """Everything that moves money, as one caller among several; how many calls it made."""
    chance = random.Random(seed)
    made: list[tuple[Party, Party, str]] = []
    with Ledger(database.app_url) as ledger:
        for number in range(1_000_000):
            if until.is_set():
                return number
            payer, payee = chance.sample(parties, 2)
            key = f"traffic-{seed}-{number}"
            amount = chance.randint(1, 60)
            match chance.randrange(9):
                case 0 | 1:
                    paid = ledger.transfer(payer, key, payee.handle, amount)
                    made.append((payer, payee, paid["transaction"]["id"]))
                case 2:
                    seconds = chance.choice([1, 3600])
                    held = ledger.hold(payer, key, payee.handle, amount, seconds=seconds)
                    made.append((payer, payee, held["transaction"]["id"]))
                case 3 | 4 if made:
                    _, payee, transfer = chance.choice(made[-20:])
                    if number % 3:
                        ledger.capture(payee, key, transfer, chance.choice([None, 1]))
                    else:
                        ledger.void(payee, key, transfer)
                case 5 if made:
                    _, payee, transfer = chance.choice(made[-20:])
                    ledger.refund(payee, key, transfer, chance.choice([None, 1]))
                case 6:
                    ledger.batch(payer, key, [(payee.handle, 3), (payee.handle, 10**9)], whole=bool(number % 2))
                case 7:
                    asked = ledger.withdraw(payer, key, amount) if number % 2 else ledger.intend(payer, key, amount)
                    kind = "withdrawal" if number % 2 else "deposit"
                    end = chance.choice(["succeeded", "failed"])
                    if asked["transaction"]["status"] == "Processing" and chance.random() < 0.8:
                        ledger.event(asked["transaction"]["id"], amount, type=f"{kind}.{end}")
                case _:
                    ledger.call("sweep_holds", 5)
                    ledger.call("fold_arrivals", 3)
    raise AssertionError("it never stopped")


def test_heavy_traffic_gives_no_false_alarm(services: Any, database: Database, books: str) -> None:
    """Audits one after another, in slices small and large, while everybody pays everybody."""
    with Ledger(database.app_url) as ledger, Owner(database.url) as owner:
        parties = [ledger.person(name) for name in ("one", "two", "three", "shop")]
        for party in parties:
            ledger.fund(party, 20_000)
        owner.switch(parties[-1].handle, receiving=True)
        body = owner.rows("SELECT pg_get_functiondef('audit_recent'::regproc)")[0][0]
        # Up to the present moment, not only what has come to rest.
        owner.connection.execute(body.replace("interval '10 seconds'", "interval '0 seconds'").encode())
    until, found = threading.Event(), []
    timer = threading.Timer(TRAFFIC_SECONDS, until.set)
    with auditor(database.app_url) as audit, ThreadPoolExecutor(WORKERS) as threads:
        traffic = [threads.submit(pay_at_random, database, parties, seed, until) for seed in range(WORKERS)]
        timer.start()
        sizes = iter([7, 50, 2000] * 10_000)
        while not until.is_set():
            vars(audit)["SLICE"] = vars(audit)["RECENT_SLICE"] = next(sizes)
            found += [audit.run_by_hand("recent"), audit.run_by_hand("full")]
        calls = sum(one.result() for one in traffic)
        found.append(audit.run_by_hand("full"))
    assert [one.differences for one in found if one.total] == []
    assert len(found) > 3
    assert calls > 200
    assert check_books(database.url) == []
