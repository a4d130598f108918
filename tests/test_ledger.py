"""Transfers and deposits, in the database functions and through HTTP: what is answered, recorded, refused and replayed."""

import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okane_common import ids
from tests.support.books import DEPOSIT, FULL, TRANSFER, Ledger, check_books
from tests.support.platform import Database

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
KEYS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=8, max_size=255)
ROUTES = st.sampled_from([TRANSFER, DEPOSIT, "POST /v1/wallets/{currency}/withdrawals"])
NAMES = st.tuples(st.uuids(), ROUTES, KEYS)


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    """The application's connection. The books must add up after every test."""
    with Ledger(database.app_url) as ledger:
        yield ledger
    assert check_books(database.url) == []


def rows(database: Database, question: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """The owner's view."""
    with psycopg.connect(database.url) as connection:
        connection.execute("SET LOCAL search_path = okane")
        return connection.execute(question.encode(), arguments).fetchall()


# Ids


@given(NAMES)
def test_transfer_id_is_a_version_8_uuid_and_stays(name: tuple[uuid.UUID, str, str]) -> None:
    found = ids.transfer_id(*name)
    assert (found.version, found.variant) == (8, uuid.RFC_4122)
    assert found == ids.transfer_id(*name)


@given(NAMES, NAMES)
def test_transfer_id_differs_by_person_route_and_key(
    one: tuple[uuid.UUID, str, str], other: tuple[uuid.UUID, str, str]
) -> None:
    mixed = [
        (person, route, key)
        for person in (one[0], other[0])
        for route in (one[1], other[1])
        for key in (one[2], other[2])
    ]
    assert len({ids.transfer_id(*name) for name in mixed}) == len(set(mixed))


def test_transfer_id_is_what_it_was() -> None:
    """Written down: a change here would forget every key that was ever used."""
    person = uuid.UUID("6f1c1a52-0d1c-4e6a-9c58-2b6e4f9b7a10")
    assert str(ids.transfer_id(person, TRANSFER, "key-12345")) == "eed8d13d-9c64-85cd-939e-e798f68d5e38"


# Transfers, in the database


def test_transfer_says_exactly_what_happened(ledger: Ledger) -> None:
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 1000)
    made = ledger.transfer(asha, "key-12345", ravi.handle, 300, note="rent")
    at = made["transaction"]["created_at"]
    assert MOMENT.fullmatch(at)
    seen = {
        "id": str(ids.transfer_id(asha.person, TRANSFER, "key-12345")),
        "kind": "transfer",
        "direction": "out",
        "status": "Success",
        "amount": 300,
        "currency": "INR",
        "counterparty": {"handle": ravi.handle, "name": "ravi"},
        "note": "rent",
        "refunded_amount": 0,
        "captured_amount": 300,
        "balance_after": 700,
        "wallet_version": 3,
        "failure": None,
        "created_at": at,
        "completed_at": at,
        "expires_at": None,
        "payment_url": None,
        "refund_of": None,
    }
    wallet = {"currency": "INR", "locked": 0, "as_of": at}
    changed = [
        {
            "person_id": str(asha.person),
            "wallet": wallet | {"available": 700, "total": 700, "version": 3},
            "keep": True,
        },
        {
            "person_id": str(ravi.person),
            "wallet": wallet | {"available": 300, "total": 300, "version": 1},
            "keep": True,
        },
    ]
    made["changed"].sort(key=lambda one: one["wallet"]["version"], reverse=True)
    assert made == {"outcome": "made", "transaction": seen, "limit": None, "changed": changed}
    assert [ledger.wallet(asha), ledger.wallet(ravi)] == [one["wallet"] for one in changed]
    from_asha = {"handle": asha.handle, "name": "asha"}
    other_side = {"direction": "in", "counterparty": from_asha, "balance_after": 300, "wallet_version": 1}
    assert ledger.history(ravi)["data"] == [seen | other_side]


def test_known_key_replays_for_ever(ledger: Ledger) -> None:
    """Whatever has happened since, also to the handle that the request named."""
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 1000)
    made = ledger.transfer(asha, "key-12345", ravi.handle, 300)
    for number in range(3):
        ledger.transfer(asha, f"key-later-{number}", ravi.handle, 100)
    ledger.call("change_profile", ravi.person, ravi.session, None, f"{ravi.handle[:20]}_new")
    stranger = ledger.person("ravi")
    ledger.call("change_profile", stranger.person, stranger.session, None, ravi.handle)

    again = ledger.transfer(asha, "key-12345", ravi.handle, 300)
    now = {"handle": f"{ravi.handle[:20]}_new", "name": "ravi"}
    assert again["outcome"] == "replayed"
    assert again["transaction"] == made["transaction"] | {"counterparty": now}
    assert ledger.wallet(asha)["available"] == 400
    assert ledger.wallet(stranger)["version"] == 0
    # A new request goes to whoever has the handle now.
    assert ledger.transfer(asha, "key-stranger", ravi.handle, 50)["transaction"]["status"] == "Success"
    assert ledger.wallet(stranger)["available"] == 50


