"""Holds, refunds, withdrawals, limits, freezes and batches through HTTP: as documented, kept right in the cache, and with one
outcome when twenty ask at once."""

import secrets
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.support.api import Person
from tests.support.bank import Bank, event
from tests.support.books import Ledger, check_books
from tests.support.contract import CheckedApi, refused
from tests.support.crowd import CROWD, at_once, outcome
from tests.support.owner import Owner, Stand, away_from_midnight
from tests.support.platform import Database, Platform

LOST = (409, "state_conflict")
ACCOUNT = {"bank": "hdfc", "account": "00123456789"}


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply against the contract."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture
def stand(database: Database) -> Iterator[Stand]:
    """The owner, and the books that must add up after every test, without a deadlock in it."""
    with Ledger(database.app_url) as ledger, Owner(database.url) as owner:
        yield Stand(ledger, owner)
        assert check_books(database.url) == []
        assert owner.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


@pytest.fixture
def people(api: CheckedApi, stand: Stand) -> Iterator[tuple[Person, Person]]:
    """Two people; the first has 1000. Whatever was done to them, the cache says what the books say."""
    asha, ravi = api.sign_up("asha"), api.sign_up("ravi")
    api.deposit(asha, 1000)
    yield asha, ravi
    for person in (asha, ravi):
        kept = api.call("GET", "/v1/wallets/INR", token=person.token)
        [wallet] = read(api, person, "/v1/wallets")["data"]
        assert kept.json() == wallet, kept.headers["okane-cache"]
        pages = [read(api, person, f"/v1/wallets/INR/transactions{query}")["data"] for query in ("", "?limit=24")]
        assert pages[0][:24] == pages[1]


def read(api: CheckedApi, who: Person, path: str) -> Any:
    """A 200 answer's JSON."""
    answer = api.call("GET", path, token=who.token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(api: CheckedApi, who: Person, path: str, key: str = "", **body: Any) -> httpx.Response:
    """POST under a key, a fresh one if none is given."""
    return api.call("POST", path, json=body, token=who.token, key=key or f"key-{secrets.token_hex(12)}")


def pay(api: CheckedApi, payer: Person, payee: Person, amount: int = 100, key: str = "", **more: Any) -> httpx.Response:
    return post(api, payer, "/v1/transfers", key, to=f"@{payee.handle}", amount=amount, currency="INR", **more)


def hold(api: CheckedApi, payer: Person, payee: Person, amount: int = 100, **more: Any) -> str:
    """The path of a hold that succeeds. Both have looked at their wallets before, so that they are cached."""
    for person in (payer, payee):
        for path in ("/v1/wallets/INR", "/v1/wallets/INR/transactions"):
            read(api, person, path)
    made = pay(api, payer, payee, amount, capture="manual", **more)
    assert (made.status_code, made.json()["status"]) == (201, "Processing"), made.text
    return f"/v1/transfers/{made.json()['id']}"


def money(api: CheckedApi, *people: Person) -> list[tuple[int, int]]:
    """What each has, available and locked, not from a cache."""
    wallets = [read(api, person, "/v1/wallets")["data"][0] for person in people]
    return [(wallet["available"], wallet["locked"]) for wallet in wallets]


def said_twice(first: httpx.Response, again: httpx.Response) -> None:
    """The second answer is the first one, and says so."""
    assert "idempotent-replayed" not in first.headers
    assert (again.status_code, again.headers["idempotent-replayed"]) == (first.status_code, "true"), again.text
    assert again.json() | {"request_id": ""} == first.json() | {"request_id": ""}


# One at a time


def test_hold_and_capture_in_part(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi, 100, expires_in=60)
    mine, theirs = read(api, asha, held), read(api, ravi, held)
    lasts = datetime.fromisoformat(mine["expires_at"]) - datetime.fromisoformat(mine["created_at"])
    assert lasts.total_seconds() == 60
    assert (theirs["direction"], theirs["status"], theirs["expires_at"]) == ("in", "Processing", mine["expires_at"])
    problem = refused(post(api, ravi, f"{held}/capture", "key-capture", amount=101), 422, "validation_failed")
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("/amount", "more_than_held")]
    first = post(api, ravi, f"{held}/capture", "key-capture", amount=60)
    assert (first.status_code, first.json()["status"], first.json()["captured_amount"]) == (200, "Success", 60)
    said_twice(first, post(api, ravi, f"{held}/capture", "key-capture", amount=60))
    for amount in ({}, {"amount": 61}, {"amount": 101}):
        refused(post(api, ravi, f"{held}/capture", "key-capture", **amount), 422, "idempotency_key_reused")
    assert money(api, asha, ravi) == [(940, 0), (60, 0)]
    for path in ("capture", "void"):
        assert outcome(post(api, ravi, f"{held}/{path}")) == LOST


