"""Twenty at once, for holds, refunds, withdrawals, limits, batches and receiving wallets, closely together in the database
functions: one outcome, and books that add up."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from okane_common import ids
from tests.support.books import WITHDRAWAL, Ledger, Party, check_books
from tests.support.crowd import CROWD, crowd_of_ledgers, fates, in_rounds
from tests.support.owner import Owner, Stand, away_from_midnight
from tests.support.platform import Database

ROUNDS = 6
TURNS = range(ROUNDS)


def race(crowd: list[Ledger], action: Callable[[Ledger, int, int], Any]) -> list[list[Any]]:
    """Twenty at the same moment, round after round; the answers by round."""
    return in_rounds(crowd, action, ROUNDS)


@pytest.fixture(autouse=True)
def sound_books(database: Database) -> Iterator[None]:
    """After every race the books add up, and nobody was ever in a deadlock."""
    yield
    assert check_books(database.url) == []
    with Owner(database.url) as owner:
        assert owner.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


@pytest.fixture(scope="module")
def crowd(database: Database) -> Iterator[list[Ledger]]:
    with crowd_of_ledgers(database.app_url) as crowd:
        yield crowd


@pytest.fixture
def stand(database: Database, crowd: list[Ledger]) -> Iterator[Stand]:
    """The books, outside of any race."""
    with Owner(database.url) as owner:
        yield Stand(crowd[0], owner)


@pytest.fixture
def asha(stand: Stand) -> Party:
    """Somebody with 100 for each round."""
    return stand.rich(100 * ROUNDS)


@pytest.fixture
def ravi(stand: Stand) -> Party:
    return stand.ledger.person("ravi")


def holds(stand: Stand, payer: Party, payee: Party) -> list[str]:
    """A hold of 100 for each round."""
    return [stand.hold(payer, payee, 100, f"key-hold-{turn}") for turn in TURNS]


def same(answers: list[dict[str, Any]]) -> bool:
    """Whether all show the same transaction."""
    return len({json.dumps(answer["transaction"], sort_keys=True) for answer in answers}) == 1


def test_hold_is_captured_once(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """By requests that do not know of one another."""
    held = holds(stand, asha, ravi)
    rounds = race(crowd, lambda own, number, turn: own.capture(ravi, f"key-{turn}-{number}", held[turn], 50 + number))
    captured = 0
    for answers in rounds:
        assert fates(answers) == {"made": 1, "ended": CROWD - 1}
        [amount] = [answer["transaction"]["captured_amount"] for answer in answers if answer["outcome"] == "made"]
        captured += amount
    assert stand.money(asha, ravi) == [(100 * ROUNDS - captured, 0), (captured, 0)]


def test_hold_is_voided_once(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    held = holds(stand, asha, ravi)
    for answers in race(crowd, lambda own, number, turn: own.void(ravi, f"key-{turn}-{number}", held[turn])):
        assert fates(answers) == {"voided": 1, "ended": CROWD - 1}
    assert stand.money(asha, ravi) == [(100 * ROUNDS, 0), (0, 0)]


def test_key_resolves_once(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """Half with a key of a capture, half with one of a void: all who have the winner's key see what it did."""
    held = holds(stand, asha, ravi)

    def resolve(own: Ledger, number: int, turn: int) -> dict[str, Any]:
        return own.void(ravi, f"key-{turn}", held[turn]) if number % 2 else own.capture(ravi, f"key-{turn}", held[turn])

    captured = 0
    for answers in race(crowd, resolve):
        ways = answers[::2], answers[1::2]
        [winners] = [way for way in ways if "ended" not in fates(way)]
        [losers] = [way for way in ways if way is not winners]
        assert fates(losers) == {"ended": CROWD // 2}
        assert Counter(answer["outcome"] for answer in winners) == {"made": 1, "replayed": CROWD // 2 - 1}
        assert same(winners)
        captured += 100 if winners is ways[0] else 0
    assert stand.money(asha, ravi) == [(100 * ROUNDS - captured, 0), (captured, 0)]


def test_key_captures_one_hold(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """The same key for two holds at the same moment, from different payers: over other wallets."""
    zoe = stand.rich(100 * ROUNDS)
    held = list(zip(holds(stand, asha, ravi), holds(stand, zoe, ravi), strict=True))
    rounds = race(crowd, lambda own, number, turn: own.capture(ravi, f"key-{turn}", held[turn][number % 2]))
    for answers in rounds:
        assert fates(answers) == {"made": 1, "replayed": CROWD // 2 - 1, "idempotency_key_reused": CROWD // 2}
    assert stand.money(ravi) == [(100 * ROUNDS, 0)]


def test_capture_against_void(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    held = holds(stand, asha, ravi)

    def resolve(own: Ledger, number: int, turn: int) -> dict[str, Any]:
        act = own.void if number % 2 else own.capture
        return act(ravi, f"key-{turn}-{number}", held[turn])

    captured = 0
    for hold, answers in zip(held, race(crowd, resolve), strict=True):
        found = fates(answers)
        assert found["ended"] == CROWD - 1
        assert found["made"] + found["voided"] == 1
        assert stand.seen(asha, hold)["status"] == ("Success" if found["made"] else "Failure")
        captured += 100 * found["made"]
    assert stand.money(asha, ravi) == [(100 * ROUNDS - captured, 0), (captured, 0)]


def test_capture_against_expiry(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """Captures and sweeps around the moment at which a hold is over: in the first rounds just before it, in the last after."""
    held = holds(stand, asha, ravi)
    for turn, hold in enumerate(held):
        stand.owner.expire(hold, 150 + 80 * turn)
    ends = [datetime.fromisoformat(stand.seen(asha, hold)["expires_at"]) for hold in held]

    def at_the_end(own: Ledger, number: int, turn: int) -> str:
        left = (ends[turn] - datetime.now(UTC)).total_seconds()
        time.sleep(max(0.0, left + (turn - ROUNDS // 2) * 0.003 + number / 10_000))
        if number % 4 == 3:
            return f"swept {own.call('sweep_holds', 10)['released']}"
        return str(own.capture(ravi, f"key-{turn}-{number}", held[turn])["outcome"])

    captured = 0
    rounds = race(crowd, at_the_end)
    for hold, answers in zip(held, rounds, strict=True):
        found = Counter(answers)
        seen = stand.seen(asha, hold)
        assert found["made"] + found["expired"] <= 1
        assert (seen["status"] == "Success") == (found["made"] == 1)
        assert (seen["completed_at"] < seen["expires_at"]) == (found["made"] == 1)
        captured += 100 * found["made"]
    assert stand.money(asha, ravi) == [(100 * ROUNDS - captured, 0), (captured, 0)]


@pytest.mark.parametrize("amount", [30, None])
def test_refunds_never_exceed_the_original(
    crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party, amount: int | None
) -> None:
    paid = [stand.pay(asha, ravi, 100, f"key-pay-{turn}") for turn in TURNS]
    stand.ledger.fund(ravi, 10_000)
    rounds = race(crowd, lambda own, number, turn: own.refund(ravi, f"key-{turn}-{number}", paid[turn], amount))
    for answers in rounds:
        times = 3 if amount else 1
        assert fates(answers) == {"made": times, "refund_exceeds_original": CROWD - times}
    assert stand.money(ravi) == [(10_000 + (10 if amount else 0) * ROUNDS, 0)]


def test_key_refunds_once(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """Also when it is sent for two originals at the same moment, over other wallets."""
    zoe = stand.rich(100 * ROUNDS)
    paid = [[stand.pay(payer, ravi, 100, f"key-pay-{turn}") for payer in (asha, zoe)] for turn in TURNS]
    rounds = race(crowd, lambda own, number, turn: own.refund(ravi, f"key-{turn}", paid[turn][number % 2], 10))
    for answers in rounds:
        assert fates(answers) == {"made": 1, "replayed": CROWD // 2 - 1, "idempotency_key_reused": CROWD // 2}
    assert stand.money(ravi) == [(190 * ROUNDS, 0)]


def test_refund_against_spending(crowd: list[Ledger], stand: Stand, ravi: Party) -> None:
    """What the payment brought goes once: back, or on."""
    payers = [stand.rich(100) for _ in TURNS]
    payees = [stand.ledger.person("zoe") for _ in TURNS]
    paid = [stand.pay(*pair, 100) for pair in zip(payers, payees, strict=True)]

    def spend(own: Ledger, number: int, turn: int) -> dict[str, Any]:
        if number % 2:
            return own.refund(payees[turn], f"key-{number}", paid[turn], 100)
        return own.transfer(payees[turn], f"key-{number}", ravi.handle, 100)

    for answers in race(crowd, spend):
        found = fates(answers)
        assert found["made"] == 1
        assert found["insufficient_funds"] + found["refund_exceeds_original"] == CROWD - 1


def test_balance_is_withdrawn_once(crowd: list[Ledger], stand: Stand) -> None:
    payers = [stand.rich(100) for _ in TURNS]
    rounds = race(crowd, lambda own, number, turn: own.withdraw(payers[turn], f"key-{number:05}", 100))
    for payer, answers in zip(payers, rounds, strict=True):
        assert fates(answers) == {"made": 1, "insufficient_funds": CROWD - 1}
        assert stand.money(payer) == [(0, 100)]


def test_withdrawal_key_opens_one(crowd: list[Ledger], stand: Stand, asha: Party) -> None:
    for answers in race(crowd, lambda own, _, turn: own.withdraw(asha, f"key-{turn:05}", 100)):
        assert fates(answers) == {"made": 1, "replayed": CROWD - 1}
        assert same(answers)
    assert stand.money(asha) == [(0, 100 * ROUNDS)]


def test_withdrawal_and_its_event_do_not_miss_each_other(crowd: list[Ledger], stand: Stand) -> None:
    """Opened while the bank says how it ended, half paid and half declined."""
    parties = [stand.rich(10 * ROUNDS) for _ in range(CROWD // 2)]

    def both(own: Ledger, number: int, turn: int) -> str:
        party, key = parties[number % len(parties)], f"key-{turn:05}"
        if number < len(parties):
            return str(own.withdraw(party, key, 10)["outcome"])
        kind = "withdrawal.succeeded" if number % 2 else "withdrawal.failed"
        return str(own.event(ids.transfer_id(party.person, WITHDRAWAL, key), 10, type=kind)["status"])

    seen = Counter(answer for answers in race(crowd, both) for answer in answers)
    assert seen["made"] == seen["parked"] + seen["processed"] == ROUNDS * len(parties)
    assert stand.money(*parties) == [(0 if n % 2 else 10 * ROUNDS, 0) for n in range(len(parties))]


def test_payout_and_decline_have_one_winner(crowd: list[Ledger], stand: Stand, asha: Party) -> None:
    opened = [stand.ledger.withdraw(asha, f"key-{turn:05}", 100)["transaction"]["id"] for turn in TURNS]
    kinds = ("withdrawal.succeeded", "withdrawal.failed")
    paid = 0
    for answers in race(
        crowd, lambda own, number, turn: (number % 2, own.event(opened[turn], 100, type=kinds[number % 2])["status"])
    ):
        [winner] = [kind for kind, status in answers if status == "processed"]
        assert {status for kind, status in answers if status != "processed" and kind == 0} <= {"quarantined"}
        assert {status for kind, status in answers if status != "processed" and kind == 1} <= {"duplicate"}
        paid += 100 if winner == 0 else 0
    assert stand.money(asha) == [(100 * ROUNDS - paid, 0)]


@pytest.mark.parametrize("name", ["day_amount", "new_account", "month_count"])
def test_limit_at_95_of_100(crowd: list[Ledger], stand: Stand, name: str) -> None:
    """Five more, twenty times, by every way out of a wallet; or the hundredth payment."""
    away_from_midnight()
    currency = f"R{name[0].upper()}{name[-5].upper()}"
    payers = [stand.rich(1000, currency) for _ in TURNS]
    payee = stand.ledger.person("ravi", currency)
    more = {"new_account_days": 30} if name == "new_account" else {}
    if name.endswith("_count"):
        stand.owner.limit(currency, **{name: 2})
        first = [(payee.handle, 95)]
    else:
        stand.owner.limit(currency, **{name: 100}, **more)
        first = [(payee.handle, 90), (payee.handle, 5)]
    for payer in payers:
        assert [one["code"] for one in stand.ledger.batch(payer, "key-first", first, currency=currency)["items"]] == [
            None
        ] * len(first)

    def pay(own: Ledger, number: int, turn: int) -> dict[str, Any]:
        payer, key = payers[turn], f"key-{number:05}"
        match number % 4:
            case 0:
                return own.transfer(payer, key, payee.handle, 5, currency)
            case 1:
                return own.hold(payer, key, payee.handle, 5, currency=currency)
            case 2:
                return own.withdraw(payer, key, 5, currency=currency)
            case _:
                made = own.batch(payer, key, [(payee.handle, 5)], currency=currency)
                item: dict[str, Any] = made["items"][0]
                return made | item

    for answers in race(crowd, pay):
        assert fates(answers) == {"made": 1, "limit_exceeded": CROWD - 1}
        refused = [answer["limit"] for answer in answers if answer["limit"]]
        used, cap = (2, 2) if name.endswith("_count") else (100, 100)
        assert {(limit["name"], limit["used"], limit["cap"]) for limit in refused} == {(name, used, cap)}


def test_first_payment_is_limited_until_one_is_made(crowd: list[Ledger], stand: Stand) -> None:
    """Large ones beside a small one: they go through only when the small one was before them."""
    currency = "RNR"
    stand.owner.limit(currency, new_recipient=5)
    payers = [stand.rich(1000, currency) for _ in TURNS]
    payee = stand.ledger.person("ravi", currency)

    def pay(own: Ledger, number: int, turn: int) -> dict[str, Any]:
        return own.transfer(payers[turn], f"key-{number:05}", payee.handle, 5 if number == 7 else 6, currency)

    for answers in race(crowd, pay):
        in_order = sorted((answer["transaction"] for answer in answers), key=lambda one: int(one["wallet_version"]))
        went = [one["status"] == "Success" for one in in_order]
        assert went == sorted(went), "none before the small one, and all after it"
        assert in_order[went.index(True)]["amount"] == 5


def test_batch_key_pays_once(crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party) -> None:
    """Half of them as all or none, which is another request."""
    zoe = stand.ledger.person("zoe")
    items = [(ravi.handle, 30), (zoe.handle, 20)]
    for answers in race(
        crowd, lambda own, number, turn: own.batch(asha, f"key-{turn:05}", items, whole=number % 2 == 1)
    ):
        outcomes = Counter(answer["outcome"] for answer in answers)
        assert outcomes == {"made": 1, "replayed": CROWD // 2 - 1, "idempotency_key_reused": CROWD // 2}
    assert stand.money(asha, ravi, zoe) == [(50 * ROUNDS, 0), (30 * ROUNDS, 0), (20 * ROUNDS, 0)]


def test_batches_across_each_other_never_deadlock(crowd: list[Ledger], stand: Stand) -> None:
    """A ring in which everybody pays everybody, in orders of their own, some of them through receiving wallets."""
    ring = [stand.rich(10_000) for _ in range(5)]
    stand.owner.switch(ring[2].handle, receiving=True)

    def pay(own: Ledger, number: int, turn: int) -> str:
        payer = ring[number % 5]
        others = [party for party in ring if party is not payer]
        order = list(itertools.permutations(others))[(number * ROUNDS + turn) % 24]
        if number % 4 == 3:
            held = own.hold(payer, f"key-{number}-{turn}", order[0].handle, 4)["transaction"]["id"]
            return str(own.capture(order[0], f"key-{number}-{turn}", held)["outcome"])
        items = [(payee.handle, 1) for payee in order]
        return str(own.batch(payer, f"key-{number}-{turn}", items, whole=number % 2 == 0)["outcome"])

    assert {answer for answers in race(crowd, pay) for answer in answers} == {"made"}
    assert sum(available for available, _ in stand.money(*ring)) == 50_000


def test_batches_do_not_overspend_together(crowd: list[Ledger], stand: Stand, ravi: Party) -> None:
    payers = [stand.rich(100) for _ in TURNS]
    items = [(ravi.handle, 30), (ravi.handle, 40)]
    rounds = race(crowd, lambda own, number, turn: own.batch(payers[turn], f"key-{number:05}", items, whole=True))
    for payer, answers in zip(payers, rounds, strict=True):
        assert Counter(answer["refused"] for answer in answers) == {False: 1, True: CROWD - 1}
        assert stand.money(payer) == [(30, 0)]


def test_receiving_wallet_is_right_at_every_moment(crowd: list[Ledger], stand: Stand) -> None:
    """Credits, debits, folds, an operator who switches, and readers to whom the version never goes back."""
    shop = stand.rich(1000)
    stand.owner.switch(shop.handle, receiving=True)
    payers = [stand.rich(1000) for _ in range(10)]
    ravi = stand.ledger.person("ravi")

    def act(own: Ledger, number: int, turn: int) -> Any:
        if number < 10:
            return own.transfer(payers[number], f"key-{turn}", shop.handle, 10)["transaction"]["status"]
        match number:
            case 10 | 11:
                return own.transfer(shop, f"key-{turn}-{number}", ravi.handle, 5)["transaction"]["status"]
            case 12:
                own.call("fold_arrivals", 3)
            case 13:
                return len(own.history(shop)["data"]) > 0
            case 14:
                stand.owner.switch(shop.handle, receiving=turn % 3 != 1)
            case _:
                return [own.wallet(shop) for _ in range(4)]
        return None

    rounds = race(crowd, act)
    for reader in range(15, 20):
        wallets = [wallet for answers in rounds for wallet in answers[reader]]
        versions = [wallet["version"] for wallet in wallets]
        assert versions == sorted(versions)
    # One version is one balance, whoever reads it.
    read = {(w["version"], w["available"]) for answers in rounds for reader in range(15, 20) for w in answers[reader]}
    assert len(read) == len({version for version, _ in read})
    assert {answer for answers in rounds for answer in answers[:12]} == {"Success"}
    final = stand.ledger.wallet(shop)
    assert (final["available"], final["version"]) == (1000 + ROUNDS * (10 * 10 - 2 * 5), 2 + 12 * ROUNDS)


WAITING: dict[str, Callable[[Ledger, Party, Party, str, str], dict[str, Any]]] = {
    "transfer": lambda own, asha, ravi, held, paid: own.transfer(asha, "key-late", ravi.handle, 1),
    "hold": lambda own, asha, ravi, held, paid: own.hold(asha, "key-late", ravi.handle, 1),
    "batch": lambda own, asha, ravi, held, paid: own.batch(asha, "key-late", [(ravi.handle, 1)]),
    "withdrawal": lambda own, asha, ravi, held, paid: own.withdraw(asha, "key-late", 1),
    "capture": lambda own, asha, ravi, held, paid: own.capture(ravi, "key-late", held),
    "void": lambda own, asha, ravi, held, paid: own.void(ravi, "key-late", held),
    "refund": lambda own, asha, ravi, held, paid: own.refund(ravi, "key-late", paid),
}


@pytest.mark.parametrize("request_", WAITING)
def test_ended_session_moves_nothing_more(
    crowd: list[Ledger], stand: Stand, asha: Party, ravi: Party, database: Database, request_: str
) -> None:
    """Not even by a request that came before the end and had to wait for its turn."""
    held, paid = stand.hold(asha, ravi, 100), stand.pay(asha, ravi, 100)
    before = stand.everything()
    answers: list[dict[str, Any]] = []
    with psycopg.connect(database.url) as blocker:
        blocker.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR NO KEY UPDATE", [asha.person])
        waiting = threading.Thread(target=lambda: answers.append(WAITING[request_](crowd[1], asha, ravi, held, paid)))
        waiting.start()
        stand.owner.wait_for_waiting()
        for party in (asha, ravi):
            stand.ledger.call("end_session", party.person, party.session, party.session)
        blocker.rollback()
        waiting.join()
    assert answers == [{"outcome": "session_ended"}]
    assert stand.everything() == before
