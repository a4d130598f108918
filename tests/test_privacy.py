"""What nobody may learn: the name behind a handle without paying, what is between others, and anybody's data from a log."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.api import Api, Person
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Database, Platform


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply, but the one that is a bug."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def asha(api: Api) -> Person:
    return api.sign_up("Asha Visvesvaraya")


@pytest.fixture(scope="module")
def ravi(api: Api) -> Person:
    return api.sign_up("Ravi Kumar")


def key() -> str:
    """A fresh idempotency key."""
    return f"key-{secrets.token_hex(12)}"


def pay(api: Api, payer: Person, payee: Person, amount: int) -> httpx.Response:
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=f"pay-{payer.handle}-{amount}")


def test_a_payment_that_failed_does_not_show_the_name(api: Api, asha: Person, ravi: Person) -> None:
    refused = pay(api, ravi, asha, 5)
    assert refused.json()["code"] == "insufficient_funds"
    path = f"/v1/transactions/{refused.json()['transaction_id']}"
    assert api.call("GET", path, token=ravi.token).json()["counterparty"]["name"] == "As*** V."
    page = api.call("GET", "/v1/wallets/INR/transactions", token=ravi.token).json()
    assert [line["counterparty"]["name"] for line in page["data"]] == ["As*** V."]


def test_a_payment_that_arrived_shows_it(api: Api, asha: Person, ravi: Person) -> None:
    api.deposit(ravi, 1000)
    assert pay(api, ravi, asha, 10).json()["counterparty"]["name"] == asha.name


def test_a_bug_in_the_database_is_a_500_and_shows_nobody(asha: Person, platform: Platform, database: Database) -> None:
    api = Api(platform.endpoints)
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("ALTER TABLE okane.people ADD CONSTRAINT people_trap CHECK (name <> 'Trap') NOT VALID")
        answer = api.call("PATCH", "/v1/me", json={"name": "Trap"}, token=asha.token)
        owner.execute("ALTER TABLE okane.people DROP CONSTRAINT people_trap")
    assert (answer.status_code, answer.json()) == (500, {"message": "Internal Server Error"})
    log = (platform.state / "logs" / "functions.log").read_text()
    assert "CheckViolation 23514 people_trap in change_profile" in log
    assert '"route":"PATCH /v1/me","status":500' in log
    for private in (asha.email, "$argon2id$", asha.token):
        assert private not in log
    assert api.call("PATCH", "/v1/me", json={"name": asha.name}, token=asha.token).status_code == 200
    api.close()


# What is between others


@pytest.fixture(scope="module")
def between(api: CheckedApi, asha: Person, ravi: Person) -> dict[str, str]:
    """Transfers of Asha's to Ravi: a hold, a payment, one that was refused; a refund of his; and what is hers alone."""
    api.deposit(asha, 1000)
    hold, paid, refused_ = (
        api.call(
            "POST",
            "/v1/transfers",
            json={"to": f"@{ravi.handle}", "currency": "INR"} | terms,
            token=asha.token,
            key=key(),
        )
        for terms in ({"amount": 9, "capture": "manual"}, {"amount": 9}, {"amount": 10_000, "capture": "manual"})
    )
    refund = api.call(
        "POST", f"/v1/transfers/{paid.json()['id']}/refunds", json={"amount": 1}, token=ravi.token, key=key()
    )
    payout = {"amount": 9, "bank": "hdfc", "account": "ACCOUNT-4711"}
    withdrawal = api.call("POST", "/v1/wallets/INR/withdrawals", json=payout, token=asha.token, key=key())
    made = {"hold": hold, "paid": paid, "refund": refund, "withdrawal": withdrawal}
    found = {name: str(answer.json()["id"]) for name, answer in made.items()}
    return found | {"refused": refused_.json()["transaction_id"], "nothing": "00000000-0000-8000-8000-000000000000"}


@pytest.mark.parametrize("who", ["stranger", "another recipient"])
def test_others_cannot_tell_that_it_exists(api: CheckedApi, asha: Person, between: dict[str, str], who: str) -> None:
    """Neither read nor touched: not one byte of the answer tells it from what is not there."""
    stranger = api.sign_up("Zoe")
    if who == "another recipient":
        pay(api, asha, stranger, 1)
    _look_the_same(api, stranger, list(between.values()))


def test_recipient_cannot_tell_that_a_refused_payment_exists(
    api: CheckedApi, ravi: Person, between: dict[str, str]
) -> None:
    _look_the_same(api, ravi, [between["refused"], between["withdrawal"], between["nothing"]])


def _look_the_same(api: CheckedApi, who: Person, ids: list[str]) -> None:
    for method, path in (
        ("GET", "/v1/transactions/{}"),
        ("GET", "/v1/transfers/{}"),
        ("POST", "/v1/transfers/{}/capture"),
        ("POST", "/v1/transfers/{}/void"),
        ("POST", "/v1/transfers/{}/refunds"),
    ):
        answers = [api.call(method, path.format(one), token=who.token, key=key()) for one in ids]
        problems = [refused(answer, 404, "not_found") | {"request_id": ""} for answer in answers]
        assert all(problem == problems[0] for problem in problems)
        assert len({answer.headers["content-length"] for answer in answers}) == 1


