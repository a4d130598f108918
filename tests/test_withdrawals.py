"""Withdrawals, in the database functions: what is locked, and what the bank's events do to it, early, late, twice or wrong."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from okane_common import ids
from tests.support.books import WITHDRAWAL, Party
from tests.support.owner import Stand, changed, stand_on
from tests.support.platform import Database

PAID, FAILED = "withdrawal.succeeded", "withdrawal.failed"


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


@pytest.fixture
def asha(stand: Stand) -> Party:
    """Somebody with 1000."""
    return stand.rich(1000)


def withdraw(stand: Stand, payer: Party, amount: int = 300, key: str = "key-withdraw") -> str:
    """A withdrawal that opens; its id."""
    made = stand.ledger.withdraw(payer, key, amount)
    assert (made["outcome"], made["transaction"]["status"]) == ("made", "Processing"), made
    return str(made["transaction"]["id"])


def tell(stand: Stand, reference: object, kind: str = PAID, amount: int = 300, **other: Any) -> str:
    """An event of the bank's; the status it got."""
    return str(stand.ledger.event(reference, amount, type=kind, **other)["status"])


def events(stand: Stand, reference: object) -> list[tuple[Any, ...]]:
    """What was kept of them, oldest first."""
    question = "SELECT type, status, remark FROM bank_events WHERE reference = %s ORDER BY received_at"
    return stand.owner.rows(question, str(reference))


def unanswered(stand: Stand, seconds: int = 0) -> int:
    return int(stand.ledger.call("count_unanswered", seconds)["count"])


def test_withdrawal_says_exactly_what_happened(stand: Stand, asha: Party) -> None:
    made = stand.ledger.withdraw(asha, "key-withdraw", 300, account="DE89 3704-0044/0532.0130")
    opened = made["transaction"]
    at = opened["created_at"]
    assert opened == {
        "id": str(ids.transfer_id(asha.person, WITHDRAWAL, "key-withdraw")),
        "kind": "withdrawal",
        "direction": "out",
        "status": "Processing",
        "amount": 300,
        "currency": "INR",
        "counterparty": {"bank": "hdfc"},
        "note": None,
        "refunded_amount": None,
        "captured_amount": None,
        "balance_after": 700,
        "wallet_version": 3,
        "failure": None,
        "created_at": at,
        "completed_at": None,
        "expires_at": None,
        "payment_url": "http://bank.example.com/pay",
        "refund_of": None,
    }
    wallet = {"currency": "INR", "available": 700, "locked": 300, "total": 1000, "version": 3, "as_of": at}
    assert changed(made) == stand.wallets(asha) == {str(asha.person): wallet}
    assert stand.ledger.history(asha)["data"][0] == opened
    assert stand.owner.rows("SELECT account FROM transfers WHERE id = %s", ids.transfer_id(
        asha.person, WITHDRAWAL, "key-withdraw")) == [("DE89 3704-0044/0532.0130",)]  # fmt: skip
    assert "DE89" not in json.dumps(made)


def test_bank_has_paid(stand: Stand, asha: Party) -> None:
    opened = withdraw(stand, asha)
    banks = stand.owner.rows(
        "SELECT sum(available), sum(locked) FROM wallets WHERE party = 'bank:hdfc' AND currency = 'INR'"
    )
    settled = stand.ledger.event(opened, 300, type=PAID)
    assert settled["status"] == settled["recorded"] == "processed"
    assert changed(settled) == stand.wallets(asha)
    assert stand.money(asha) == [(700, 0)]
    paid = stand.seen(asha, opened)
    assert (paid["status"], paid["payment_url"], paid["balance_after"], paid["wallet_version"]) == (
        "Success",
        None,
        700,
        4,
    )
    assert (paid["completed_at"] is None, paid["failure"]) == (False, None)
    [(available, locked)] = stand.owner.rows(
        "SELECT sum(available), sum(locked) FROM wallets WHERE party = 'bank:hdfc' AND currency = 'INR'"
    )
    assert [(available - 300, locked)] == banks, "the bank's wallets have it now"


def test_bank_could_not_pay(stand: Stand, asha: Party) -> None:
    opened = withdraw(stand, asha)
    assert tell(stand, opened, FAILED, reason="account closed") == "processed"
    assert stand.money(asha) == [(1000, 0)]
    declined = stand.seen(asha, opened)
    assert (declined["status"], declined["failure"]["code"], declined["balance_after"]) == ("Failure", "declined", 1000)
    assert declined["payment_url"] is None


