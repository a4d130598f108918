"""What nobody may learn: the name behind a handle without paying, and anybody's data from a log."""

import httpx
import psycopg
import pytest

from tests.support.api import Api, Person
from tests.support.platform import Database, Platform


@pytest.fixture(scope="module")
def asha(api: Api) -> Person:
    return api.sign_up("Asha Visvesvaraya")


@pytest.fixture(scope="module")
def ravi(api: Api) -> Person:
    return api.sign_up("Ravi Kumar")


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


def test_a_bug_in_the_database_is_a_500_and_shows_nobody(
    api: Api, asha: Person, platform: Platform, database: Database
) -> None:
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
    assert api.call("PATCH", "/v1/me", json={"name": "Asha"}, token=asha.token).status_code == 200