def test_known_key_with_another_request_is_refused(ledger: Ledger) -> None:
    asha, ravi, zoe = ledger.person("asha"), ledger.person("ravi"), ledger.person("zoe")
    for party in (asha, ravi, zoe):
        ledger.call("open_wallet", party.person, party.session, "USD")
    ledger.fund(asha, 1000)
    ledger.transfer(asha, "key-12345", ravi.handle, 300, note="rent")
    before = ledger.wallet(asha)
    for to, amount, currency, note in (
        (zoe.handle, 300, "INR", "rent"),
        ("nobody_at_all", 300, "INR", "rent"),
        (asha.handle, 300, "INR", "rent"),
        (ravi.handle, 301, "INR", "rent"),
        (ravi.handle, 300, "USD", "rent"),
        (ravi.handle, 300, "EUR", "rent"),
        (ravi.handle, 300, "INR", "Rent"),
        (ravi.handle, 300, "INR", None),
    ):
        assert ledger.transfer(asha, "key-12345", to, amount, currency, note) == {"outcome": "idempotency_key_reused"}
    assert ledger.wallet(asha) == before
    assert ledger.transfer(asha, "key-12345", ravi.handle, 300, note="rent")["outcome"] == "replayed"


def test_same_key_over_two_currencies_at_once_moves_one(database: Database, ledger: Ledger) -> None:
    """They lock different rows, so nothing but the primary key is between them."""
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    for party in (asha, ravi):
        ledger.call("open_wallet", party.person, party.session, "USD")
    ledger.fund(asha, 1000)
    ledger.fund(asha, 1000, "USD")
    currencies = ["INR", "USD"] * 3
    rounds = 12
    together = threading.Barrier(len(currencies))

    def one(currency: str) -> list[str]:
        with Ledger(database.app_url) as own:
            outcomes = []
            for number in range(rounds):
                together.wait(30)
                outcomes.append(own.transfer(asha, f"key-{number:05}", ravi.handle, 10, currency)["outcome"])
            return outcomes

    with ThreadPoolExecutor(len(currencies)) as threads:
        found = list(threads.map(one, currencies))
    for outcomes in zip(*found, strict=True):
        by_currency = {"".join(sorted(set(outcomes[start::2]))) for start in (0, 1)}
        assert by_currency == {"madereplayed", "idempotency_key_reused"}
        assert outcomes.count("made") == 1
    assert ledger.wallet(ravi)["available"] + ledger.wallet(ravi, "USD")["available"] == rounds * 10


@pytest.mark.parametrize("case", ["nobody", "self", "theirs is missing", "mine is missing", "session", "other session"])
def test_what_was_never_a_transfer_is_not_recorded(database: Database, ledger: Ledger, case: str) -> None:
    """And leaves its key free."""
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 1000)
    ledger.fund(ravi, 1000)
    payer, to, currency = asha, ravi.handle, "INR"
    match case:
        case "nobody":
            to, outcome = "nobody_at_all", "recipient_not_found"
        case "self":
            to, outcome = asha.handle, "self_transfer"
        case "theirs is missing":
            currency, outcome = "USD", "currency_mismatch"
            ledger.call("open_wallet", asha.person, asha.session, "USD")
        case "mine is missing":
            currency, outcome = "USD", "currency_mismatch"
            ledger.call("open_wallet", ravi.person, ravi.session, "USD")
        case "session":
            payer, outcome = asha._replace(session=uuid.uuid4()), "session_ended"
        case _:
            payer, outcome = asha._replace(session=ravi.session), "session_ended"
    before = ledger.wallet(asha), ledger.wallet(ravi)
    assert ledger.transfer(payer, "key-12345", to, 5, currency) == {"outcome": outcome}
    assert not rows(
        database, "SELECT FROM transfers WHERE id = %s", ids.transfer_id(asha.person, TRANSFER, "key-12345")
    )
    assert (ledger.wallet(asha), ledger.wallet(ravi)) == before
    assert ledger.transfer(asha, "key-12345", ravi.handle, 6)["outcome"] == "made"


