"""Receiving wallets, in the database functions: credits that need no lock of their row, and everything that folds them in."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.support.books import FULL, Ledger, Party
from tests.support.owner import Stand, changed, stand_on
from tests.support.platform import Database


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


@pytest.fixture
def shop(stand: Stand) -> Party:
    """Somebody with 1000, at version 2, whose wallet receives."""
    party = stand.rich(1000)
    assert stand.owner.switch(party.handle, receiving=True)["wallet"]["receiving"] is True
    return party


@pytest.fixture
def asha(stand: Stand) -> Party:
    """Somebody with 1000."""
    return stand.rich(1000)


def waiting(stand: Stand, party: Party) -> int:
    """How many arrivals are not folded in yet."""
    ((count,),) = stand.owner.rows(
        "SELECT count(*) FROM arrivals JOIN wallets ON id = wallet_id WHERE person_id = %s", party.person
    )
    return int(count)


def shown(stand: Stand, party: Party) -> tuple[int, int]:
    """Available and version, as read."""
    wallet = stand.ledger.wallet(party)
    return wallet["available"], wallet["version"]


CREDITS: dict[str, Callable[[Ledger, Party, Party], dict[str, Any]]] = {
    "transfer": lambda ledger, payer, payee: ledger.transfer(payer, "key-credit", payee.handle, 10),
    "hold": lambda ledger, payer, payee: ledger.hold(payer, "key-credit", payee.handle, 10),
    "batch": lambda ledger, payer, payee: ledger.batch(payer, "key-credit", [(payee.handle, 10)] * 3),
    "batch, all or none": lambda ledger, payer, payee: ledger.batch(
        payer, "key-credit", [(payee.handle, 10)] * 3, whole=True
    ),
}


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("receiving", [True, False])
def test_credit_does_not_wait_for_the_row(
    stand: Stand, asha: Party, database: Database, credit: str, receiving: bool
) -> None:
    """Somebody holds the recipient's row all the while. Without the flag the same payment has to wait."""
    shop = stand.rich(1000)
    stand.owner.switch(shop.handle, receiving=receiving)
    with psycopg.connect(database.url) as blocker, Ledger(database.app_url) as ledger:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR UPDATE", [shop.person])
        ledger.connection.execute("SET lock_timeout = '100ms'")
        if receiving:
            assert CREDITS[credit](ledger, asha, shop)["outcome"] == "made"
            assert waiting(stand, shop) == (3 if "batch" in credit else 1)
        else:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                CREDITS[credit](ledger, asha, shop)
    if receiving:
        assert shown(stand, shop) == {"transfer": (1010, 3), "hold": (1000, 3)}.get(credit, (1030, 5))


def test_what_arrives_is_in_every_read(stand: Stand, asha: Party, shop: Party) -> None:
    paid = [stand.pay(asha, shop, amount, f"key-{amount}") for amount in (10, 20)]
    [wallet] = stand.ledger.call("read_wallets", shop.person, shop.session)["wallets"]
    assert (wallet["available"], wallet["version"]) == (1030, 4)
    paid.append(stand.pay(asha, shop, 30, "key-30"))
    assert waiting(stand, shop) >= 1
    read = stand.ledger.call("read_wallet", shop.person, shop.session, "INR")
    assert (read["wallet"]["available"], read["wallet"]["total"], read["wallet"]["version"]) == (1060, 1060, 5)
    assert read["keep"] is False, "it changes too fast to be kept"
    [wallet] = stand.ledger.call("read_wallets", shop.person, shop.session)["wallets"]
    assert stand.ledger.call("open_wallet", shop.person, shop.session, "INR")["wallet"] == wallet == read["wallet"]
    assert wallet["as_of"] >= stand.seen(asha, paid[-1])["created_at"]
    received = stand.seen(shop, paid[1])
    assert (received["direction"], received["balance_after"], received["wallet_version"]) == ("in", 1030, 4)
    assert shown(stand, shop) == (1060, 5)
    last = stand.pay(asha, shop, 40, "key-last")
    history = stand.ledger.call("read_history", shop.person, shop.session, "INR", FULL, 10, None, None, None, None)
    assert (history["version"], history["keep"]) == (6, False)
    lines = [(one["id"], one["balance_after"], one["wallet_version"]) for one in history["page"]["data"][:4]]
    assert lines == [(last, 1100, 6), (paid[2], 1060, 5), (paid[1], 1030, 4), (paid[0], 1010, 3)]
    assert stand.seen(shop, paid[1]) == received


