"""Twenty at once, for everything that only one may win: through HTTP, and closer together in the database functions."""

import itertools
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from standardwebhooks import Webhook

from okane_common import ids
from tests.support.api import Api, Person
from tests.support.books import DEPOSIT, Ledger, check_books
from tests.support.crowd import CROWD, ROUNDS, at_once, crowd_of_ledgers, fates, in_rounds, outcome
from tests.support.platform import Database


@pytest.fixture(autouse=True)
def sound_books(database: Database) -> Iterator[None]:
    """After every race the books add up, time runs the way versions do, and nobody was ever in a deadlock."""
    yield
    assert check_books(database.url) == []
    backwards = (
        "SELECT * FROM (SELECT created_at < lag(created_at) OVER (PARTITION BY wallet_id ORDER BY seq) AS earlier"
        " FROM okane.entries) e WHERE earlier"
    )
    with psycopg.connect(database.url) as owner:
        assert not owner.execute(backwards.encode()).fetchall()
        counted = owner.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert counted == (0,)


@pytest.fixture(scope="module")
def crowd(database: Database) -> Iterator[list[Ledger]]:
    with crowd_of_ledgers(database.app_url) as crowd:
        yield crowd


# In the database


def test_whole_balance_is_spent_once(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payers = [ledger.person("asha") for _ in range(ROUNDS)]
    payees = [ledger.person("ravi") for _ in range(CROWD)]
    for payer in payers:
        ledger.fund(payer, 100)
    rounds = in_rounds(
        crowd, lambda own, number, turn: own.transfer(payers[turn], f"key-{number:05}", payees[number].handle, 100)
    )
    for payer, answers in zip(payers, rounds, strict=True):
        assert fates(answers) == {"made": 1, "insufficient_funds": CROWD - 1}
        wallet = ledger.wallet(payer)
        assert (wallet["available"], wallet["version"]) == (0, 2 + CROWD)
        assert sorted(answer["transaction"]["wallet_version"] for answer in answers) == list(range(3, 3 + CROWD))


def test_key_moves_money_once(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payer, payee = ledger.person("asha"), ledger.person("ravi")
    ledger.fund(payer, 100 * ROUNDS)
    rounds = in_rounds(crowd, lambda own, _, turn: own.transfer(payer, f"key-{turn:05}", payee.handle, 100))
    for answers in rounds:
        assert fates(answers) == {"made": 1, "replayed": CROWD - 1}
        assert len({json.dumps(answer["transaction"], sort_keys=True) for answer in answers}) == 1
    assert (ledger.wallet(payer)["available"], ledger.wallet(payee)["available"]) == (0, 100 * ROUNDS)


def test_refused_key_is_recorded_once(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payer, payee = ledger.person("asha"), ledger.person("ravi")
    rounds = in_rounds(crowd, lambda own, _, turn: own.transfer(payer, f"key-{turn:05}", payee.handle, 100))
    for answers in rounds:
        assert fates(answers) == {"insufficient_funds": 1, "replayed": CROWD - 1}
    assert ledger.wallet(payer)["version"] == ROUNDS


@pytest.mark.parametrize("scan", ["on", "off"])
def test_those_who_pay_each_other_never_deadlock(crowd: list[Ledger], scan: str) -> None:
    """Four in a ring, deposits coming in. Also when rows are found in the order of the heap, which updates change."""
    ledger = crowd[0]
    ring = [ledger.person("asha") for _ in range(4)]
    for party in ring:
        ledger.fund(party, 10_000)
    for own in crowd:
        settings = f"SET enable_indexscan = {scan}; SET enable_bitmapscan = {scan}"
        own.connection.execute(f"{settings}; DISCARD PLANS".encode())

    def pay(own: Ledger, number: int, turn: int) -> str:
        payer, payee = ring[number % 4], ring[(number + (1 if number % 8 < 4 else 3)) % 4]
        if number % 5 == 0:
            intent = own.intend(payer, f"deposit-{number}-{turn}", 10)
            return str(own.event(intent["transaction"]["id"], 10)["status"])
        return str(own.transfer(payer, f"key-{number}-{turn}", payee.handle, 10)["transaction"]["status"])

    answers = {answer for answers in in_rounds(crowd, pay) for answer in answers}
    for own in crowd:
        own.connection.execute("RESET ALL; DISCARD PLANS")
    assert answers == {"Success", "processed"}
    credited = 10 * ROUNDS * len(range(0, CROWD, 5))
    assert sum(ledger.wallet(party)["available"] for party in ring) == 40_000 + credited


def test_deposit_key_opens_one(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payee = ledger.person("asha")
    for answers in in_rounds(crowd, lambda own, _, turn: own.intend(payee, f"key-{turn:05}", 10)):
        assert fates(answers) == {"made": 1, "replayed": CROWD - 1}
        assert len({json.dumps(answer["transaction"], sort_keys=True) for answer in answers}) == 1
    assert ledger.wallet(payee)["version"] == ROUNDS


def test_same_movement_at_the_bank_is_credited_once(crowd: list[Ledger]) -> None:
    """Said by half under one id and by half under ids of their own."""
    ledger = crowd[0]
    payee = ledger.person("asha")
    intents = [ledger.intend(payee, f"key-{turn:05}", 10)["transaction"]["id"] for turn in range(ROUNDS)]

    def say(own: Ledger, number: int, turn: int) -> str:
        name = f"msg_{turn}" if number % 2 else f"msg_{turn}_{number}"
        said = own.event(intents[turn], 10, webhook_id=name, bank_reference=f"movement-{turn}")
        return str(said["status"])

    for answers in in_rounds(crowd, say):
        assert Counter(answers) == {"processed": 1, "duplicate": CROWD - 1}
    assert ledger.wallet(payee)["available"] == 10 * ROUNDS


def test_same_movement_for_two_deposits_is_credited_once(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payees = [ledger.person("asha"), ledger.person("ravi")]
    intents = [
        [ledger.intend(payee, f"key-{turn:05}", 10)["transaction"]["id"] for payee in payees] for turn in range(ROUNDS)
    ]
    rounds = in_rounds(
        crowd,
        lambda own, number, turn: own.event(intents[turn][number % 2], 10, bank_reference=f"one-{turn}")["status"],
    )
    for answers in rounds:
        assert Counter(answers) == {"processed": 1, "duplicate": CROWD - 1}
    assert sum(ledger.wallet(payee)["available"] for payee in payees) == 10 * ROUNDS


def test_deposits_of_one_person_over_one_stripe_never_deadlock(crowd: list[Ledger]) -> None:
    """Half of them settled by their event, half opened when their event waits already: each locks both rows."""
    ledger = crowd[0]
    payee = ledger.person("asha")
    numbers = (f"key-{number:05}" for number in itertools.count())
    names = ((key, ids.transfer_id(payee.person, DEPOSIT, key)) for key in numbers)
    on_one = ((key, name) for key, name in names if name.bytes[0] % 16 == 0)
    turns = [list(itertools.islice(on_one, CROWD)) for _ in range(ROUNDS)]
    for turn in turns:
        for key, _ in turn[::2]:
            assert ledger.intend(payee, key, 10)["outcome"] == "made"
        for _, name in turn[1::2]:
            assert ledger.event(name, 10)["status"] == "parked"

    def settle(own: Ledger, number: int, turn: int) -> str:
        key, name = turns[turn][number]
        if number % 2:
            return str(own.intend(payee, key, 10)["transaction"]["status"])
        return str(own.event(name, 10)["status"])

    for answers in in_rounds(crowd, settle):
        assert Counter(answers) == {"Success": CROWD // 2, "processed": CROWD // 2}
    assert ledger.wallet(payee)["available"] == 10 * CROWD * ROUNDS


def test_intent_and_its_event_do_not_miss_each_other(crowd: list[Ledger]) -> None:
    """Whichever comes first, and however closely: the money is credited, and no event stays parked."""
    ledger = crowd[0]
    parties = [ledger.person("asha") for _ in range(CROWD // 2)]

    def both(own: Ledger, number: int, turn: int) -> str:
        party, key = parties[number % len(parties)], f"key-{turn:05}"
        if number < len(parties):
            return str(own.intend(party, key, 10)["outcome"])
        return str(own.event(ids.transfer_id(party.person, DEPOSIT, key), 10)["status"])

    seen = Counter(answer for answers in in_rounds(crowd, both) for answer in answers)
    assert seen["made"] == seen["parked"] + seen["processed"] == ROUNDS * len(parties)
    assert [ledger.wallet(party)["available"] for party in parties] == [10 * ROUNDS] * len(parties)


def test_approval_and_decline_have_one_winner(crowd: list[Ledger]) -> None:
    ledger = crowd[0]
    payee = ledger.person("asha")
    intents = [ledger.intend(payee, f"key-{turn:05}", 10)["transaction"]["id"] for turn in range(ROUNDS)]
    kinds = ("deposit.succeeded", "deposit.failed")
    rounds = in_rounds(
        crowd, lambda own, number, turn: (number % 2, own.event(intents[turn], 10, type=kinds[number % 2])["status"])
    )
    won = 0
    for intent, answers in zip(intents, rounds, strict=True):
        [winner] = [kind for kind, status in answers if status == "processed"]
        late = {status for kind, status in answers if status != "processed" and kind == 0}
        assert late <= {"quarantined"}  # success after failure, or a second payment: for a person to look at
        assert {status for kind, status in answers if status != "processed" and kind == 1} <= {"duplicate"}
        won += winner == 0
        status = ledger.call("read_transaction", payee.person, payee.session, intent, ["deposit"])["transaction"][
            "status"
        ]
        assert status == ("Failure" if winner else "Success")
    assert ledger.wallet(payee)["available"] == 10 * won


def test_ended_session_moves_nothing_more(crowd: list[Ledger]) -> None:
    """Payments race with a log-out: whatever comes after it in the order of the books is refused."""
    ledger = crowd[0]
    payers = [ledger.person("asha") for _ in range(ROUNDS)]
    payee = ledger.person("ravi")
    for payer in payers:
        ledger.fund(payer, 1000)

    def pay_or_leave(own: Ledger, number: int, turn: int) -> str:
        payer = payers[turn]
        if number == CROWD // 2:
            return str(own.call("end_session", payer.person, payer.session, payer.session)["outcome"])
        return str(own.transfer(payer, f"key-{number:05}", payee.handle, 1)["outcome"])

    for payer, answers in zip(payers, in_rounds(crowd, pay_or_leave), strict=True):
        counted = Counter(answers)
        assert counted["ended"] == 1
        assert counted["made"] + counted["session_ended"] == CROWD - 1
        assert ledger.transfer(payer, "key-after", payee.handle, 1) == {"outcome": "session_ended"}


def test_handle_has_one_owner(crowd: list[Ledger]) -> None:
    parties = [ledger.person("asha") for ledger in crowd]

    def claim(own: Ledger, number: int, turn: int) -> str:
        party, handle = parties[number], f"first_{turn}"
        return str(own.call("change_profile", party.person, party.session, None, handle)["outcome"])

    for answers in in_rounds(crowd, claim):
        assert Counter(answers) == {"found": 1, "handle_taken": CROWD - 1}


# Through HTTP


@pytest.fixture
def asha(api: Api) -> Person:
    """Somebody with 100."""
    person = api.sign_up("asha")
    api.deposit(person, 100)
    return person


def send(api: Api, payer: Person, payee: Person, key: str, amount: int) -> httpx.Response:
    """POST /v1/transfers."""
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=key)


def available(api: Api, person: Person) -> int:
    """What somebody may spend, not from a cache."""
    [wallet] = api.call("GET", "/v1/wallets", token=person.token).json()["data"]
    return int(wallet["available"])


def test_twenty_spend_the_same_balance(api: Api, asha: Person) -> None:
    ravi = api.sign_up("ravi")
    answers = at_once(lambda number: send(api, asha, ravi, f"key-{number:05}", 100))
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (422, "insufficient_funds"): CROWD - 1}
    assert (available(api, asha), available(api, ravi)) == (0, 100)
    page = api.call("GET", "/v1/wallets/INR/transactions?status=Failure", token=asha.token).json()
    recorded = {one["id"] for one in page["data"]}
    assert recorded == {answer.json()["transaction_id"] for answer in answers if answer.status_code == 422}
    assert len(recorded) == CROWD - 1


def test_twenty_send_the_same_key(api: Api, asha: Person) -> None:
    ravi = api.sign_up("ravi")
    answers = at_once(lambda _: send(api, asha, ravi, "key-12345", 60))
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (201, "replayed"): CROWD - 1}
    assert len({answer.content for answer in answers}) == 1
    assert (available(api, asha), available(api, ravi)) == (40, 60)


def test_twenty_pay_each_other(api: Api, asha: Person) -> None:
    ravi = api.sign_up("ravi")
    api.deposit(ravi, 100)
    ways = [(asha, ravi), (ravi, asha)]
    answers = at_once(lambda number: send(api, *ways[number % 2], f"key-{number:05}", 5))
    assert {outcome(answer) for answer in answers} == {(201, "")}
    assert (available(api, asha), available(api, ravi)) == (100, 100)


def test_twenty_deliver_the_same_event(api: Api, asha: Person) -> None:
    intent = api.intend(asha, 50)
    about = {"reference": intent["id"], "bank_reference": secrets.token_hex(8), "amount": 50, "currency": "INR"}
    now = datetime.now(UTC)
    body = json.dumps({"type": "deposit.succeeded", "timestamp": now.isoformat(), "data": about})
    signature = Webhook(api.endpoints.bank_secrets["hdfc"][0]).sign("msg_twenty", now, body)
    headers = {
        "webhook-id": "msg_twenty",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    answers = at_once(lambda _: api.call("POST", "/v1/webhooks/bank/hdfc", content=body, headers=headers))
    assert {answer.status_code for answer in answers} == {200}
    assert Counter(answer.json()["status"] for answer in answers) == {"processed": 1, "duplicate": CROWD - 1}
    assert available(api, asha) == 150


def test_twenty_open_the_same_deposit(api: Api, asha: Person) -> None:
    body = {"amount": 50, "bank": "hdfc"}
    answers = at_once(
        lambda _: api.call("POST", "/v1/wallets/INR/deposits", json=body, token=asha.token, key="key-12345")
    )
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (201, "replayed"): CROWD - 1}
    assert len({answer.content for answer in answers}) == 1


def test_approval_against_decline(api: Api, asha: Person) -> None:
    intent = api.intend(asha, 50)
    deliveries = at_once(lambda number: api.pay(intent["payment_url"], "approve" if number % 2 else "decline"))
    answers = Counter(delivery["answer"]["status"] for [delivery] in deliveries)
    assert answers["processed"] == 1
    assert answers.keys() <= {"processed", "duplicate", "quarantined"}
    end = api.call("GET", f"/v1/transactions/{intent['id']}", token=asha.token).json()
    assert available(api, asha) == (150 if end["status"] == "Success" else 100)


def test_twenty_open_the_same_wallet(api: Api, asha: Person) -> None:
    answers = at_once(lambda _: api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=asha.token))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: CROWD - 1}
    assert len({answer.content for answer in answers}) == 1
    assert len(api.call("GET", "/v1/wallets", token=asha.token).json()["data"]) == 2


def test_twenty_want_the_same_handle(api: Api, database: Database) -> None:
    """Twenty requests, of four people."""
    people, handle = [api.sign_up("ravi") for _ in range(4)], f"first_{secrets.token_hex(6)}"
    ask = {"handle": handle}
    answers = at_once(lambda number: api.call("PATCH", "/v1/me", json=ask, token=people[number % 4].token))
    winners = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert Counter(map(outcome, answers)) == {(200, ""): CROWD // 4, (409, "handle_taken"): CROWD - CROWD // 4}
    with psycopg.connect(database.url) as owner:
        holders = owner.execute("SELECT id::text FROM okane.people WHERE handle = %s", [handle]).fetchall()
    assert set(holders) == {(winner,) for winner in winners}
