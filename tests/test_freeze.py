"""Frozen wallets, in the database functions: what a freeze refuses, and what goes on in spite of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.books import Party
from tests.support.owner import Stand, stand_on
from tests.support.platform import Database

type Act = Callable[[Stand, Party, Party], dict[str, Any]]

# What takes money from the first to the second, at once.
PAYMENTS: dict[str, Act] = {
    "transfer": lambda stand, payer, payee: stand.ledger.transfer(payer, "key-frozen", payee.handle, 10),
    "hold": lambda stand, payer, payee: stand.ledger.hold(payer, "key-frozen", payee.handle, 10),
    "batch": lambda stand, payer, payee: stand.ledger.batch(payer, "key-frozen", [(payee.handle, 10)]),
}


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


@pytest.fixture
def people(stand: Stand) -> tuple[Party, Party]:
    """Two people who have 1000 each."""
    return stand.rich(1000), stand.rich(1000)


def failure(answer: dict[str, Any]) -> str | None:
    """The code of a recorded refusal, of the only item where it is a batch; None where there is none."""
    transaction = answer["items"][0]["transaction"] if "items" in answer else answer["transaction"]
    return str(transaction["failure"]["code"]) if transaction["failure"] else None


@pytest.mark.parametrize("payment", PAYMENTS)
@pytest.mark.parametrize(("payer_side", "payee_side", "refused"), [
    ("debit", None, True), (None, "credit", True), ("debit", "credit", True),
    ("credit", None, False), (None, "debit", False), ("credit", "debit", False),
])  # fmt: skip
def test_payments(
    stand: Stand,
    people: tuple[Party, Party],
    payment: str,
    payer_side: str | None,
    payee_side: str | None,
    refused: bool,
) -> None:
    payer, payee = people
    for party, side in ((payer, payer_side), (payee, payee_side)):
        if side:
            stand.owner.switch(party.handle, **{side: True})
    answer = PAYMENTS[payment](stand, payer, payee)
    assert failure(answer) == ("wallet_frozen" if refused else None)
    if refused:
        assert stand.money(payer, payee) == [(1000, 0), (1000, 0)]
        assert (stand.ledger.wallet(payer)["version"], stand.ledger.wallet(payee)["version"]) == (3, 2)
        # Recorded: the key names the refusal when the wallets have thawed, too.
        for party in people:
            stand.owner.switch(party.handle, debit=False, credit=False)
        again = PAYMENTS[payment](stand, payer, payee)
        assert (again["outcome"], failure(again)) == ("replayed", "wallet_frozen")
        assert failure(stand.ledger.transfer(payer, "key-thawed", payee.handle, 10)) is None


def test_batch_all_or_none(stand: Stand, people: tuple[Party, Party]) -> None:
    payer, payee = people
    frozen = stand.rich(1)
    stand.owner.switch(frozen.handle, credit=True)
    refused = stand.ledger.batch(payer, "key-batch", [(payee.handle, 10), (frozen.handle, 10)], whole=True)
    assert (refused["refused"], [item["code"] for item in refused["items"]]) == (True, [None, "wallet_frozen"])
    each = stand.ledger.batch(payer, "key-each", [(payee.handle, 10), (frozen.handle, 10)])
    assert [item["code"] for item in each["items"]] == [None, "wallet_frozen"]
    assert stand.money(payer, payee, frozen) == [(990, 0), (1010, 0), (1, 0)]


@pytest.mark.parametrize(
    ("who", "side", "refused"), [(0, "debit", True), (1, "credit", True), (0, "credit", False), (1, "debit", False)]
)
def test_captures(stand: Stand, people: tuple[Party, Party], who: int, side: str, refused: bool) -> None:
    """Not recorded: the hold is still there, and the key is free."""
    payer, payee = people
    held = stand.hold(payer, payee, 300)
    stand.owner.switch(people[who].handle, **{side: True})
    before = stand.everything()
    answer = stand.ledger.capture(payee, "key-capture", held)
    if refused:
        assert answer == {"outcome": "wallet_frozen"}
        assert stand.everything() == before
        stand.owner.switch(people[who].handle, **{side: False})
        answer = stand.ledger.capture(payee, "key-capture", held)
    assert (answer["outcome"], stand.money(payer, payee)) == ("made", [(700, 0), (1300, 0)])


@pytest.mark.parametrize("end", ["void", "touched", "swept"])
def test_what_was_held_comes_back(stand: Stand, people: tuple[Party, Party], end: str) -> None:
    """Also to a wallet that takes nothing else."""
    payer, payee = people
    held = stand.hold(payer, payee, 300)
    for party in people:
        stand.owner.switch(party.handle, debit=True, credit=True)
    if end == "void":
        assert stand.ledger.void(payee, "key-void", held)["outcome"] == "made"
    else:
        stand.owner.expire(held)
        if end == "touched":
            assert stand.ledger.capture(payee, "key-late", held)["outcome"] == "expired"
        else:
            assert stand.ledger.call("sweep_holds", 1000)["released"] == 1
    assert stand.money(payer, payee) == [(1000, 0), (1000, 0)]


@pytest.mark.parametrize(
    ("who", "side", "refused"), [(1, "debit", True), (0, "credit", True), (1, "credit", False), (0, "debit", False)]
)
def test_refunds(stand: Stand, people: tuple[Party, Party], who: int, side: str, refused: bool) -> None:
    payer, payee = people
    paid = stand.pay(payer, payee, 300)
    stand.owner.switch(people[who].handle, **{side: True})
    answer = stand.ledger.refund(payee, "key-refund", paid)
    assert failure(answer) == ("wallet_frozen" if refused else None)
    if refused:
        assert stand.money(payer, payee) == [(700, 0), (1300, 0)]
        stand.owner.switch(people[who].handle, **{side: False})
        assert stand.ledger.refund(payee, "key-refund", paid)["outcome"] == "replayed"
        assert failure(stand.ledger.refund(payee, "key-thawed", paid)) is None
    assert stand.money(payer, payee) == [(1000, 0), (1000, 0)]


def test_withdrawals(stand: Stand, people: tuple[Party, Party]) -> None:
    """A new one is refused. One that is under way ends as the bank says: what it has paid, it has paid."""
    asha, _ = people
    opened = [stand.ledger.withdraw(asha, f"key-{number}", 100)["transaction"]["id"] for number in range(2)]
    stand.owner.switch(asha.handle, credit=True)
    assert failure(stand.ledger.withdraw(asha, "key-credit", 100)) is None
    stand.owner.switch(asha.handle, debit=True)
    assert failure(stand.ledger.withdraw(asha, "key-both", 100)) == "wallet_frozen"
    assert stand.money(asha) == [(700, 300)]
    assert stand.ledger.event(opened[0], 100, type="withdrawal.succeeded")["status"] == "processed"
    assert stand.ledger.event(opened[1], 100, type="withdrawal.failed")["status"] == "processed"
    assert stand.money(asha) == [(800, 100)]
    stand.owner.switch(asha.handle, debit=False)
    again = stand.ledger.withdraw(asha, "key-both", 100)
    assert (again["outcome"], failure(again)) == ("replayed", "wallet_frozen")


def test_deposits(stand: Stand, people: tuple[Party, Party]) -> None:
    """None is opened for a wallet that takes no credits. What the bank brings anyway waits for a person."""
    asha, ravi = people
    intents = [stand.ledger.intend(asha, f"key-{number}", 100)["transaction"]["id"] for number in range(2)]
    stand.owner.switch(asha.handle, credit=True)
    stand.owner.switch(ravi.handle, debit=True)
    before = stand.everything()
    assert stand.ledger.intend(asha, "key-frozen", 100) == {"outcome": "wallet_frozen"}
    assert stand.ledger.event(intents[0], 100)["status"] == "quarantined"
    assert stand.everything() == before
    # A replay is no new deposit, and a failure is no credit.
    assert stand.ledger.intend(asha, "key-0", 100)["outcome"] == "replayed"
    assert stand.ledger.event(intents[1], 100, type="deposit.failed")["status"] == "processed"
    assert stand.money(asha) == [(1000, 0)]
    stand.ledger.fund(ravi, 5)
    stand.owner.switch(asha.handle, credit=False)
    assert stand.ledger.intend(asha, "key-frozen", 100)["outcome"] == "made"


def test_frozen_wallet_can_be_read(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, ravi = people
    paid = stand.pay(asha, ravi, 300)
    reads = (stand.ledger.wallet(asha), stand.ledger.history(asha), stand.seen(asha, paid))
    stand.owner.switch(asha.handle, debit=True, credit=True)
    assert (stand.ledger.wallet(asha), stand.ledger.history(asha), stand.seen(asha, paid)) == reads


def test_switch_turns_what_it_names(stand: Stand, people: tuple[Party, Party]) -> None:
    asha, _ = people
    stand.ledger.call("open_wallet", asha.person, asha.session, "USD")

    def state(**switches: bool) -> dict[str, Any]:
        answer = stand.owner.switch(asha.handle, **switches)
        assert answer["outcome"] == "done"
        return {name: answer["wallet"][name] for name in ("debit_frozen", "credit_frozen", "receiving")}

    assert state() == {"debit_frozen": False, "credit_frozen": False, "receiving": False}
    assert state(debit=True) == {"debit_frozen": True, "credit_frozen": False, "receiving": False}
    assert state(credit=True, receiving=True) == {"debit_frozen": True, "credit_frozen": True, "receiving": True}
    assert state(debit=False, receiving=False) == {"debit_frozen": False, "credit_frozen": True, "receiving": False}
    assert stand.owner.switch(asha.handle, "USD")["wallet"]["credit_frozen"] is False, "one currency at a time"
    assert stand.owner.switch(asha.handle, "EUR", debit=True) == {"outcome": "not_found"}
    assert stand.owner.switch("nobody_at_all", debit=True) == {"outcome": "not_found"}
