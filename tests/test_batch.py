"""Batches, in the database functions: each on its own or all or none, in order, under one key."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from okane_common import ids
from tests.support.books import BATCH, Party
from tests.support.owner import Stand, away_from_midnight, changed, stand_on
from tests.support.platform import Database


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    with stand_on(database) as stand:
        yield stand


@pytest.fixture
def asha(stand: Stand) -> Party:
    """Somebody with 1000."""
    return stand.rich(1000)


def codes(answer: dict[str, Any]) -> list[str | None]:
    """What became of each item: None where it was paid."""
    return [item["code"] for item in answer["items"]]


def without_batches(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row for row in rows if row[0] != "batches"]


def test_each_item_is_a_transfer(stand: Stand, asha: Party) -> None:
    ravi, zoe = stand.ledger.person("ravi"), stand.ledger.person("zoe")
    made = stand.ledger.batch(asha, "key-batch", [(ravi.handle, 100), (zoe.handle, 200), (ravi.handle, 300)])
    assert (made["outcome"], made["refused"], codes(made)) == ("made", False, [None] * 3)
    seen = [item["transaction"] for item in made["items"]]
    assert [one["id"] for one in seen] == [str(ids.transfer_id(asha.person, BATCH, f"key-batch.{n}")) for n in range(3)]
    assert [one["balance_after"] for one in seen] == [900, 700, 400]
    assert [one["wallet_version"] for one in seen] == [3, 4, 5]
    assert [one["counterparty"]["name"] for one in seen] == ["ravi", "zoe", "ravi"]
    assert {(one["kind"], one["direction"], one["status"]) for one in seen} == {("transfer", "out", "Success")}
    assert changed(made) == stand.wallets(asha, ravi, zoe)
    assert stand.money(asha, ravi, zoe) == [(400, 0), (400, 0), (200, 0)]
    assert stand.ledger.history(asha)["data"][:3] == seen[::-1]
    for one in seen:
        assert stand.seen(asha, one["id"]) == one
    # Each can be given back like any other.
    assert stand.ledger.refund(ravi, "key-refund", seen[0]["id"])["transaction"]["amount"] == 100


def test_each_on_its_own(stand: Stand, asha: Party) -> None:
    """Refused items are recorded where they could have been transfers, and keep nobody else from their money."""
    ravi, poor = stand.ledger.person("ravi"), stand.ledger.person("poor", "USD")
    frozen = stand.ledger.person("frozen")
    stand.owner.switch(frozen.handle, credit=True)
    items = [
        (ravi.handle, 400),
        (ravi.handle, 601),
        ("nobody_at_all", 1),
        (asha.handle, 1),
        (poor.handle, 1),
        (frozen.handle, 1),
        (ravi.handle, 600),
        (ravi.handle, 1),
    ]
    made = stand.ledger.batch(asha, "key-batch", items)
    assert (made["outcome"], made["refused"]) == ("made", False)
    assert codes(made) == [
        None,
        "insufficient_funds",
        "recipient_not_found",
        "self_transfer",
        "currency_mismatch",
        "wallet_frozen",
        None,
        "insufficient_funds",
    ]
    recorded = [item["transaction"] and item["transaction"]["status"] for item in made["items"]]
    assert recorded == ["Success", "Failure", None, None, None, "Failure", "Success", "Failure"]
    masked = made["items"][1]["transaction"]["counterparty"]["name"]
    assert masked == "ra***", "no way around the mask"
    assert stand.money(asha, ravi) == [(0, 0), (1000, 0)]
    assert stand.ledger.wallet(asha)["version"] == 2 + 5
    assert len(stand.ledger.history(ravi)["data"]) == 2
    assert len(stand.ledger.history(asha)["data"]) == 6


@pytest.mark.parametrize(
    ("to", "amount", "code"),
    [
        ("ravi", 1001, "insufficient_funds"),
        ("ravi", 501, "limit_exceeded"),
        ("nobody_at_all", 1, "recipient_not_found"),
        ("asha", 1, "self_transfer"),
        ("poor", 1, "currency_mismatch"),
        ("frozen", 1, "wallet_frozen"),
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_all_or_none(stand: Stand, asha: Party, to: str, amount: int, code: str, place: str) -> None:
    """Nothing is left of a batch that was refused, but the answer to its key."""
    others = {name: stand.ledger.person(name) for name in ("ravi", "frozen")} | {"asha": asha}
    others["poor"] = stand.ledger.person("poor", "USD")
    stand.owner.switch(others["frozen"].handle, credit=True)
    if code == "limit_exceeded":
        stand.owner.limit("INR", payment=500)
    good = (others["ravi"].handle, 50)
    bad = (others[to].handle if to in others else to, amount)
    items = {"first": [bad, good, good], "middle": [good, bad, good], "last": [good, good, bad]}[place]
    before = stand.everything()
    refused = stand.ledger.batch(asha, "key-batch", items, whole=True)
    assert (refused["outcome"], refused["refused"]) == ("made", True)
    expected: list[str | None] = [code if item == bad else None for item in items]
    assert codes(refused) == expected
    assert {item["transaction"] for item in refused["items"]} == {None}
    limit = next(item["limit"] for item in refused["items"] if item["code"])
    assert (limit and limit["name"]) == ("payment" if code == "limit_exceeded" else None)
    assert without_batches(stand.everything()) == without_batches(before)
    assert changed(refused).items() <= stand.wallets(asha).items()
    # The key names the refusal for ever, also when all could be paid by now.
    stand.owner.limit("INR")
    stand.owner.switch(others["frozen"].handle, credit=False)
    stand.ledger.fund(asha, 1000)
    before = stand.everything()
    again = stand.ledger.batch(asha, "key-batch", items, whole=True)
    assert (again["outcome"], again["refused"], again["items"]) == ("replayed", True, refused["items"])
    assert stand.everything() == before


def test_all_or_none_when_all_can_be_paid(stand: Stand, asha: Party) -> None:
    ravi = stand.ledger.person("ravi")
    made = stand.ledger.batch(asha, "key-batch", [(ravi.handle, 500), (ravi.handle, 500)], whole=True)
    assert (made["refused"], codes(made)) == (False, [None, None])
    assert stand.money(asha, ravi) == [(0, 0), (1000, 0)]
    again = stand.ledger.batch(asha, "key-again", [(ravi.handle, 1)], whole=True)
    assert (again["refused"], codes(again)) == (True, ["insufficient_funds"])


def test_key_names_the_batch_for_ever(stand: Stand, asha: Party) -> None:
    ravi, zoe = stand.ledger.person("ravi"), stand.ledger.person("zoe")
    items = [(ravi.handle, 100), (zoe.handle, 100), (ravi.handle, 5000)]
    made = stand.ledger.batch(asha, "key-batch", items)
    stand.ledger.fund(asha, 10_000)
    before = stand.everything()
    again = stand.ledger.batch(asha, "key-batch", items)
    assert (again["outcome"], again["refused"], again["items"]) == ("replayed", False, made["items"])
    assert changed(again) == stand.wallets(asha, ravi, zoe), "whoever died before the cache heard of it"
    for other in (items[:2], items[::-1], [*items, items[0]], [(ravi.handle, 101), *items[1:]]):
        assert stand.ledger.batch(asha, "key-batch", other) == {"outcome": "idempotency_key_reused"}
    assert stand.ledger.batch(asha, "key-batch", items, whole=True) == {"outcome": "idempotency_key_reused"}
    assert stand.ledger.batch(asha, "key-batch", items, currency="USD")["outcome"] != "made"
    assert stand.everything() == before
    # Another person's key of the same name, and the same key on another route, are other keys.
    assert stand.ledger.batch(zoe, "key-batch", items[:1])["outcome"] == "made"
    assert stand.ledger.transfer(asha, "key-batch", ravi.handle, 1)["outcome"] == "made"


def test_replay_shows_what_has_become_of_each(stand: Stand, asha: Party) -> None:
    ravi = stand.ledger.person("ravi")
    made = stand.ledger.batch(asha, "key-batch", [(ravi.handle, 100), (ravi.handle, 200)])
    stand.ledger.refund(ravi, "key-refund", made["items"][1]["transaction"]["id"], 50)
    handle = f"{ravi.handle[:20]}_new"
    stand.ledger.call("change_profile", ravi.person, ravi.session, None, handle)
    again = stand.ledger.batch(asha, "key-batch", [(ravi.handle, 100), (ravi.handle, 200)])
    assert again["outcome"] == "replayed"
    assert [item["transaction"]["refunded_amount"] for item in again["items"]] == [0, 50]
    assert {item["transaction"]["counterparty"]["handle"] for item in again["items"]} == {handle}


def test_hundred_items(stand: Stand, asha: Party) -> None:
    payees = [stand.ledger.person("ravi") for _ in range(10)]
    items = [(payees[number % 10].handle, 10) for number in range(100)]
    made = stand.ledger.batch(asha, "key-batch", items)
    assert codes(made) == [None] * 100
    assert [item["transaction"]["wallet_version"] for item in made["items"]] == list(range(3, 103))
    assert stand.money(asha, *payees) == [(0, 0)] + [(100, 0)] * 10
    assert changed(made) == stand.wallets(asha, *payees)


def test_guessing_handles_is_dear_in_batches_too(stand: Stand, asha: Party) -> None:
    """Thirty misses in five minutes, or one batch with more; and then nothing of a batch happens."""
    ravi = stand.ledger.person("ravi")
    misses = [(f"nobody_{number}", 1) for number in range(31)]
    assert stand.ledger.batch(asha, "key-many", misses)["outcome"] == "made"
    before = stand.everything()
    for whole in (True, False):
        limited = stand.ledger.batch(asha, "key-batch", [(ravi.handle, 1), *misses], whole=whole)
        assert limited["outcome"] == "rate_limited"
        assert 1 <= limited["retry_after"] <= 300
    assert stand.everything() == before
    guesser = stand.rich(1000)
    for number in range(3):
        answer = stand.ledger.batch(guesser, f"key-{number}", misses[:10], whole=number == 1)
        assert answer["outcome"] == "made"
    assert stand.ledger.batch(guesser, "key-last", [(ravi.handle, 1), misses[0]])["outcome"] == "rate_limited"
    assert stand.ledger.batch(guesser, "key-0", misses[:10])["outcome"] == "replayed", "what is known costs nothing"
    assert stand.ledger.batch(guesser, "key-last", [(ravi.handle, 1)])["outcome"] == "made"


def test_refusals_of_the_whole(stand: Stand, asha: Party) -> None:
    ravi = stand.ledger.person("ravi")
    before = stand.everything()
    stranger = Party(asha.person, uuid.uuid4(), asha.handle)
    assert stand.ledger.batch(stranger, "key-batch", [(ravi.handle, 1)]) == {"outcome": "session_ended"}
    assert stand.ledger.batch(asha, "key-batch", [(ravi.handle, 1)], currency="USD") == {"outcome": "currency_mismatch"}
    assert stand.everything() == before
    assert stand.ledger.batch(asha, "key-batch", [(ravi.handle, 1)])["outcome"] == "made"


def test_batches_that_cannot_pay_are_counted(stand: Stand) -> None:
    """A thousand refused items in five minutes, and then no batch locks anybody's row for this person."""
    poor, others = stand.ledger.person("poor"), [stand.ledger.person("other") for _ in range(2)]
    items = [(others[number % 2].handle, 1) for number in range(100)]
    for number in range(11):
        whole = number % 2 == 1
        assert stand.ledger.batch(poor, f"key-{number:08}", items, whole=whole)["outcome"] == "made"
    refused = stand.ledger.batch(poor, "key-too-many", items)
    assert (refused["outcome"], 0 < refused["retry_after"] <= 300) == ("rate_limited", True)
    assert stand.ledger.batch(poor, "key-00000000", items)["outcome"] == "replayed"
    stand.ledger.fund(poor, 10)
    assert stand.ledger.transfer(poor, "key-single", others[0].handle, 1)["outcome"] == "made"


