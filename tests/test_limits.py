"""Limits, in the database functions: what counts, until when, what is given back, and what a refusal says about it.

Each test has a currency to itself, and so its own limits. Days pass by making all that happened older.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from string import ascii_uppercase
from typing import Any

import pytest

from tests.support.books import Party
from tests.support.owner import Stand, away_from_midnight, stand_on
from tests.support.platform import Database

CURRENCIES = ("".join(letters) for letters in itertools.product(ascii_uppercase, repeat=3))
KINDS = ("transfer", "hold", "withdrawal", "batch")
every_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Limited:
    """The books in a currency of its own: Asha has 10,000 in it, Ravi nothing."""

    stand: Stand
    currency: str
    asha: Party
    ravi: Party
    payments: int = 0

    def set(self, **caps: int) -> None:
        self.stand.owner.limit(self.currency, **caps)

    def pay(self, amount: int, kind: str = "transfer", payee: Party | None = None, key: str = "") -> dict[str, Any]:
        """Pay Ravi, or somebody else, or take it out; `{"id", "code", "limit"}` of what came of it."""
        self.payments += 1
        ledger, key = self.stand.ledger, key or f"key-{self.payments:05}"
        to = (payee or self.ravi).handle
        match kind:
            case "transfer":
                made = ledger.transfer(self.asha, key, to, amount, self.currency)
            case "hold":
                made = ledger.hold(self.asha, key, to, amount, seconds=7 * 24 * 3600, currency=self.currency)
            case "withdrawal":
                made = ledger.withdraw(self.asha, key, amount, currency=self.currency)
            case _:
                [made] = ledger.batch(self.asha, key, [(to, amount)], currency=self.currency)["items"]
        failure = made["transaction"]["failure"]
        found = {"id": made["transaction"]["id"], "code": failure and failure["code"], "limit": made["limit"]}
        assert (found["code"] == "limit_exceeded") == (found["limit"] is not None), found
        return found

    def passes(self, amount: int, kind: str = "transfer", payee: Party | None = None) -> str:
        """The id of a payment that must go through."""
        paid = self.pay(amount, kind, payee)
        assert paid["code"] is None, paid
        return str(paid["id"])

    def refused(self, amount: int, kind: str = "transfer", payee: Party | None = None) -> dict[str, Any]:
        """What the limit says that must refuse it."""
        before = self.stand.ledger.wallet(self.asha, self.currency)
        paid = self.pay(amount, kind, payee)
        assert paid["code"] == "limit_exceeded", paid
        now = self.stand.ledger.wallet(self.asha, self.currency)
        assert now | {"as_of": "", "version": 0} == before | {"as_of": "", "version": 0}
        limit: dict[str, Any] = paid["limit"]
        return limit


@pytest.fixture
def books(database: Database) -> Iterator[Limited]:
    away_from_midnight()
    with stand_on(database) as stand:
        currency = next(CURRENCIES)
        yield Limited(stand, currency, stand.rich(10_000, currency), stand.ledger.person("ravi", currency))


def midnight(days: int = 1) -> str:
    """The start of a day, counted from today, as the API writes it."""
    return f"{datetime.now(UTC).date() + timedelta(days=days)}T00:00:00.000Z"


def says(name: str, used: int, cap: int, resets_at: str | None) -> dict[str, Any]:
    return {"name": name, "used": used, "cap": cap, "resets_at": resets_at}


# The limits, one by one


@every_kind
def test_largest_payment(books: Limited, kind: str) -> None:
    books.set(payment=100)
    assert books.refused(101, kind) == says("payment", 0, 100, None)
    books.passes(100, kind)
    assert books.refused(101, kind) == says("payment", 0, 100, None)


@every_kind
@pytest.mark.parametrize("last", KINDS)
def test_a_days_amount(books: Limited, kind: str, last: str) -> None:
    """Whatever leaves the wallet counts together."""
    books.set(day_amount=100)
    books.passes(95, kind)
    assert books.refused(6, last) == says("day_amount", 95, 100, midnight())
    books.passes(5, last)
    assert books.refused(1, kind) == says("day_amount", 100, 100, midnight())


@every_kind
def test_a_days_count(books: Limited, kind: str) -> None:
    books.set(day_count=2)
    books.passes(1, kind)
    books.passes(1, kind)
    assert books.refused(1, kind) == says("day_count", 2, 2, midnight())


@every_kind
def test_thirty_days_amount_and_count(books: Limited, kind: str) -> None:
    books.set(month_amount=100, month_count=3)
    books.passes(60, kind)
    books.stand.owner.pass_days(10)
    books.passes(30, kind)
    assert books.refused(11, kind) == says("month_amount", 90, 100, midnight(20))
    books.passes(10, kind)
    # The count is looked at after the amount.
    books.set(month_count=3)
    assert books.refused(1, kind) == says("month_count", 3, 3, midnight(20))


def test_refusals_are_recorded_and_replayed(books: Limited) -> None:
    books.set(day_amount=100)
    first = books.pay(101, key="key-refused")
    books.set(day_amount=1000)
    again = books.stand.ledger.transfer(books.asha, "key-refused", books.ravi.handle, 101, books.currency)
    assert (again["outcome"], again["transaction"]["id"], again["limit"]) == ("replayed", first["id"], first["limit"])
    assert again["transaction"]["failure"]["code"] == "limit_exceeded"
    books.passes(101)


def test_currencies_have_their_own(books: Limited) -> None:
    books.set(payment=10)
    other = next(CURRENCIES)
    for party in (books.asha, books.ravi):
        books.stand.ledger.call("open_wallet", party.person, party.session, other)
    books.stand.ledger.fund(books.asha, 1000, other)
    paid = books.stand.ledger.transfer(books.asha, "key-other", books.ravi.handle, 1000, other)
    assert paid["transaction"]["status"] == "Success"
    books.stand.owner.limit(books.currency)  # a row without caps is no limit
    books.passes(5000)


def test_nothing_else_counts(books: Limited) -> None:
    """Neither what comes in, nor what is refused, nor what is given back by its recipient."""
    books.set(day_amount=1000, day_count=3)
    books.stand.ledger.fund(books.asha, 5000, books.currency)
    assert books.pay(15_001)["code"] == "limit_exceeded"
    books.stand.owner.limit(books.currency)
    assert books.pay(15_001)["code"] == "insufficient_funds"
    books.set(day_amount=1000, day_count=3)
    ledger = books.stand.ledger
    incoming = [books.stand.rich(500, books.currency) for _ in range(4)]
    for payer in incoming:
        paid = ledger.transfer(payer, "key-in", books.asha.handle, 500, books.currency)["transaction"]["id"]
        assert ledger.refund(books.asha, f"key-{payer.handle}", paid)["transaction"]["status"] == "Success"
    books.passes(1000)
    assert books.refused(1) == says("day_amount", 1000, 1000, midnight())


def test_a_refund_does_not_make_room(books: Limited) -> None:
    """The payment was made. Else two who pay one another to and fro would have no limit."""
    books.set(day_amount=100)
    paid = books.passes(100)
    books.stand.ledger.refund(books.ravi, "key-refund", paid)
    assert books.refused(1) == says("day_amount", 100, 100, midnight())


def test_which_refusal_comes_first(books: Limited) -> None:
    """A freeze before a limit, a limit before the balance; and no limit is told with a freeze."""
    books.set(day_amount=100)
    assert books.refused(20_000) == says("day_amount", 0, 100, None), "tomorrow it would be refused, too"
    books.stand.owner.switch(books.asha.handle, books.currency, debit=True)
    assert [books.pay(20_000, kind) | {"id": ""} for kind in KINDS] == [
        {"id": "", "code": "wallet_frozen", "limit": None}
    ] * 4


def test_lower_limit_than_what_is_used(books: Limited) -> None:
    books.passes(500)
    books.set(day_amount=100)
    assert books.refused(1) == says("day_amount", 500, 100, midnight()), "also what was paid before there was a limit"


# What is given back counts no more


@pytest.mark.parametrize("way", ["void", "touched", "swept", "declined", "batch undone"])
def test_what_is_given_back_counts_no_more(books: Limited, way: str) -> None:
    books.set(day_amount=100, day_count=2, month_amount=100, month_count=2)
    ledger, stand = books.stand.ledger, books.stand
    books.passes(1)
    if way == "batch undone":
        items = [(books.ravi.handle, 99), (books.ravi.handle, 1)]
        assert ledger.batch(books.asha, "key-batch", items, whole=True, currency=books.currency)["refused"]
    else:
        opened = books.passes(99, "withdrawal" if way == "declined" else "hold")
        assert books.refused(1)["used"] == 100
        if way == "void":
            ledger.void(books.ravi, "key-void", opened)
        elif way == "declined":
            ledger.event(opened, 99, type="withdrawal.failed", currency=books.currency)
        else:
            stand.owner.expire(opened)
            if way == "touched":
                assert ledger.capture(books.ravi, "key-late", opened)["outcome"] == "expired"
            else:
                assert ledger.call("sweep_holds", 1000)["released"] >= 1
    books.passes(99)
    assert books.refused(1) == says("day_amount", 100, 100, midnight())


def test_capture_in_part_gives_the_rest_back(books: Limited) -> None:
    books.set(day_amount=100, day_count=3)
    held = books.passes(90, "hold")
    books.stand.ledger.capture(books.ravi, "key-capture", held, 30)
    assert books.refused(71) == says("day_amount", 30, 100, midnight())
    books.passes(70)
    books.set(day_count=2)
    assert books.refused(1) == says("day_count", 2, 2, midnight()), "it is a payment still"


@pytest.mark.parametrize("kind", ["hold", "withdrawal"])
def test_what_goes_through_still_counts(books: Limited, kind: str) -> None:
    books.set(day_amount=100)
    opened = books.passes(100, kind)
    if kind == "hold":
        assert books.stand.ledger.capture(books.ravi, "key-capture", opened)["outcome"] == "made"
    else:
        books.stand.ledger.event(opened, 100, type="withdrawal.succeeded", currency=books.currency)
    assert books.refused(1) == says("day_amount", 100, 100, midnight())


@pytest.mark.parametrize("kind", ["hold", "withdrawal"])
def test_it_is_given_back_to_the_day_it_was_paid_on(books: Limited, kind: str) -> None:
    """Today's room stays what it is; the thirty days have more."""
    ledger = books.stand.ledger

    def give_back(opened: str, amount: int) -> None:
        if kind == "hold":
            assert ledger.void(books.ravi, f"key-void-{opened}", opened)["outcome"] == "made"
        else:
            ledger.event(opened, amount, type="withdrawal.failed", currency=books.currency)

    books.set(day_amount=100, month_amount=150)
    old, first = books.passes(40, kind), books.passes(60, kind)
    books.stand.owner.pass_days(1)
    give_back(old, 40)  # before anything was paid today: the counters still stand at yesterday
    books.passes(90)
    assert books.refused(11) == says("day_amount", 90, 100, midnight())
    assert books.refused(1) == says("month_amount", 150, 150, midnight(29))
    give_back(first, 60)  # now yesterday is behind
    assert books.refused(11) == says("day_amount", 90, 100, midnight())
    books.passes(10)
    books.stand.owner.pass_days(1)
    assert books.refused(51, "transfer") == says("month_amount", 100, 150, midnight(29))