def test_payment_to_a_receiving_wallet_tells_the_payer_nothing_of_it(stand: Stand, asha: Party, shop: Party) -> None:
    made = stand.ledger.transfer(asha, "key-pay", shop.handle, 10)
    assert made["transaction"]["balance_after"] == 990
    assert changed(made)[str(asha.person)] == stand.ledger.wallet(asha)


DEBITS: dict[str, Callable[[Stand, Party, Party], dict[str, Any]]] = {
    "transfer": lambda stand, shop, asha: stand.ledger.transfer(shop, "key-debit", asha.handle, 1060),
    "hold": lambda stand, shop, asha: stand.ledger.hold(shop, "key-debit", asha.handle, 1060),
    "withdrawal": lambda stand, shop, asha: stand.ledger.withdraw(shop, "key-debit", 1060),
    "batch": lambda stand, shop, asha: stand.ledger.batch(shop, "key-debit", [(asha.handle, 1000), (asha.handle, 60)])[
        "items"
    ][1],
    "refund": lambda stand, shop, asha: stand.ledger.refund(
        shop, "key-debit", stand.pay(stand.rich(5000), shop, 1060, "key-big")
    ),
}


@pytest.mark.parametrize("debit", DEBITS)
def test_what_arrived_can_be_spent_at_once(stand: Stand, asha: Party, shop: Party, debit: str) -> None:
    """All of it: the debit folds in first, in the order of arrival."""
    for amount in (10, 20, 30):
        stand.pay(asha, shop, amount, f"key-{amount}")
    assert waiting(stand, shop) == 3
    spent = DEBITS[debit](stand, shop, asha)["transaction"]
    assert spent["failure"] is None
    version = 8 if debit == "batch" else 7
    if debit == "refund":
        assert shown(stand, shop) == (1060, 7)  # what the payment to be refunded brought has gone back
    else:
        assert (spent["balance_after"], spent["wallet_version"]) == (0, version - 1)
        assert shown(stand, shop) == (0, version - 1)
    assert waiting(stand, shop) == 0
    entries = stand.owner.rows(
        "SELECT available_delta FROM entries JOIN wallets ON id = wallet_id WHERE person_id = %s ORDER BY seq",
        shop.person,
    )
    assert [delta for (delta,) in entries][2:5] == [10, 20, 30]


def test_holds_for_a_receiving_wallet(stand: Stand, asha: Party, shop: Party) -> None:
    one, two, three = (stand.hold(asha, shop, 100, f"key-{number}") for number in range(3))
    assert waiting(stand, shop) == 3
    assert stand.money(asha, shop) == [(700, 300), (1000, 0)]
    captured = stand.ledger.capture(shop, "key-capture", one, 60)["transaction"]
    assert (captured["balance_after"], captured["wallet_version"]) == (1060, 6)
    stand.ledger.void(shop, "key-void", two)
    stand.owner.expire(three)
    stand.pay(asha, shop, 5, "key-between")
    assert stand.ledger.call("sweep_holds", 1000)["released"] == 1
    assert stand.money(asha, shop) == [(935, 0), (1065, 0)]
    assert [one["wallet_version"] for one in stand.ledger.history(shop)["data"]] == [8, 9, 7, 6, 2]
    assert shown(stand, shop) == (1065, 9)