def test_lack_of_money_is_recorded_and_replayed(ledger: Ledger) -> None:
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 299)
    made = ledger.transfer(asha, "key-12345", ravi.handle, 300)
    failed = made["transaction"]
    assert (failed["status"], failed["failure"]["code"]) == ("Failure", "insufficient_funds")
    assert (failed["balance_after"], failed["wallet_version"], failed["captured_amount"]) == (299, 3, None)
    assert failed["completed_at"] == failed["created_at"]
    assert failed["counterparty"] == {"handle": ravi.handle, "name": "ra***"}  # who was not paid stays behind the mask
    assert [one["person_id"] for one in made["changed"]] == [str(asha.person)]
    assert ledger.wallet(asha)["version"] == 3
    assert ledger.wallet(ravi)["version"] == 0
    assert ledger.history(asha)["data"][0] == failed
    assert ledger.history(ravi)["data"] == []
    read = ledger.call("read_transaction", ravi.person, ravi.session, failed["id"], ["transfer"])
    assert read == {"outcome": "not_found"}  # it never reached them

    ledger.fund(asha, 5000)
    again = ledger.transfer(asha, "key-12345", ravi.handle, 300)
    assert (again["outcome"], again["transaction"]) == ("replayed", failed)
    assert ledger.transfer(asha, "key-other", ravi.handle, 300)["transaction"]["status"] == "Success"


def test_whole_balance_can_go_and_one_more_cannot(ledger: Ledger) -> None:
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 300)
    assert ledger.transfer(asha, "key-12345", ravi.handle, 300)["transaction"]["balance_after"] == 0
    assert ledger.transfer(asha, "key-other", ravi.handle, 1)["transaction"]["status"] == "Failure"


def test_full_wallet_takes_no_more(database: Database, ledger: Ledger) -> None:
    """A balance is exact in every JSON reader: 2^53 - 1 fits, one more does not, by transfer or by deposit."""
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 10)
    ledger.fund(ravi, FULL - 5)
    assert ledger.transfer(asha, "key-fits", ravi.handle, 5)["transaction"]["status"] == "Success"
    assert ledger.wallet(ravi)["available"] == FULL
    refused = ledger.transfer(asha, "key-over", ravi.handle, 1)["transaction"]
    assert (refused["status"], refused["failure"]["code"]) == ("Failure", "limit_exceeded")
    assert (ledger.wallet(asha)["available"], ledger.wallet(ravi)["version"]) == (5, 3)

    intent = ledger.intend(ravi, "key-more", 1)["transaction"]
    assert ledger.event(intent["id"], 1)["status"] == "quarantined"
    remarks = rows(database, "SELECT remark FROM bank_events WHERE reference = %s", intent["id"])
    assert remarks == [("the wallet cannot hold the amount",)]
    assert ledger.wallet(ravi)["available"] == FULL
    assert rows(database, "SELECT status::text FROM transfers WHERE id = %s", intent["id"]) == [("Processing",)]
    # Room again, and another payment of the bank's arrives.
    ledger.transfer(ravi, "key-room", asha.handle, 10)
    assert ledger.event(intent["id"], 1)["status"] == "processed"


# Deposits, in the database


def test_deposit_from_intent_to_credit(ledger: Ledger) -> None:
    asha = ledger.person("asha")
    made = ledger.intend(asha, "key-12345", 500)
    opened = made["transaction"]
    assert opened == {
        "id": str(ids.transfer_id(asha.person, DEPOSIT, "key-12345")),
        "kind": "deposit",
        "direction": "in",
        "status": "Processing",
        "amount": 500,
        "currency": "INR",
        "counterparty": {"bank": "hdfc"},
        "note": None,
        "refunded_amount": None,
        "captured_amount": None,
        "balance_after": 0,
        "wallet_version": 1,
        "failure": None,
        "created_at": opened["created_at"],
        "completed_at": None,
        "expires_at": "2030-01-01T00:00:00.000Z",
        "payment_url": "http://bank.example.com/pay",
        "refund_of": None,
    }
    assert [one["wallet"]["version"] for one in made["changed"]] == [1]
    event = ledger.event(opened["id"], 500)
    assert event["status"] == "processed"
    assert event["changed"] == [{"person_id": str(asha.person), "wallet": ledger.wallet(asha), "keep": True}]
    credited = ledger.history(asha)["data"]
    done = {"status": "Success", "balance_after": 500, "wallet_version": 2, "payment_url": None}
    assert credited == [opened | done | {"completed_at": ledger.wallet(asha)["as_of"]}]
    again = ledger.intend(asha, "key-12345", 500)
    assert (again["outcome"], again["transaction"]) == ("replayed", credited[0])


def test_declined_deposit(ledger: Ledger) -> None:
    asha = ledger.person("asha")
    opened = ledger.intend(asha, "key-12345", 500)["transaction"]
    assert ledger.event(opened["id"], 500, type="deposit.failed", reason="no funds")["status"] == "processed"
    failed = ledger.intend(asha, "key-12345", 500)["transaction"]
    assert (failed["status"], failed["failure"]["code"]) == ("Failure", "declined")
    assert (failed["balance_after"], failed["wallet_version"], failed["payment_url"]) == (0, 2, None)