@pytest.mark.parametrize(("kind", "status", "money"), [(PAID, "Success", (700, 0)), (FAILED, "Failure", (1000, 0))])
def test_events_that_came_first_are_applied(
    stand: Stand, asha: Party, kind: str, status: str, money: tuple[int, int]
) -> None:
    name = ids.transfer_id(asha.person, WITHDRAWAL, "key-withdraw")
    assert tell(stand, name, kind) == "parked"
    made = stand.ledger.withdraw(asha, "key-withdraw", 300)
    assert (made["outcome"], made["transaction"]["status"]) == ("made", status)
    assert stand.money(asha) == [money]
    assert changed(made) == stand.wallets(asha)
    assert events(stand, name) == [(kind, "processed", None)]


def test_event_that_came_first_with_other_terms_moves_nothing(stand: Stand, asha: Party) -> None:
    name = ids.transfer_id(asha.person, WITHDRAWAL, "key-withdraw")
    assert tell(stand, name, PAID, 299) == "parked"
    withdraw(stand, asha)
    assert events(stand, name)[0][1] == "quarantined"
    assert stand.money(asha) == [(700, 300)]
    assert tell(stand, name) == "processed"


@pytest.mark.parametrize(("kind", "kept"), [(PAID, "quarantined"), (FAILED, "duplicate")])
def test_event_that_came_before_a_refusal_moves_nothing(stand: Stand, asha: Party, kind: str, kept: str) -> None:
    """The bank says that it has paid what was never there: that is for a person."""
    name = ids.transfer_id(asha.person, WITHDRAWAL, "key-withdraw")
    assert tell(stand, name, kind, 1001) == "parked"
    refused = stand.ledger.withdraw(asha, "key-withdraw", 1001)["transaction"]
    assert (refused["status"], refused["failure"]["code"]) == ("Failure", "insufficient_funds")
    assert events(stand, name)[0][1] == kept
    assert stand.money(asha) == [(1000, 0)]


def test_bank_says_everything_twice(stand: Stand, asha: Party) -> None:
    opened = withdraw(stand, asha)
    assert tell(stand, opened, webhook_id="msg_first", bank_reference="ref-first") == "processed"
    assert tell(stand, opened, webhook_id="msg_first", bank_reference="ref-first") == "duplicate"
    assert tell(stand, opened, webhook_id="msg_second", bank_reference="ref-first") == "duplicate"
    other = stand.ledger.event(
        opened, 300, type=PAID, webhook_id="msg_first", bank_reference="ref-first", body=b"other"
    )
    assert other["status"] == "conflict"
    assert tell(stand, opened) == "quarantined"  # a second payment, if the bank is right
    assert stand.money(asha) == [(700, 0)]
    again = stand.ledger.event(opened, 300, type=PAID, webhook_id="msg_first", bank_reference="ref-first")
    assert changed(again) == stand.wallets(asha)


def test_end_of_a_withdrawal_stays(stand: Stand, asha: Party) -> None:
    """Late failures mean nothing; a late success is money gone that the books have back, for a person to look at."""
    paid, declined = withdraw(stand, asha, 300, "key-paid"), withdraw(stand, asha, 200, "key-declined")
    tell(stand, paid, PAID, 300, bank_reference="ref-paid")
    tell(stand, declined, FAILED, 200, bank_reference="ref-declined")
    before = stand.everything()
    assert tell(stand, paid, FAILED, 300) == "duplicate"
    assert tell(stand, paid, FAILED, 300, bank_reference="ref-paid") == "duplicate"
    assert tell(stand, declined, FAILED, 200) == "duplicate"
    assert tell(stand, declined, PAID, 200) == "quarantined"
    assert tell(stand, declined, PAID, 200, bank_reference="ref-declined") == "quarantined"
    assert stand.everything() == before
    assert [remark for _, status, remark in events(stand, declined) if status == "quarantined"] == [
        "success after failure"
    ] * 2


@pytest.mark.parametrize("kind", [PAID, FAILED])
@pytest.mark.parametrize(
    "other",
    [
        {"amount": 299},
        {"amount": 301},
        {"currency": "USD"},
        {"bank": "axis"},
        {"type": "deposit.succeeded"},
        {"type": "deposit.failed"},
    ],
    ids=str,
)
def test_event_with_other_terms_moves_nothing(stand: Stand, asha: Party, kind: str, other: dict[str, Any]) -> None:
    opened = withdraw(stand, asha)
    before = stand.everything()
    said: dict[str, Any] = {"type": kind, "amount": 300} | other
    assert stand.ledger.event(opened, said.pop("amount"), **said)["status"] == "quarantined"
    assert stand.everything() == before
    # The withdrawal is still open, and the right event settles it.
    assert tell(stand, opened, kind) == "processed"