def test_limits_count_the_items_one_after_another(stand: Stand) -> None:
    away_from_midnight()
    payer, ravi = stand.rich(1000, "BAT"), stand.ledger.person("ravi", "BAT")
    stand.owner.limit("BAT", day_amount=100, day_count=3)
    items = [(ravi.handle, amount) for amount in (60, 41, 30, 10, 1)]
    made = stand.ledger.batch(payer, "key-batch", items, currency="BAT")
    assert codes(made) == [None, "limit_exceeded", None, None, "limit_exceeded"]
    limits = [item["limit"] and (item["limit"]["name"], item["limit"]["used"]) for item in made["items"]]
    assert limits == [None, ("day_amount", 60), None, None, ("day_amount", 100)]
    assert stand.ledger.batch(payer, "key-batch", items, currency="BAT")["items"] == made["items"]
    assert stand.money(payer, ravi, currency="BAT") == [(900, 0), (100, 0)]


def test_receiving_payer_pays_from_what_has_arrived(stand: Stand, asha: Party) -> None:
    shop, ravi = stand.ledger.person("shop"), stand.ledger.person("ravi")
    stand.owner.switch(shop.handle, receiving=True)
    stand.pay(asha, shop, 500)
    made = stand.ledger.batch(shop, "key-batch", [(ravi.handle, 200), (asha.handle, 300)], whole=True)
    assert (made["refused"], codes(made)) == (False, [None, None])
    assert stand.money(shop, ravi, asha) == [(0, 0), (200, 0), (800, 0)]