def test_hold_and_void(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    first = post(api, ravi, f"{held}/void", "key-void")
    assert (first.status_code, first.json()["failure"]["code"]) == (200, "voided")
    # The body may be left out, and an empty one says the same.
    bare = api.call("POST", f"{held}/void", token=ravi.token, key="key-void")
    said_twice(first, bare)
    assert outcome(post(api, ravi, f"{held}/capture", "key-void")) == LOST, (
        "the same key on another route is another key"
    )
    assert outcome(post(api, ravi, f"{held}/refunds")) == LOST
    assert money(api, asha, ravi) == [(1000, 0), (0, 0)]


def test_hold_that_is_over(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    """No sweep runs here: whoever comes too late releases it, and that is not undone by the refusal."""
    asha, ravi = people
    held = hold(api, asha, ravi)
    stand.owner.expire(held.rpartition("/")[2])
    problem = refused(post(api, ravi, f"{held}/capture", "key-late"), 409, "state_conflict")
    assert "expired" in problem["detail"]
    assert read(api, asha, held)["failure"]["code"] == "expired"
    assert outcome(post(api, ravi, f"{held}/capture", "key-late")) == LOST
    assert money(api, asha, ravi) == [(1000, 0), (0, 0)]


def test_terms_of_a_hold(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    week = read(api, asha, hold(api, asha, ravi))
    lasts = datetime.fromisoformat(week["expires_at"]) - datetime.fromisoformat(week["created_at"])
    assert lasts.total_seconds() == 7 * 24 * 3600
    for more in ({"expires_in": 60}, {"expires_in": 60, "capture": "automatic"}):
        problem = refused(pay(api, asha, ravi, **more), 422, "validation_failed")
        assert [fault["pointer"] for fault in problem["errors"]] == ["/expires_in"]
    held = pay(api, asha, ravi, key="key-terms", capture="manual")
    said_twice(held, pay(api, asha, ravi, key="key-terms", capture="manual", expires_in=604_800))
    for other in ({}, {"capture": "automatic"}, {"capture": "manual", "expires_in": 604_799}):
        refused(pay(api, asha, ravi, key="key-terms", **other), 422, "idempotency_key_reused")
    first = pay(api, asha, ravi, 801, key="key-too-much", capture="manual")
    problem = refused(first, 422, "insufficient_funds")
    said_twice(first, pay(api, asha, ravi, 801, key="key-too-much", capture="manual"))
    failed = read(api, asha, f"/v1/transfers/{problem['transaction_id']}")
    assert (failed["status"], failed["counterparty"]["name"]) == ("Failure", "ra***")
    for path in ("capture", "void", "refunds"):
        refused(post(api, ravi, f"/v1/transfers/{problem['transaction_id']}/{path}"), 404, "not_found")


def test_refunds(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    paid = f"/v1/transfers/{pay(api, asha, ravi).json()['id']}"
    first = post(api, ravi, f"{paid}/refunds", "key-refund", amount=30, note="one was broken")
    refund = first.json()
    assert (first.status_code, refund["kind"], refund["refund_of"]) == (201, "refund", paid.rpartition("/")[2])
    said_twice(first, post(api, ravi, f"{paid}/refunds", "key-refund", amount=30, note="one was broken"))
    refused(post(api, ravi, f"{paid}/refunds", "key-refund", amount=30), 422, "idempotency_key_reused")
    refused(post(api, ravi, f"{paid}/refunds", amount=71), 422, "refund_exceeds_original")
    assert read(api, asha, paid)["refunded_amount"] == 30
    for path in (f"/v1/transfers/{refund['id']}", f"/v1/transactions/{refund['id']}"):
        assert read(api, asha, path) | {"direction": "out"} == refund | {
            "counterparty": {"handle": ravi.handle, "name": "ravi"}, "balance_after": 930, "wallet_version": 4
        }  # fmt: skip
    assert [one["id"] for one in read(api, asha, "/v1/wallets/INR/transactions?kind=refund")["data"]] == [refund["id"]]
    pay(api, ravi, asha, 70)
    short = post(api, ravi, f"{paid}/refunds", "key-short")
    problem = refused(short, 422, "insufficient_funds")
    said_twice(short, post(api, ravi, f"{paid}/refunds", "key-short"))
    failed = read(api, ravi, f"/v1/transactions/{problem['transaction_id']}")
    assert (failed["kind"], failed["status"], failed["amount"]) == ("refund", "Failure", 70)
    refused(api.call("GET", f"/v1/transactions/{failed['id']}", token=asha.token), 404, "not_found")


def test_withdrawals(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, _ = people
    path = "/v1/wallets/INR/withdrawals"
    first = post(api, asha, path, "key-paid", amount=300, **ACCOUNT)
    opened = first.json()
    assert (first.status_code, opened["kind"], opened["counterparty"]) == (201, "withdrawal", {"bank": "hdfc"})
    said_twice(first, post(api, asha, path, "key-paid", amount=300, **ACCOUNT))
    for other in ({"amount": 301}, {"account": "00123456780"}, {"bank": "axis"}):
        body: dict[str, Any] = {"amount": 300, **ACCOUNT} | other
        refused(post(api, asha, path, "key-paid", **body), 422, "idempotency_key_reused")
    [delivery] = api.pay(opened["payment_url"])
    assert delivery["answer"] == {"status": "processed"}
    assert read(api, asha, f"/v1/transactions/{opened['id']}")["status"] == "Success"
    declined = post(api, asha, path, amount=200, **ACCOUNT).json()
    assert money(api, asha) == [(500, 200)]
    api.pay(declined["payment_url"], "decline")
    failed = read(api, asha, f"/v1/transactions/{declined['id']}")
    assert (failed["status"], failed["failure"]["code"]) == ("Failure", "declined")
    short = post(api, asha, path, "key-short", amount=701, **ACCOUNT)
    assert refused(short, 422, "insufficient_funds")["transaction_id"]
    said_twice(short, post(api, asha, path, "key-short", amount=701, **ACCOUNT))
    refused(post(api, asha, "/v1/wallets/USD/withdrawals", amount=1, **ACCOUNT), 404, "not_found")
    refused(api.call("GET", f"/v1/transfers/{opened['id']}", token=asha.token), 404, "not_found")
    assert money(api, asha) == [(700, 0)]


def test_limits(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    asha, ravi = people
    away_from_midnight()
    try:
        stand.owner.limit("INR", day_amount=100, payment=90)
        assert pay(api, asha, ravi, 60).status_code == 201
        refusals = {
            "transfer": (asha, "/v1/transfers", {"to": f"@{ravi.handle}", "amount": 41, "currency": "INR"}),
            "withdrawal": (asha, "/v1/wallets/INR/withdrawals", {"amount": 41, **ACCOUNT}),
        }
        for name, (who, path, body) in refusals.items():
            first = post(api, who, path, f"key-{name}", **body)
            problem = refused(first, 422, "limit_exceeded")
            limit = problem["limit"]
            assert (limit["name"], limit["used"], limit["cap"]) == ("day_amount", 60, 100)
            assert limit["resets_at"].endswith("T00:00:00.000Z")
            recorded = read(api, asha, f"/v1/transactions/{problem['transaction_id']}")
            assert recorded["failure"]["code"] == "limit_exceeded"
            said_twice(first, post(api, who, path, f"key-{name}", **body))
        [item] = post(api, asha, "/v1/transfers/batch", currency="INR", items=[
            {"to": f"@{ravi.handle}", "amount": 91}]).json()["data"]  # fmt: skip
        assert item["refusal"]["limit"] == {"name": "payment", "used": 0, "cap": 90, "resets_at": None}
    finally:
        stand.owner.limit("INR")


def test_freezes(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    stand.owner.switch(asha.handle, debit=True, credit=True)
    first = pay(api, asha, ravi, key="key-frozen")
    assert refused(first, 422, "wallet_frozen")["transaction_id"]
    for answer in (
        post(api, ravi, f"{held}/capture", "key-capture"),
        post(api, asha, "/v1/wallets/INR/deposits", amount=1, bank="hdfc"),
    ):
        assert "transaction_id" not in refused(answer, 422, "wallet_frozen"), "not recorded"
    assert refused(post(api, asha, "/v1/wallets/INR/withdrawals", amount=1, **ACCOUNT), 422, "wallet_frozen")
    stand.owner.switch(asha.handle, debit=False, credit=False)
    said_twice(first, pay(api, asha, ravi, key="key-frozen"))
    assert post(api, ravi, f"{held}/capture", "key-capture").status_code == 200


def test_batches(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    items = [{"to": f"@{to}", "amount": amount} for to, amount in (
        (ravi.handle, 100), ("nobody_at_all", 1), (asha.handle, 1), (ravi.handle, 901), (ravi.handle, 200))]  # fmt: skip
    body: dict[str, Any] = {"currency": "INR", "items": items}
    first = post(api, asha, "/v1/transfers/batch", "key-batch", **body)
    assert first.status_code == 201
    data = first.json()["data"]
    assert [item["refusal"] and item["refusal"]["code"] for item in data] == [
        None, "recipient_not_found", "self_transfer", "insufficient_funds", None
    ]  # fmt: skip
    assert [item["transaction"] and item["transaction"]["status"] for item in data] == [
        "Success", None, None, "Failure", "Success"
    ]  # fmt: skip
    said_twice(first, post(api, asha, "/v1/transfers/batch", "key-batch", **body))
    refused(
        post(api, asha, "/v1/transfers/batch", "key-batch", **body, all_or_nothing=True), 422, "idempotency_key_reused"
    )
    for bad, code, status in (
        (3, "insufficient_funds", 422),
        (1, "recipient_not_found", 404),
        (2, "self_transfer", 422),
    ):
        body = {"currency": "INR", "items": [items[0], items[bad]]}
        whole = post(api, asha, "/v1/transfers/batch", f"key-whole-{bad}", **body, all_or_nothing=True)
        problem = refused(whole, status, code)
        assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("/items/1", code)]
        assert "transaction_id" not in problem
        again = post(api, asha, "/v1/transfers/batch", f"key-whole-{bad}", **body, all_or_nothing=True)
        said_twice(whole, again)
    assert money(api, asha, ravi) == [(700, 0), (300, 0)]
    guesses = [{"to": f"@nobody_{number}", "amount": 1} for number in range(31)]
    limited = post(api, asha, "/v1/transfers/batch", currency="INR", items=guesses)
    assert refused(limited, 429, "rate_limited")["retryable"]
    refused(post(api, asha, "/v1/transfers/batch", currency="EUR", items=items), 422, "currency_mismatch")


def test_one_key_on_every_route(api: CheckedApi, people: tuple[Person, Person]) -> None:
    """A key belongs to a route as well as to a person."""
    asha, ravi = people
    api.deposit(ravi, 100)
    one, two = hold(api, asha, ravi), hold(api, asha, ravi)
    paid = pay(api, asha, ravi).json()["id"]
    answers = [
        pay(api, ravi, asha, 1, key="key-shared"),
        post(
            api,
            ravi,
            "/v1/transfers/batch",
            "key-shared",
            currency="INR",
            items=[{"to": f"@{asha.handle}", "amount": 1}],
        ),
        post(api, ravi, f"{one}/capture", "key-shared"),
        post(api, ravi, f"{two}/void", "key-shared"),
        post(api, ravi, f"/v1/transfers/{paid}/refunds", "key-shared"),
        post(api, ravi, "/v1/wallets/INR/withdrawals", "key-shared", amount=1, **ACCOUNT),
        post(api, ravi, "/v1/wallets/INR/deposits", "key-shared", amount=1, bank="hdfc"),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 201, 201, 201]
    assert not [answer for answer in answers if "idempotent-replayed" in answer.headers]


def test_receiving_wallet_is_right_in_every_read(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    """Also for who has looked at it a moment before it was flagged, and when it is no longer."""
    asha, ravi = people
    for number, receiving in enumerate((True, False, True)):
        for path in ("/v1/wallets/INR", "/v1/wallets/INR/transactions"):
            read(api, ravi, path)
        stand.owner.switch(ravi.handle, receiving=receiving)
        pay(api, asha, ravi, 10)
        wallet = read(api, ravi, "/v1/wallets/INR")
        assert (wallet["available"], wallet["version"]) == (10 * number + 10, number + 1)
        assert read(api, ravi, f"/v1/wallets/INR?min_version={number + 1}") == wallet
        [last, *_] = read(api, ravi, "/v1/wallets/INR/transactions")["data"]
        assert (last["balance_after"], last["wallet_version"]) == (10 * number + 10, number + 1)
        assert read(api, ravi, f"/v1/transactions/{last['id']}") == last


# Twenty at once


def test_twenty_capture(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    answers = at_once(lambda number: post(api, ravi, f"{held}/capture", amount=60))
    assert Counter(map(outcome, answers)) == {(200, ""): 1, LOST: CROWD - 1}
    assert money(api, asha, ravi) == [(940, 0), (60, 0)]


def test_twenty_capture_under_one_key(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    answers = at_once(lambda _: post(api, ravi, f"{held}/capture", "key-capture"))
    assert Counter(map(outcome, answers)) == {(200, ""): 1, (200, "replayed"): CROWD - 1}
    assert len({answer.content for answer in answers}) == 1
    assert money(api, asha, ravi) == [(900, 0), (100, 0)]


def test_twenty_void(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    answers = at_once(lambda _: post(api, ravi, f"{held}/void"))
    assert Counter(map(outcome, answers)) == {(200, ""): 1, LOST: CROWD - 1}
    assert money(api, asha, ravi) == [(1000, 0), (0, 0)]


def test_ten_capture_and_ten_void(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    held = hold(api, asha, ravi)
    answers = at_once(lambda number: post(api, ravi, f"{held}/{'void' if number % 2 else 'capture'}"))
    assert Counter(map(outcome, answers)) == {(200, ""): 1, LOST: CROWD - 1}
    [won] = [answer.json()["status"] for answer in answers if answer.status_code == 200]
    assert read(api, asha, held)["status"] == won
    assert money(api, asha, ravi) == [[(900, 0), (100, 0)], [(1000, 0), (0, 0)]][won == "Failure"]


def test_twenty_capture_when_time_is_up(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    """Some come before that moment, some after."""
    asha, ravi = people
    held = [hold(api, asha, ravi) for _ in range(5)]
    for number, path in enumerate(held):
        stand.owner.expire(path.rpartition("/")[2], 100 + 100 * number)

    def race(number: int) -> list[httpx.Response]:
        return [post(api, ravi, f"{path}/capture") for path in held[number % 5 :] + held[: number % 5]]

    answers = [answer for found in at_once(race) for answer in found]
    stand.ledger.call("sweep_holds", 100)
    assert set(map(outcome, answers)) <= {(200, ""), LOST}
    captured = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    assert len(captured) == sum(answer.status_code == 200 for answer in answers)
    for path in held:
        seen = api.call("GET", path, token=asha.token).json()
        assert seen["status"] == ("Success" if seen["id"] in captured else "Failure")
        assert (seen["completed_at"] < seen["expires_at"]) == (seen["id"] in captured)
    assert money(api, asha, ravi) == [(1000 - 100 * len(captured), 0), (100 * len(captured), 0)]


def test_twenty_refund(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    paid = pay(api, asha, ravi).json()["id"]
    api.deposit(ravi, 500)
    answers = at_once(lambda _: post(api, ravi, f"/v1/transfers/{paid}/refunds", amount=30))
    assert Counter(map(outcome, answers)) == {(201, ""): 3, (422, "refund_exceeds_original"): CROWD - 3}
    assert money(api, asha, ravi) == [(990, 0), (510, 0)]
    assert api.call("GET", f"/v1/transfers/{paid}", token=asha.token).json()["refunded_amount"] == 90


def test_twenty_withdraw(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, _ = people
    bank = Bank(api)
    answers = at_once(lambda _: post(api, asha, "/v1/wallets/INR/withdrawals", amount=1000, **ACCOUNT))
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (422, "insufficient_funds"): CROWD - 1}
    assert money(api, asha) == [(0, 1000)]
    [opened] = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    # And the bank pays it and declines it, all at once.
    kinds = ("withdrawal.succeeded", "withdrawal.failed")
    told = at_once(lambda number: bank.tell(event(opened, 1000, kinds[number % 2])))
    assert Counter(told)["processed"] == 1
    paid = read(api, asha, f"/v1/transactions/{opened}")["status"] == "Success"
    assert money(api, asha) == [(0 if paid else 1000, 0)]


def test_twenty_at_95_of_100(api: CheckedApi, people: tuple[Person, Person], stand: Stand) -> None:
    asha, ravi = people
    away_from_midnight()
    try:
        stand.owner.limit("INR", day_amount=100)
        terms = {"to": f"@{ravi.handle}", "currency": "INR"}
        assert post(api, asha, "/v1/transfers", amount=95, **terms).status_code == 201
        answers = at_once(lambda number: post(api, asha, "/v1/transfers", amount=5, **terms))
    finally:
        stand.owner.limit("INR")
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (422, "limit_exceeded"): CROWD - 1}
    limits = [answer.json()["limit"] for answer in answers if answer.status_code == 422]
    assert {(limit["name"], limit["used"], limit["cap"]) for limit in limits} == {("day_amount", 100, 100)}
    assert money(api, asha, ravi) == [(900, 0), (100, 0)]


def test_twenty_send_one_batch(api: CheckedApi, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    terms = {"currency": "INR", "items": [{"to": f"@{ravi.handle}", "amount": amount} for amount in (10, 20)]}
    answers = at_once(lambda _: post(api, asha, "/v1/transfers/batch", "key-batch", **terms))
    assert Counter(map(outcome, answers)) == {(201, ""): 1, (201, "replayed"): CROWD - 1}
    assert len({answer.content for answer in answers}) == 1
    assert money(api, asha, ravi) == [(970, 0), (30, 0)]