def test_schedule_folds_in(stand: Stand, asha: Party, shop: Party, database: Database) -> None:
    """In portions, from whoever has something waiting, past a row that somebody holds; and no reader can tell."""
    while stand.ledger.call("fold_arrivals", 100)["folded"]:
        pass  # what the tests before have left
    for number in range(5):
        stand.pay(asha, shop, 10, f"key-{number}")
    with psycopg.connect(database.url) as blocker:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [shop.person])
        assert stand.ledger.call("fold_arrivals", 100) == {"folded": 0}
    for folded, left in ((2, 3), (2, 1), (1, 0), (0, 0)):
        assert stand.ledger.call("fold_arrivals", 2) == {"folded": folded}
        assert waiting(stand, shop) == left
    assert shown(stand, shop) == (1050, 7)
    assert [line["balance_after"] for line in stand.ledger.history(shop)["data"][:5]] == [1050, 1040, 1030, 1020, 1010]
    stand.pay(asha, shop, 10, "key-after")
    assert shown(stand, shop) == (1060, 8)


def test_replays_do_not_arrive_twice(stand: Stand, asha: Party, shop: Party) -> None:
    for _ in range(3):
        stand.ledger.transfer(asha, "key-pay", shop.handle, 10)
        stand.ledger.batch(asha, "key-batch", [(shop.handle, 10)])
    assert shown(stand, shop) == (1020, 4)
    stand.ledger.call("fold_arrivals", 100)
    again = stand.ledger.transfer(asha, "key-pay", shop.handle, 10)
    assert (again["outcome"], shown(stand, shop)) == ("replayed", (1020, 4))


@pytest.mark.parametrize("side", ["credit", "debit"])
def test_freezes_hold_for_it_too(stand: Stand, asha: Party, shop: Party, side: str) -> None:
    stand.owner.switch(shop.handle, **{side: True})
    paid = stand.ledger.transfer(asha, "key-pay", shop.handle, 10)["transaction"]["failure"]
    spent = stand.ledger.transfer(shop, "key-spend", asha.handle, 10)["transaction"]["failure"]
    assert [failure and failure["code"] for failure in (paid, spent)] == [
        "wallet_frozen" if side == frozen else None for frozen in ("credit", "debit")
    ]


def test_flag_goes_on_and_off(stand: Stand, asha: Party, shop: Party) -> None:
    """The version rises by one with every change, and by nothing else."""
    seen = [shown(stand, shop)]
    for number, flag in enumerate((True, False, True, True, False, False, True)):
        stand.owner.switch(shop.handle, receiving=flag)
        assert shown(stand, shop) == seen[-1]
        assert waiting(stand, shop) == 0 or flag
        stand.pay(asha, shop, 10, f"key-{number}")
        assert waiting(stand, shop) > 0 or not flag
        seen.append(shown(stand, shop))
    assert seen == [(1000 + 10 * number, 2 + number) for number in range(8)]
    stand.pay(shop, asha, 1070, "key-all")


def test_flag_goes_off_while_a_payment_is_under_way(stand: Stand, asha: Party, shop: Party, database: Database) -> None:
    """What was decided under the flag and committed after it: seen, spendable, and never at a version twice."""
    with Ledger(database.app_url) as late:
        late.connection.execute("BEGIN")
        late.transfer(asha, "key-late", shop.handle, 100)
        # The operator may have to wait for the payment, or not.
        switching = threading.Thread(target=lambda: stand.owner.switch(shop.handle, receiving=False))
        switching.start()
        switching.join(0.2)
        late.connection.execute("COMMIT")
        switching.join()
    assert shown(stand, shop) == (1100, 3)
    made = stand.ledger.transfer(stand.rich(10), "key-next", shop.handle, 10)
    told = changed(made).get(str(shop.person))
    assert told is None or (told["available"], told["version"]) == (1110, 4)
    assert shown(stand, shop) == (1110, 4)
    assert stand.ledger.batch(shop, "key-spend", [(asha.handle, 1110)])["items"][0]["code"] is None
    assert shown(stand, shop) == (0, 5)