def test_given_back_when_the_thirty_days_are_over(books: Limited) -> None:
    books.set(month_amount=100)
    held = books.passes(100, "withdrawal")
    books.stand.owner.pass_days(35)
    books.passes(100)
    books.stand.ledger.event(held, 100, type="withdrawal.failed", currency=books.currency)
    assert books.refused(1) == says("month_amount", 100, 100, midnight(30))


# Days


def test_day_turns_over_at_midnight(books: Limited) -> None:
    books.set(day_amount=100, day_count=1)
    for _ in range(3):
        books.passes(100)
        assert books.refused(1)["used"] == 100
        books.stand.owner.pass_days(1)
    books.passes(100)


def test_thirty_days_are_thirty(books: Limited) -> None:
    books.set(month_amount=100, month_count=1)
    books.passes(100)
    books.stand.owner.pass_days(29)
    assert books.refused(1) == says("month_amount", 100, 100, midnight(1))
    books.stand.owner.pass_days(1)
    books.passes(100)
    books.stand.owner.pass_days(400)
    books.passes(100)


@pytest.mark.parametrize(("amount", "days"), [(1, 10), (60, 10), (61, 18), (80, 18), (81, 29), (99, 29), (100, 30)])
def test_room_comes_back_when_it_was_promised(books: Limited, amount: int, days: int) -> None:
    """60 were paid 20 days ago, 20 12 days ago, 19 yesterday, 1 today. On the day before, it is still refused."""
    books.set(month_amount=100)
    for paid, wait in ((60, 8), (20, 11), (19, 1), (1, 0)):
        books.passes(paid)
        books.stand.owner.pass_days(wait)
    assert books.refused(amount) == says("month_amount", 100, 100, midnight(days))
    books.stand.owner.pass_days(days - 1)
    assert books.refused(amount)["resets_at"] == midnight(1)
    books.stand.owner.pass_days(1)
    books.passes(amount)


