"""Refunds, in the database functions: how much may be given back, from what, by whom, and how both sides see it."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from okane_common import ids
from tests.support.books import FULL, REFUND, Party
from tests.support.owner import Stand, changed, stand_on
from tests.support.platform import Database


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


@pytest.fixture
def people(stand: Stand) -> tuple[Party, Party]:
    """Asha, who has 1000, and Ravi, who has nothing."""
    return stand.rich(1000), stand.ledger.person("ravi")


def test_refund_says_exactly_what_happened(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    made = stand.ledger.refund(ravi, "key-refund", paid, 120, note="one was broken")
    refund = made["transaction"]
    at = refund["created_at"]
    assert refund == {
        "id": str(ids.transfer_id(ravi.person, REFUND, "key-refund")),
        "kind": "refund",
        "direction": "out",
        "status": "Success",
        "amount": 120,
        "currency": "INR",
        "counterparty": {"handle": asha.handle, "name": "asha"},
        "note": "one was broken",
        "refunded_amount": None,
        "captured_amount": None,
        "balance_after": 180,
        "wallet_version": 2,
        "failure": None,
        "created_at": at,
        "completed_at": at,
        "expires_at": None,
        "payment_url": None,
        "refund_of": paid,
    }
    taken = {"direction": "in", "counterparty": {"handle": ravi.handle, "name": "ravi"}}
    assert stand.seen(asha, refund["id"]) == refund | taken | {"balance_after": 820, "wallet_version": 4}
    assert changed(made) == stand.wallets(*people)
    assert stand.money(asha, ravi) == [(820, 0), (180, 0)]
    # Linked both ways, and the original is what it was otherwise.
    for party in people:
        original = stand.seen(party, paid)
        assert (original["refunded_amount"], original["captured_amount"], original["status"]) == (120, 300, "Success")
        page = stand.ledger.history(party)["data"]
        assert [(one["id"], one["refund_of"]) for one in page[:2]] == [(refund["id"], paid), (paid, None)]
        assert page[1]["refunded_amount"] == 120


def test_refunds_come_to_no_more_than_the_whole(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    stand.ledger.fund(ravi, 1000)  # what he has is not the bound
    assert stand.ledger.refund(ravi, "key-1", paid, 301)["left"] == 300
    assert stand.ledger.refund(ravi, "key-2", paid, 100)["outcome"] == "made"
    assert stand.ledger.refund(ravi, "key-3", paid, 199)["outcome"] == "made"
    before = stand.everything()
    for amount in (2, 300, FULL):
        refused = stand.ledger.refund(ravi, "key-4", paid, amount)
        assert (refused["outcome"], refused["left"]) == ("refund_exceeds_original", 1)
    assert stand.everything() == before
    # Not recorded, so the key is free; all that is left is 1.
    assert stand.ledger.refund(ravi, "key-4", paid)["transaction"]["amount"] == 1
    for nothing in (None, 1):
        assert stand.ledger.refund(ravi, "key-5", paid, nothing)["left"] == 0
    assert stand.money(asha, ravi) == [(1000, 0), (1000, 0)]
    assert stand.seen(asha, paid)["refunded_amount"] == 300


def test_refunds_of_a_capture_in_part(stand: Stand, people: tuple[Party, Party]) -> None:
    """What was captured is the bound, not what was held."""
    asha, ravi = people
    held = stand.hold(asha, ravi, 300)
    stand.ledger.capture(ravi, "key-capture", held, 100)
    stand.ledger.fund(ravi, 1000)
    assert stand.ledger.refund(ravi, "key-1", held, 101)["left"] == 100
    assert stand.ledger.refund(ravi, "key-2", held)["transaction"]["amount"] == 100
    assert stand.ledger.refund(ravi, "key-3", held, 1)["outcome"] == "refund_exceeds_original"
    assert stand.money(asha, ravi) == [(1000, 0), (1000, 0)]


@pytest.mark.parametrize("end", ["running", "voided", "expired", "swept"])
def test_what_has_not_succeeded_is_not_refunded(stand: Stand, people: tuple[Party, Party], end: str) -> None:
    asha, ravi = people
    stand.ledger.fund(ravi, 1000)
    held = stand.hold(asha, ravi, 300)
    if end == "voided":
        stand.ledger.void(ravi, "key-void", held)
    elif end != "running":
        stand.owner.expire(held)
        if end == "swept":
            assert stand.ledger.call("sweep_holds", 1000)["released"] >= 1
    before = stand.everything()
    for amount in (None, 1):
        assert stand.ledger.refund(ravi, "key-refund", held, amount)["outcome"] == "ended"
    assert stand.everything() == before


def test_refund_is_paid_from_what_is_available(stand: Stand, people: tuple[Party, Party]) -> None:
    """Neither from what the payment brought and is gone, nor from what is locked."""
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    gone = stand.hold(ravi, asha, 250, "key-onward")
    refused = stand.ledger.refund(ravi, "key-refund", paid, 51)
    failed = refused["transaction"]
    assert (failed["kind"], failed["status"], failed["refund_of"]) == ("refund", "Failure", paid)
    assert (failed["failure"]["code"], failed["balance_after"]) == ("insufficient_funds", 50)
    assert stand.ledger.wallet(asha)["version"] == 4, "the other side was not touched"
    assert stand.read(asha, failed["id"]) == {"outcome": "not_found"}
    assert stand.seen(ravi, paid)["refunded_amount"] == 0
    stand.ledger.void(asha, "key-void", gone)
    again = stand.ledger.refund(ravi, "key-refund", paid, 51)
    assert (again["outcome"], again["transaction"]) == ("replayed", failed), "the key names the refusal for ever"
    # What failed does not use up the original.
    assert stand.ledger.refund(ravi, "key-all", paid)["transaction"]["amount"] == 300
    assert stand.money(asha, ravi) == [(1000, 0), (0, 0)]


def test_only_the_recipient_refunds(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    zoe = stand.rich(1000)
    paid = stand.pay(asha, ravi, 300)
    stand.pay(asha, zoe, 10, "key-for-zoe")
    refund = stand.ledger.refund(ravi, "key-first", paid, 100)["transaction"]["id"]
    deposit = stand.ledger.history(zoe)["data"][-1]["id"]
    withdrawal = stand.ledger.withdraw(asha, "key-withdraw", 10)["transaction"]["id"]
    stand.ledger.event(withdrawal, 10, type="withdrawal.succeeded")
    refused = stand.ledger.transfer(asha, "key-too-much", ravi.handle, 5000)["transaction"]["id"]
    before = stand.everything()
    for who, transfer, answer in (
        (asha, paid, "forbidden"),
        (zoe, paid, "not_found"),
        (asha, refund, "not_found"),  # what came back is not refunded again
        (ravi, refund, "not_found"),
        (zoe, deposit, "not_found"),
        (asha, withdrawal, "not_found"),
        (ravi, refused, "not_found"),
        (ravi, uuid.uuid4(), "not_found"),
    ):
        assert stand.ledger.refund(who, "key-refund", transfer)["outcome"] == answer, (who.handle, transfer)
    stranger = Party(ravi.person, uuid.uuid4(), ravi.handle)
    assert stand.ledger.refund(stranger, "key-refund", paid) == {"outcome": "session_ended"}
    assert stand.everything() == before


def test_key_names_the_refund_for_ever(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid, other = stand.pay(asha, ravi, 300), stand.pay(asha, ravi, 300, "key-other")
    made = stand.ledger.refund(ravi, "key-refund", paid, 300, note="sorry")
    before = stand.everything()
    again = stand.ledger.refund(ravi, "key-refund", paid, 300, note="sorry")
    assert (again["outcome"], again["transaction"]) == ("replayed", made["transaction"])
    changes: list[tuple[object, int | None, str | None]] = [
        (paid, None, "sorry"),  # it came to the same, and was not the same request
        (paid, 299, "sorry"),
        (paid, 300, "Sorry"),
        (paid, 300, None),
        (other, 300, "sorry"),
        (uuid.uuid4(), 300, "sorry"),
    ]
    for transfer, amount, note in changes:
        refused = stand.ledger.refund(ravi, "key-refund", transfer, amount, note)
        assert refused == {"outcome": "idempotency_key_reused"}, (transfer, amount, note)
    assert stand.everything() == before
    # All that is left, said again when nothing is.
    rest = stand.ledger.refund(ravi, "key-rest", other)
    again = stand.ledger.refund(ravi, "key-rest", other)
    assert (again["outcome"], again["transaction"]) == ("replayed", rest["transaction"])


def test_full_wallet_takes_nothing_back(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    stand.ledger.fund(asha, FULL - 800)  # 100 are missing to the most that a wallet holds
    refused = stand.ledger.refund(ravi, "key-refund", paid)
    assert refused["transaction"]["failure"]["code"] == "limit_exceeded"
    limit = {"name": "recipient_balance", "used": None, "cap": FULL, "resets_at": None}
    assert refused["limit"] == limit
    assert stand.ledger.refund(ravi, "key-refund", paid)["limit"] == limit, "a replay says which limit, too"
    assert stand.ledger.refund(ravi, "key-fits", paid, 100)["transaction"]["status"] == "Success"


def test_history_finds_refunds(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    refunds = {stand.ledger.refund(ravi, f"key-{n}", paid, 100)["transaction"]["id"] for n in range(3)}
    for party in people:
        asked: tuple[Any, ...] = (party.person, party.session, "INR", 2**63 - 1, 100, "refund", None, None, None)
        page = stand.ledger.call("read_history", *asked)["page"]["data"]
        assert {one["id"] for one in page} == refunds
        assert {one["refund_of"] for one in page} == {paid}