def test_sender_may_look_but_not_touch(api: CheckedApi, asha: Person, between: dict[str, str]) -> None:
    for name in ("hold", "paid", "refused"):
        assert api.call("GET", f"/v1/transfers/{between[name]}", token=asha.token).status_code == 200
        for way in ("capture", "void", "refunds"):
            path = f"/v1/transfers/{between[name]}/{way}"
            refused(api.call("POST", path, token=asha.token, key=key()), 403, "forbidden")
    # What came back to her is not hers to give back again, and what goes to a bank is between her and the bank.
    for name in ("refund", "withdrawal"):
        for way in ("capture", "void", "refunds"):
            path = f"/v1/transfers/{between[name]}/{way}"
            refused(api.call("POST", path, token=asha.token, key=key()), 404, "not_found")


def test_account_at_the_bank_is_shown_to_nobody(
    api: CheckedApi, asha: Person, between: dict[str, str], platform: Platform
) -> None:
    shown = [api.call("GET", f"/v1/transactions/{between['withdrawal']}", token=asha.token)]
    shown += [api.call("GET", "/v1/wallets/INR/transactions", token=asha.token)]
    assert shown[0].json()["kind"] == "withdrawal"
    assert not [answer.text for answer in shown if "4711" in answer.text]
    assert "ACCOUNT-4711" not in (platform.state / "logs" / "functions.log").read_text()


def test_batches_and_holds_are_no_way_around_the_mask(api: CheckedApi, asha: Person, ravi: Person) -> None:
    """Who has not been paid has no name: not in a batch that failed, and not while the money is only held."""
    poor = api.sign_up("Poor")
    items = [{"to": f"@{one.handle}", "amount": 5} for one in (asha, ravi)]
    body: dict[str, Any] = {"currency": "INR", "items": items}
    made = api.call("POST", "/v1/transfers/batch", json=body, token=poor.token, key=key()).json()["data"]
    assert [item["transaction"]["counterparty"]["name"] for item in made] == ["As*** V.", "Ra*** K."]
    whole = api.call("POST", "/v1/transfers/batch", json=body | {"all_or_nothing": True}, token=poor.token, key=key())
    assert "Visvesvaraya" not in whole.text
    api.deposit(poor, 5)
    terms = {"to": f"@{ravi.handle}", "amount": 5, "currency": "INR", "capture": "manual"}
    held = api.call("POST", "/v1/transfers", json=terms, token=poor.token, key=key()).json()
    assert held["counterparty"]["name"] == "Ra*** K."
    api.call("POST", f"/v1/transfers/{held['id']}/void", token=ravi.token, key=key())
    history = api.call("GET", "/v1/wallets/INR/transactions", token=poor.token)
    assert "Kumar" not in history.text


# Handles


def test_recipients_are_masked_and_guessing_is_dear(api: CheckedApi, asha: Person, ravi: Person) -> None:
    seen = api.call("GET", f"/v1/recipients/{ravi.handle}", token=asha.token).json()
    assert seen == {"handle": ravi.handle, "name": "Ra*** K."}
    guesser = api.sign_up("Guesser")
    misses = 0
    while (answer := api.call("GET", f"/v1/recipients/nobody_{misses}", token=guesser.token)).status_code == 404:
        misses += 1
        assert misses <= 300
    refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 300
    assert answer.json()["retryable"] is True
    # Who has used up the guesses does not learn from hits either; others are not touched by it.
    refused(api.call("GET", f"/v1/recipients/{asha.handle}", token=guesser.token), 429, "rate_limited")
    assert api.call("GET", f"/v1/recipients/{asha.handle}", token=ravi.token).status_code == 200
    # Hits are cheap: more of them than misses go through.
    friend = api.sign_up("Friend")
    hits = [api.call("GET", f"/v1/recipients/{asha.handle}", token=friend.token) for _ in range(misses + 5)]
    assert {answer.status_code for answer in hits} == {200}


def test_paying_nobody_is_guessing_too(api: CheckedApi, asha: Person) -> None:
    guesser = api.sign_up("Guesser")
    body = {"to": "@nobody_at_all", "amount": 1, "currency": "INR"}
    missed = 0
    while (answer := api.call("POST", "/v1/transfers", json=body, token=guesser.token, key=key())).status_code == 404:
        missed += 1
        assert missed <= 30
    refused(answer, 429, "rate_limited")
    refused(api.call("GET", f"/v1/recipients/{asha.handle}", token=guesser.token), 429, "rate_limited")


def test_trying_out_handles_for_oneself_is_guessing_too(api: CheckedApi, asha: Person) -> None:
    guesser = api.sign_up("Guesser")
    tried = 0
    while (answer := api.call("PATCH", "/v1/me", json={"handle": asha.handle}, token=guesser.token)).status_code == 409:
        tried += 1
        assert tried <= 30
    assert tried == 30
    refused(answer, 429, "rate_limited")
    assert api.call("PATCH", "/v1/me", json={"name": "Guess"}, token=guesser.token).status_code == 200


def test_the_budget_for_guesses_comes_back(api: CheckedApi, platform: Platform, asha: Person) -> None:
    guesser = api.sign_up("Guesser")
    while api.call("GET", "/v1/recipients/nobody_here", token=guesser.token).status_code != 429:
        pass
    with psycopg.connect(platform.endpoints.database_url) as connection:
        connection.execute("UPDATE okane.budgets SET started_at = started_at - interval '301 s'")
    assert api.call("GET", f"/v1/recipients/{asha.handle}", token=guesser.token).status_code == 200