def test_count_of_thirty_days_comes_back_one_by_one(books: Limited) -> None:
    books.set(month_count=2)
    books.passes(1)
    books.stand.owner.pass_days(5)
    books.passes(1)
    assert books.refused(1) == says("month_count", 2, 2, midnight(25))
    books.stand.owner.pass_days(25)
    books.passes(1)
    assert books.refused(1) == says("month_count", 2, 2, midnight(5))


# Whom, and since when


@pytest.mark.parametrize("kind", ["transfer", "hold", "batch"])
def test_first_payment_to_somebody(books: Limited, kind: str) -> None:
    books.set(new_recipient=100)
    assert books.refused(101, kind) == says("new_recipient", 0, 100, None)
    held = books.passes(100, kind)
    if kind == "hold":
        assert books.refused(101, kind)["name"] == "new_recipient", "not paid yet"
        books.stand.ledger.capture(books.ravi, "key-capture", held, 1)
    books.passes(5000, kind)
    other = books.stand.ledger.person("zoe", books.currency)
    assert books.refused(101, kind, other)["name"] == "new_recipient"
    # The other way round it is a first payment, too.
    back = books.stand.ledger.transfer(books.ravi, "key-back", books.asha.handle, 101, books.currency)
    assert back["limit"]["name"] == "new_recipient"