def test_flag_goes_off_while_a_batch_waits(stand: Stand, asha: Party, shop: Party, database: Database) -> None:
    """The batch counted on not needing the row, which is now written to by others."""
    ravi, payer = stand.ledger.person("ravi"), stand.rich(10)
    answers: list[dict[str, Any]] = []
    with psycopg.connect(database.url) as blocker, Ledger(database.app_url) as one, Ledger(database.app_url) as other:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [ravi.person])
        items = [(shop.handle, 100), (ravi.handle, 100)]
        paying = threading.Thread(target=lambda: answers.append(one.batch(asha, "key-batch", items)))
        paying.start()
        stand.owner.wait_for_waiting()
        switching = threading.Thread(target=lambda: stand.owner.switch(shop.handle, receiving=False))
        switching.start()
        switching.join(0.1)
        other.connection.execute("BEGIN")
        other.transfer(payer, "key-other", shop.handle, 10)
        blocker.rollback()
        paying.join(0.1)
        other.connection.execute("COMMIT")
        paying.join()
        switching.join()
    assert [item["code"] for item in answers[0]["items"]] == [None, None]
    assert shown(stand, shop) == (1110, 4)
    assert stand.money(asha, ravi) == [(800, 0), (100, 0)]


def test_large_credits_go_the_ordinary_way(stand: Stand, shop: Party) -> None:
    """So that a balance stays exact with whatever has arrived."""
    payer = stand.rich(10**13)
    stand.pay(payer, shop, 10**12, "key-large")
    assert waiting(stand, shop) == 1
    stand.pay(payer, shop, 10**12 + 1, "key-larger")
    assert shown(stand, shop) == (1000 + 2 * 10**12 + 1, 4)
    both = [(shop.handle, 1), (shop.handle, 10**12 + 1), (shop.handle, 1)]
    assert [item["code"] for item in stand.ledger.batch(payer, "key-both", both)["items"]] == [None] * 3
    assert shown(stand, shop) == (1000 + 3 * 10**12 + 4, 7)
    stand.ledger.fund(shop, FULL - 4 * 10**12)
    full = stand.ledger.transfer(payer, "key-full", shop.handle, 10**12)
    assert full["limit"]["name"] == "recipient_balance"


def test_money_from_the_bank_and_refunds_come_in_too(stand: Stand, asha: Party, shop: Party) -> None:
    stand.pay(asha, shop, 10, "key-before")
    stand.ledger.fund(shop, 100)
    paid = stand.pay(shop, asha, 50, "key-to-asha")
    stand.pay(asha, shop, 10, "key-between")
    assert stand.ledger.refund(asha, "key-refund", paid)["transaction"]["status"] == "Success"
    assert shown(stand, shop) == (1120, 8)


def test_undone_batch_leaves_nothing_at_the_door(stand: Stand, asha: Party, shop: Party) -> None:
    before = stand.everything()
    undone = stand.ledger.batch(asha, "key-batch", [(shop.handle, 10), (shop.handle, 10_000)], whole=True)
    assert undone["refused"] is True
    assert [line for line in stand.everything() if line[0] != "batches"] == [
        line for line in before if line[0] != "batches"
    ]


def test_arrivals_cannot_be_changed(stand: Stand, asha: Party, shop: Party) -> None:
    stand.pay(asha, shop, 10, "key-pay")
    for statement in ("UPDATE arrivals SET amount = 11", "TRUNCATE arrivals"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            stand.owner.connection.execute(statement.encode())
    for statement in ("DELETE FROM okane.arrivals", "INSERT INTO okane.arrivals (amount) SELECT 1"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stand.ledger.connection.execute(statement.encode())