def test_withdrawal_events_settle_nothing_else(stand: Stand, asha: Party) -> None:
    deposit = stand.ledger.intend(asha, "key-deposit", 300)["transaction"]["id"]
    ravi = stand.ledger.person("ravi")
    held = stand.hold(asha, ravi, 300)
    before = stand.everything()
    for reference in (deposit, held):
        for kind in (PAID, FAILED):
            assert tell(stand, reference, kind) == "quarantined"
    assert stand.everything() == before


def test_one_movement_at_the_bank_pays_one_withdrawal(stand: Stand, asha: Party) -> None:
    one, other = withdraw(stand, asha, 300, "key-one"), withdraw(stand, asha, 300, "key-other")
    assert tell(stand, one, bank_reference="ref-shared") == "processed"
    again = stand.ledger.event(other, 300, type=PAID, bank_reference="ref-shared")
    assert (again["status"], again["recorded"]) == ("duplicate", "quarantined")
    assert stand.seen(asha, other)["status"] == "Processing"
    assert stand.money(asha) == [(400, 300)]


def test_what_the_bank_never_answers_stays_locked_and_is_counted(stand: Stand, asha: Party) -> None:
    before = unanswered(stand)
    opened, answered = withdraw(stand, asha), withdraw(stand, asha, 100, "key-answered")
    assert unanswered(stand) == before + 2
    assert unanswered(stand, 3600) == unanswered(stand, 10**9) == 0
    tell(stand, answered, PAID, 100)
    stand.owner.pass_days(400)
    assert unanswered(stand, 399 * 24 * 3600) == before + 1
    assert stand.ledger.call("count_unanswered", 0)["oldest"] <= stand.seen(asha, opened)["created_at"]
    stand.ledger.call("sweep_holds", 1000)
    assert (stand.seen(asha, opened)["status"], stand.money(asha)) == ("Processing", [(600, 300)])
    # However late: the bank's word is taken.
    assert tell(stand, opened, FAILED) == "processed"
    assert (unanswered(stand), stand.money(asha)) == (before, [(900, 0)])


def test_refused_withdrawal_is_recorded(stand: Stand, asha: Party) -> None:
    refused = stand.ledger.withdraw(asha, "key-withdraw", 1001)
    failed = refused["transaction"]
    assert (failed["status"], failed["failure"]["code"], failed["payment_url"]) == (
        "Failure",
        "insufficient_funds",
        None,
    )
    assert (failed["balance_after"], failed["wallet_version"]) == (1000, 3)
    stand.ledger.fund(asha, 1000)
    again = stand.ledger.withdraw(asha, "key-withdraw", 1001)
    assert (again["outcome"], again["transaction"]) == ("replayed", failed)
    assert stand.money(asha) == [(2000, 0)]
    assert tell(stand, failed["id"], PAID, 1001) == "quarantined"
    assert tell(stand, failed["id"], FAILED, 1001) == "duplicate"
    assert stand.money(asha) == [(2000, 0)]


def test_key_names_the_withdrawal_for_ever(stand: Stand, asha: Party) -> None:
    made = stand.ledger.withdraw(asha, "key-withdraw", 300)
    stand.ledger.call("open_wallet", asha.person, asha.session, "USD")
    for other in ({"amount": 301}, {"currency": "USD"}, {"bank": "axis"}, {"account": "00123456788"}):
        said: dict[str, Any] = {"amount": 300} | other
        refused = stand.ledger.withdraw(asha, "key-withdraw", said.pop("amount"), **said)
        assert refused == {"outcome": "idempotency_key_reused"}, other
    again = stand.ledger.withdraw(asha, "key-withdraw", 300)
    assert (again["outcome"], again["transaction"]) == ("replayed", made["transaction"])
    assert stand.money(asha) == [(700, 300)]
    tell(stand, made["transaction"]["id"])
    again = stand.ledger.withdraw(asha, "key-withdraw", 300)
    assert (again["outcome"], again["transaction"]["status"]) == ("replayed", "Success")


def test_nobody_makes_wallets_for_a_bank_by_asking(stand: Stand, asha: Party) -> None:
    before = stand.everything()
    assert stand.ledger.withdraw(asha, "key-withdraw", 5, currency="XYZ", bank="evil") == {"outcome": "not_found"}
    assert stand.everything() == before