def test_what_does_not_make_known(books: Limited) -> None:
    books.set(new_recipient=100)
    stand = books.stand
    stand.ledger.void(books.ravi, "key-void", books.passes(100, "hold"))
    stand.owner.expire(books.passes(100, "hold"))
    stand.ledger.call("sweep_holds", 1000)
    items = [(books.ravi.handle, 50), ("nobody_at_all", 1)]
    assert stand.ledger.batch(books.asha, "key-batch", items, whole=True, currency=books.currency)["refused"]
    assert books.refused(101)["name"] == "new_recipient"
    books.passes(5000, "withdrawal")  # one's own account


def test_those_paid_before_the_limit_are_known(books: Limited) -> None:
    books.passes(1)
    zoe = books.stand.ledger.person("zoe", books.currency)
    books.passes(1, "hold", zoe)
    books.set(new_recipient=100)
    books.passes(5000)
    assert books.refused(101, "transfer", zoe)["name"] == "new_recipient"


def test_second_item_of_a_batch_knows_the_first(books: Limited) -> None:
    books.set(new_recipient=100, day_amount=1000)
    items = [(books.ravi.handle, amount) for amount in (101, 100, 800, 101, 100)]
    made = books.stand.ledger.batch(books.asha, "key-batch", items, currency=books.currency)["items"]
    assert [item["limit"] and item["limit"]["name"] for item in made] == [
        "new_recipient",
        None,
        None,
        "day_amount",
        None,
    ]
    assert made[3]["limit"]["used"] == 900


@every_kind
def test_new_account(books: Limited, kind: str) -> None:
    """A day's amount, until the account is old enough: whichever comes first makes room."""
    books.set(new_account=100, new_account_days=3, day_amount=1000)
    books.passes(100, kind)
    assert books.refused(1, kind) == says("new_account", 100, 100, midnight())
    books.stand.owner.pass_days(2)
    [(old_enough,)] = books.stand.owner.rows(
        "SELECT moment(created_at + interval '3 days') FROM people WHERE id = %s", books.asha.person
    )
    assert books.refused(101, kind) == says("new_account", 0, 100, old_enough), "no day has room for that"
    books.passes(100, kind)
    assert books.refused(1, kind) == says("new_account", 100, 100, min(midnight(), old_enough))
    books.stand.owner.pass_days(1)
    books.passes(1000, kind)
    assert books.refused(1, kind) == says("day_amount", 1000, 1000, midnight())