def test_deposit_key_with_another_request_is_refused(ledger: Ledger) -> None:
    asha = ledger.person("asha")
    ledger.intend(asha, "key-12345", 500)
    assert ledger.intend(asha, "key-12345", 501) == {"outcome": "idempotency_key_reused"}
    assert ledger.intend(asha, "key-12345", 500, bank="axis") == {"outcome": "idempotency_key_reused"}
    ledger.call("open_wallet", asha.person, asha.session, "USD")
    assert ledger.intend(asha, "key-12345", 500, "USD") == {"outcome": "idempotency_key_reused"}
    assert ledger.intend(asha._replace(session=uuid.uuid4()), "key-other", 500) == {"outcome": "session_ended"}


def test_deposit_without_a_wallet_leaves_nothing_behind(database: Database, ledger: Ledger) -> None:
    """Least of all a wallet of the bank's, in a currency that nobody here has."""
    asha = ledger.person("asha")
    before = rows(database, "SELECT count(*) FROM wallets")
    assert ledger.intend(asha, "key-12345", 500, "XXX") == {"outcome": "not_found"}
    assert rows(database, "SELECT count(*) FROM wallets") == before


def test_event_before_its_intent_waits_for_it(ledger: Ledger) -> None:
    asha = ledger.person("asha")
    name = ids.transfer_id(asha.person, DEPOSIT, "key-early")
    parked = {"webhook_id": "msg_early", "bank_reference": "early-1"}
    assert ledger.event(str(name).upper(), 500, **parked)["status"] == "parked"
    assert ledger.event(str(name).upper(), 500, **parked)["status"] == "duplicate"
    opened = ledger.intend(asha, "key-early", 500)
    assert (opened["outcome"], opened["transaction"]["status"]) == ("made", "Success")
    assert (opened["transaction"]["balance_after"], opened["changed"][0]["wallet"]["available"]) == (500, 500)
    assert ledger.event(name, 500, bank_reference="early-1")["status"] == "duplicate"
    assert ledger.wallet(asha)["available"] == 500


def test_deposits_spread_over_the_stripes_of_a_bank(database: Database, ledger: Ledger) -> None:
    asha = ledger.person("asha")
    for _ in range(64):
        ledger.fund(asha, 1, bank="spread")
    used = rows(
        database,
        "SELECT w.stripe, t.id, count(*) OVER (PARTITION BY w.stripe) FROM transfers t JOIN wallets w ON w.id = t.from_wallet"
        " WHERE w.party = 'bank:spread'",
    )
    assert {stripe for stripe, _, _ in used} <= set(range(16))
    assert all(stripe == transfer_id.bytes[0] % 16 for stripe, transfer_id, _ in used)
    assert len({stripe for stripe, _, _ in used}) >= 10  # fewer: one run in a million
    assert max(count for _, _, count in used) <= 20


def test_system_wallets_are_made_on_demand_by_many_at_once(database: Database, ledger: Ledger) -> None:
    parties = [ledger.person("asha") for _ in range(20)]
    together = threading.Barrier(len(parties))

    def one(number: int) -> None:
        with Ledger(database.app_url) as own:
            together.wait(30)
            for turn in range(4):
                intent = own.intend(parties[number], f"key-{turn:05}", 7, bank="fresh")
                assert own.event(intent["transaction"]["id"], 7, bank="fresh")["status"] == "processed"

    with ThreadPoolExecutor(len(parties)) as threads:
        list(threads.map(one, range(len(parties))))
    made = rows(database, "SELECT stripe, available FROM wallets WHERE party = 'bank:fresh'")
    assert len(made) == len({stripe for stripe, _ in made}) <= 16
    assert sum(available for _, available in made) == -7 * 4 * len(parties)


def test_history_is_the_order_of_the_versions(ledger: Ledger) -> None:
    asha, ravi = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(asha, 1000)
    made = []
    for number in range(10):
        payer, payee = (asha, ravi) if number % 3 else (ravi, asha)  # some of them fail, for lack of money
        made.append((payer, ledger.transfer(payer, f"key-{number:05}", payee.handle, 40 + number)["transaction"]))
    expected = [one["id"] for payer, one in made if payer is asha or one["status"] == "Success"]
    assert len(expected) < len(made)
    seen: list[str] = []
    before, more = 2**63 - 1, True
    while more:
        page = ledger.history(asha, before=before, limit=3)
        seen += [one["id"] for one in page["data"]]
        # What arrives meanwhile belongs to no page behind the first.
        ledger.transfer(asha, f"key-meanwhile-{len(seen)}", ravi.handle, 1)
        before, more = page["last_seq"], page["has_more"]
    assert seen[:-1] == expected[::-1]
    assert len(seen) == len(expected) + 1  # and the deposit before them all
