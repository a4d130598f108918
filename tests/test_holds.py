"""Holds, in the database functions: what is held, captured, given back and refused, by whom, and until when exactly."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from okane_common import ids
from tests.support.books import FULL, TRANSFER, Ledger, Party
from tests.support.owner import Stand, changed, stand_on
from tests.support.platform import Database

type Resolve = Callable[[Ledger, Party, str, object], dict[str, Any]]


def capture(ledger: Ledger, who: Party, key: str, hold: object) -> dict[str, Any]:
    return ledger.capture(who, key, hold)


def void(ledger: Ledger, who: Party, key: str, hold: object) -> dict[str, Any]:
    return ledger.void(who, key, hold)


both_ways = pytest.mark.parametrize("resolve", [capture, void])


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def lines(stand: Stand, who: Party) -> list[tuple[Any, ...]]:
    """The wallet's entries: what each changed, and the balances after it."""
    return stand.owner.rows(
        "SELECT available_delta, locked_delta, available_after, locked_after, opening FROM entries JOIN wallets ON id = wallet_id"
        " WHERE person_id = %s ORDER BY seq",
        who.person,
    )


def test_hold_says_exactly_what_happened(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    made = stand.ledger.hold(asha, "key-hold", ravi.handle, 300, seconds=90, note="table for two")
    transaction = made["transaction"]
    at = transaction["created_at"]
    assert transaction | {"counterparty": ""} == {
        "id": str(ids.transfer_id(asha.person, TRANSFER, "key-hold")),
        "kind": "transfer",
        "direction": "out",
        "status": "Processing",
        "amount": 300,
        "currency": "INR",
        "counterparty": "",
        "note": "table for two",
        "refunded_amount": None,
        "captured_amount": None,
        "balance_after": 700,
        "wallet_version": 3,
        "failure": None,
        "created_at": at,
        "completed_at": None,
        "expires_at": transaction["expires_at"],
        "payment_url": None,
        "refund_of": None,
    }
    assert (moment(transaction["expires_at"]) - moment(at)).total_seconds() == 90
    payer = {"currency": "INR", "available": 700, "locked": 300, "total": 1000, "version": 3, "as_of": at}
    payee = {"currency": "INR", "available": 0, "locked": 0, "total": 0, "version": 1, "as_of": at}
    assert [stand.ledger.wallet(asha), stand.ledger.wallet(ravi)] == [payer, payee]
    assert changed(made) == stand.wallets(asha, ravi)
    assert stand.ledger.history(asha)["data"][0] == transaction == stand.seen(asha, transaction["id"])
    [received] = stand.ledger.history(ravi)["data"]
    assert received == stand.seen(ravi, transaction["id"])
    assert (received["direction"], received["status"], received["balance_after"]) == ("in", "Processing", 0)
    assert received["expires_at"] == transaction["expires_at"]


def test_capture_takes_the_whole(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    captured = stand.ledger.capture(ravi, "key-capture", held)
    assert captured["outcome"] == "made"
    mine = captured["transaction"]
    assert (mine["status"], mine["direction"], mine["amount"], mine["captured_amount"]) == ("Success", "in", 300, 300)
    assert (mine["refunded_amount"], mine["balance_after"], mine["wallet_version"]) == (0, 300, 2)
    assert (mine["failure"], mine["completed_at"] is None) == (None, False)
    assert mine["counterparty"] == {"handle": asha.handle, "name": "asha"}
    assert changed(captured) == stand.wallets(asha, ravi)
    assert stand.money(asha, ravi) == [(700, 0), (300, 0)]
    theirs = stand.seen(asha, held)
    assert (theirs["balance_after"], theirs["wallet_version"], theirs["captured_amount"]) == (700, 4, 300)
    assert mine == stand.seen(ravi, held)
    # A transfer is one line of a history, however often it has changed.
    assert [one["id"] for one in stand.ledger.history(asha)["data"]].count(held) == 1
    assert stand.ledger.history(ravi)["data"] == [mine]
    assert lines(stand, asha)[2:] == [(-300, 300, 700, 300, True), (0, -300, 700, 0, False)]
    assert lines(stand, ravi) == [(0, 0, 0, 0, True), (300, 0, 300, 0, False)]


@pytest.mark.parametrize("amount", [1, 120, 299, 300])
def test_capture_takes_a_part_and_the_rest_goes_back(stand: Stand, amount: int) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    mine = stand.ledger.capture(ravi, "key-capture", held, amount)["transaction"]
    assert (mine["status"], mine["amount"], mine["captured_amount"]) == ("Success", 300, amount)
    assert stand.money(asha, ravi) == [(1000 - amount, 0), (amount, 0)]
    assert lines(stand, asha)[-1] == (300 - amount, -300, 1000 - amount, 0, False)


def test_void_gives_it_all_back(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    mine = stand.ledger.void(ravi, "key-void", held)["transaction"]
    assert (mine["status"], mine["failure"]["code"], mine["captured_amount"]) == ("Failure", "voided", None)
    assert (mine["balance_after"], mine["refunded_amount"]) == (0, None)
    assert stand.money(asha, ravi) == [(1000, 0), (0, 0)]
    theirs = stand.seen(asha, held)
    assert (theirs["status"], theirs["failure"]["code"], theirs["balance_after"]) == ("Failure", "voided", 1000)


@pytest.mark.parametrize("first", [capture, void])
@pytest.mark.parametrize("second", [capture, void])
def test_hold_ends_once(stand: Stand, first: Resolve, second: Resolve) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    made = first(stand.ledger, ravi, "key-first", held)
    before = stand.everything()
    refused = second(stand.ledger, ravi, "key-second", held)
    assert refused["outcome"] == "ended"
    if first is second:
        replayed = second(stand.ledger, ravi, "key-first", held)
        assert (replayed["outcome"], replayed["transaction"]) == ("replayed", made["transaction"])
    else:  # the key of a capture is not the key of a void
        assert second(stand.ledger, ravi, "key-first", held)["outcome"] == "ended"
    stand.owner.expire(held)
    assert stand.ledger.call("sweep_holds", 1000)["released"] == 0
    assert [line for line in stand.everything() if held not in line[1]] == [
        line for line in before if held not in line[1]
    ]


def test_key_of_a_capture_names_it_for_ever(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held, other = stand.hold(asha, ravi), stand.hold(asha, ravi, key="key-other")
    made = stand.ledger.capture(ravi, "key-capture", held, 100)
    stand.ledger.transfer(ravi, "key-onward", asha.handle, 100)
    stand.ledger.refund(ravi, "key-refund", held, 50)  # fails: the money has gone on
    before = stand.everything()
    again = stand.ledger.capture(ravi, "key-capture", held, 100)
    assert (again["outcome"], again["transaction"]) == ("replayed", made["transaction"])
    for hold_id, amount in ((held, None), (held, 101), (held, 300), (other, 100), (uuid.uuid4(), 100)):
        assert stand.ledger.capture(ravi, "key-capture", hold_id, amount) == {"outcome": "idempotency_key_reused"}
    assert stand.everything() == before
    # Somebody else's key of the same name is another one.
    assert stand.ledger.capture(asha, "key-capture", other)["outcome"] == "forbidden"
    assert stand.ledger.capture(ravi, "key-again", other)["outcome"] == "made"


def test_key_of_a_hold_names_it_whatever_became_of_it(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi, seconds=3600)
    for seconds in (3599, 60, 7 * 24 * 3600):
        longer = stand.ledger.hold(asha, "key-hold", ravi.handle, 300, seconds=seconds)
        assert longer == {"outcome": "idempotency_key_reused"}
    assert stand.ledger.transfer(asha, "key-hold", ravi.handle, 300) == {"outcome": "idempotency_key_reused"}
    stand.ledger.transfer(asha, "key-plain", ravi.handle, 5)
    assert stand.ledger.hold(asha, "key-plain", ravi.handle, 5) == {"outcome": "idempotency_key_reused"}
    assert stand.ledger.hold(asha, "key-hold", ravi.handle, 300)["transaction"]["status"] == "Processing"
    stand.ledger.capture(ravi, "key-capture", held, 1)
    again = stand.ledger.hold(asha, "key-hold", ravi.handle, 300)
    assert (again["outcome"], again["transaction"]) == ("replayed", stand.seen(asha, held))
    assert again["transaction"]["captured_amount"] == 1


def test_more_than_is_held_is_not_captured(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    before = stand.everything()
    for amount in (301, 1000, FULL):
        refused = stand.ledger.capture(ravi, "key-capture", held, amount)
        assert refused == {"outcome": "capture_exceeds_hold", "held": 300}
    assert stand.everything() == before
    # Nothing was recorded, so the key is still free.
    assert stand.ledger.capture(ravi, "key-capture", held, 300)["outcome"] == "made"


@both_ways
def test_only_the_recipient_resolves(stand: Stand, resolve: Resolve) -> None:
    asha, ravi, zoe = stand.rich(1000), stand.ledger.person("ravi"), stand.rich(1000)
    held = stand.hold(asha, ravi)
    stand.hold(asha, zoe, 10, "key-for-zoe")  # the recipient of another hold of hers
    paid = stand.ledger.transfer(asha, "key-paid", ravi.handle, 10)["transaction"]["id"]
    refund = stand.ledger.refund(ravi, "key-refund", paid)["transaction"]["id"]
    deposit = stand.ledger.history(zoe)["data"][-1]["id"]
    withdrawal = stand.ledger.withdraw(asha, "key-withdraw", 10)["transaction"]["id"]
    before = stand.everything()
    for who, transfer, answer in (
        (asha, held, "forbidden"),
        (zoe, held, "not_found"),
        (asha, paid, "forbidden"),
        (ravi, paid, "ended"),  # it never was a hold, and he may know of it
        (zoe, paid, "not_found"),
        (asha, refund, "not_found"),
        (ravi, refund, "not_found"),
        (zoe, deposit, "not_found"),
        (asha, withdrawal, "not_found"),
        (ravi, uuid.uuid4(), "not_found"),
    ):
        assert resolve(stand.ledger, who, "key-resolve", transfer)["outcome"] == answer, (who.handle, transfer)
    stranger = Party(ravi.person, uuid.uuid4(), ravi.handle)
    assert resolve(stand.ledger, stranger, "key-resolve", held) == {"outcome": "session_ended"}
    assert stand.everything() == before


def test_refused_hold_is_recorded_for_its_sender_alone(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    refused = stand.ledger.hold(asha, "key-hold", ravi.handle, 1001)
    transaction = refused["transaction"]
    assert (transaction["status"], transaction["failure"]["code"]) == ("Failure", "insufficient_funds")
    assert stand.money(asha, ravi) == [(1000, 0), (0, 0)]
    assert stand.ledger.wallet(ravi)["version"] == 0
    stand.ledger.fund(asha, 1000)
    again = stand.ledger.hold(asha, "key-hold", ravi.handle, 1001)
    assert (again["outcome"], again["transaction"]) == ("replayed", transaction)
    # To its recipient it looks as if it had never been.
    assert stand.read(ravi, transaction["id"]) == {"outcome": "not_found"}
    for resolve in (capture, void):
        assert resolve(stand.ledger, ravi, "key-resolve", transaction["id"]) == {"outcome": "not_found"}
    assert stand.ledger.refund(ravi, "key-refund", transaction["id"]) == {"outcome": "not_found"}


def test_what_is_held_cannot_be_spent(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi, 900)
    for refused in (
        stand.ledger.transfer(asha, "key-pay", ravi.handle, 101),
        stand.ledger.hold(asha, "key-hold-more", ravi.handle, 101),
        stand.ledger.withdraw(asha, "key-withdraw", 101),
        stand.ledger.batch(asha, "key-batch", [(ravi.handle, 101)])["items"][0],
    ):
        assert refused["transaction"]["failure"]["code"] == "insufficient_funds"
    # What is held for him is not his yet.
    assert stand.ledger.transfer(ravi, "key-pay", asha.handle, 1)["transaction"]["status"] == "Failure"
    assert stand.ledger.transfer(asha, "key-rest", ravi.handle, 100)["transaction"]["balance_after"] == 0
    stand.ledger.void(ravi, "key-void", held)
    assert stand.ledger.transfer(asha, "key-pay-now", ravi.handle, 900)["transaction"]["balance_after"] == 0


def test_holds_beside_each_other_end_on_their_own(stand: Stand) -> None:
    asha, ravi, zoe = stand.rich(1000), stand.ledger.person("ravi"), stand.ledger.person("zoe")
    one, two, three = (
        stand.hold(asha, payee, amount, f"key-{amount}") for payee, amount in ((ravi, 100), (zoe, 200), (ravi, 400))
    )
    back = stand.hold(stand.rich(50), asha, 50, "key-other-way")
    assert stand.money(asha) == [(300, 700)]
    stand.ledger.capture(zoe, "key-two", two, 150)
    assert stand.money(asha) == [(350, 500)]
    stand.ledger.void(ravi, "key-three", three)
    assert stand.money(asha) == [(750, 100)]
    stand.ledger.capture(asha, "key-back", back)
    stand.ledger.capture(ravi, "key-one", one)
    assert stand.money(asha, ravi, zoe) == [(800, 0), (100, 0), (150, 0)]


def test_full_wallet_captures_nothing(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    stand.ledger.fund(ravi, FULL - 100)
    before = stand.everything()
    refused = stand.ledger.capture(ravi, "key-capture", held)
    assert refused["outcome"] == "limit_exceeded"
    assert refused["limit"] == {"name": "recipient_balance", "used": None, "cap": FULL, "resets_at": None}
    assert stand.everything() == before
    assert stand.ledger.capture(ravi, "key-capture", held, 100)["outcome"] == "made"
    assert stand.money(asha, ravi) == [(900, 0), (FULL, 0)]


# Time


@both_ways
def test_too_late_without_any_sweep(stand: Stand, resolve: Resolve) -> None:
    """Whoever touches it next releases it."""
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi)
    stand.owner.expire(held)
    late = resolve(stand.ledger, ravi, "key-late", held)
    assert late["outcome"] == "expired"
    assert changed(late) == stand.wallets(asha, ravi)
    assert stand.money(asha, ravi) == [(1000, 0), (0, 0)]
    for party in (asha, ravi):
        found = stand.seen(party, held)
        assert (found["status"], found["failure"]["code"], found["captured_amount"]) == ("Failure", "expired", None)
        assert found["completed_at"] >= found["expires_at"]
    before = stand.everything()
    for again in (capture, void):
        assert again(stand.ledger, ravi, "key-late", held)["outcome"] == "ended"
    assert stand.ledger.call("sweep_holds", 1000)["released"] == 0
    assert stand.everything() == before


def test_time_is_up_for_whoever_waited_too_long(stand: Stand, database: Database) -> None:
    """Asked for in time, but behind a lock until the hold's time was over; and no sweep ran."""
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held = stand.hold(asha, ravi, seconds=1)
    answers: list[dict[str, Any]] = []
    with psycopg.connect(database.url) as blocker, Ledger(database.app_url) as other:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [asha.person])
        asking = threading.Thread(target=lambda: answers.append(other.capture(ravi, "key-capture", held)))
        asking.start()
        while stand.owner.rows(
            "SELECT FROM transfers WHERE id = %s AND expires_at > clock_timestamp()", uuid.UUID(held)
        ):
            assert not answers
            time.sleep(0.02)
        blocker.rollback()
        asking.join()
    assert answers[0]["outcome"] == "expired"
    assert stand.money(asha, ravi) == [(1000, 0), (0, 0)]
    # The key still names the hold, in the state that it came to.
    replayed = stand.ledger.hold(asha, "key-hold", ravi.handle, 300, seconds=1)
    assert (replayed["outcome"], replayed["transaction"]["failure"]["code"]) == ("replayed", "expired")


def test_sweep_releases_what_is_over_and_nothing_else(stand: Stand) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    over = [stand.hold(asha, ravi, 100, f"key-over-{number}") for number in range(3)]
    stand.hold(asha, ravi, 50, "key-running")
    stand.ledger.withdraw(asha, "key-withdraw", 20)
    intent = stand.ledger.intend(asha, "key-deposit", 5)["transaction"]["id"]
    stand.owner.expire(intent)  # what a bank may still settle is no hold
    for held in reversed(over):
        stand.owner.expire(held)
    assert stand.money(asha) == [(630, 370)]
    swept = stand.ledger.call("sweep_holds", 1)
    assert swept["released"] == 1
    assert stand.seen(asha, over[-1])["status"] == "Failure", "the oldest first"
    assert changed(swept) == stand.wallets(asha, ravi)
    assert stand.ledger.call("sweep_holds", 1000)["released"] == 2
    assert stand.ledger.call("sweep_holds", 1000) == {"released": 0, "changed": []}
    assert stand.money(asha, ravi) == [(930, 70), (0, 0)]
    assert {stand.seen(ravi, held)["failure"]["code"] for held in over} == {"expired"}


@pytest.mark.parametrize("side", ["payer", "payee"])
def test_sweep_waits_for_nobody(stand: Stand, database: Database, side: str) -> None:
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    held, free = stand.hold(asha, ravi), stand.hold(stand.rich(100), stand.rich(1), 100, "key-free")
    stand.owner.expire(held)
    stand.owner.expire(free)
    with psycopg.connect(database.url) as blocker:
        whose = {"payer": asha, "payee": ravi}[side].person
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [whose])
        assert stand.ledger.call("sweep_holds", 1000)["released"] == 1
        assert stand.seen(asha, held)["status"] == "Processing"
    assert stand.ledger.call("sweep_holds", 1000)["released"] == 1
    assert stand.money(asha) == [(1000, 0)]


# Who is who


def test_sweep_goes_past_a_busy_wallet(stand: Stand, database: Database) -> None:
    """Many holds behind one locked row keep nobody else's from their owner, and keep no row of those they pass."""
    busy, asha, ravi = stand.rich(), stand.rich(), stand.ledger.person("ravi")
    behind = [stand.hold(asha, busy, 10, f"key-behind-{number}") for number in range(5)]
    free = stand.hold(asha, ravi, 10, "key-free")
    for hold in (*behind, free):
        stand.owner.expire(hold)
    with psycopg.connect(database.url) as blocker, psycopg.connect(database.app_url) as sweeper:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [busy.person])
        ((swept,),) = sweeper.execute("SELECT okane.sweep_holds(1)").fetchall()
        assert swept["released"] == 1
        sweeper.commit()
        ((swept,),) = sweeper.execute("SELECT okane.sweep_holds(1)").fetchall()
        assert swept["released"] == 0
        # The sweep has not ended its transaction, and still asha's row is free.
        with psycopg.connect(database.url) as other:
            other.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE NOWAIT", [asha.person])
    assert stand.ledger.call("sweep_holds", 100)["released"] == len(behind)


def test_a_hold_is_no_way_around_the_mask(stand: Stand) -> None:
    """It costs nothing: the name is for those who have paid."""
    asha, ravi = stand.rich(1000), stand.ledger.person("ravi")
    stand.ledger.call("change_profile", ravi.person, ravi.session, "Ravi Kumar", None)
    held = stand.ledger.hold(asha, "key-hold", ravi.handle, 1)["transaction"]
    assert held["counterparty"] == {"handle": ravi.handle, "name": "Ra*** K."}
    assert stand.ledger.history(asha)["data"][0]["counterparty"]["name"] == "Ra*** K."
    stand.ledger.capture(ravi, "key-capture", held["id"])
    assert stand.seen(asha, held["id"])["counterparty"]["name"] == "Ravi Kumar"
