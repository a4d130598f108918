"""GET /v1/wallets/{currency}?at_version=N: the wallet as it was."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.api import Person
from tests.support.contract import CheckedApi, refused
from tests.support.owner import Owner
from tests.support.platform import Database, Platform
from tests.test_statements_http import act, pay


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def asha(api: CheckedApi) -> Person:
    """Somebody with a deposit, a payment, a hold that was captured in part, and one that failed: seven versions."""
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(asha, 1000)
    pay(api, asha, ravi, 100)
    hold = pay(api, asha, ravi, 300, capture="manual", expires_in=600)
    act(api, ravi, f"/v1/transfers/{hold['id']}/capture", amount=120)
    pay(api, asha, ravi, 5000)
    return asha


def ask(api: CheckedApi, person: Person, query: str, currency: str = "INR") -> httpx.Response:
    return api.call("GET", f"/v1/wallets/{currency}?{query}", token=person.token)


def test_every_version_is_the_wallet_as_it_was(api: CheckedApi, asha: Person) -> None:
    found: list[dict[str, Any]] = []
    for version in range(7):
        answer = ask(api, asha, f"at_version={version}")
        assert answer.headers["okane-cache"] == "bypass"
        assert answer.headers["etag"] == f'"{version}"'
        found.append(answer.json())
    assert [(one["version"], one["available"], one["locked"], one["total"]) for one in found] == [
        (0, 0, 0, 0), (1, 0, 0, 0), (2, 1000, 0, 1000), (3, 900, 0, 900), (4, 600, 300, 900), (5, 780, 0, 780),
        (6, 780, 0, 780),
    ]  # fmt: skip
    assert found[6] == ask(api, asha, "").json(), "the present version is the wallet as it is"
    signed_up = api.call("GET", "/v1/me", token=asha.token).json()["created_at"]
    assert found[0]["as_of"] == signed_up
    history = api.call("GET", "/v1/wallets/INR/transactions", token=asha.token).json()["data"]
    made = {line["wallet_version"]: line["completed_at"] for line in history}
    assert {version: found[version]["as_of"] for version in made} == made
    assert [one["as_of"] for one in found] == sorted(one["as_of"] for one in found)


def test_a_version_that_is_not_reached_is_a_conflict(api: CheckedApi, asha: Person) -> None:
    for version in (7, 8, 2**53 - 1):
        problem = refused(ask(api, asha, f"at_version={version}"), 409, "state_conflict")
        assert str(version) in problem["detail"]
        assert "version 6" in problem["detail"]
    api.intend(asha, 10)
    assert ask(api, asha, "at_version=7").json()["version"] == 7


@pytest.mark.parametrize(
    "version", ["", "-1", "1.0", "1e1", "0x1", "x", " 1", "9007199254740992", "9" * 20, "\u0661", "1,2"]
)
def test_a_version_is_a_whole_number(api: CheckedApi, asha: Person, version: str) -> None:
    problem = refused(ask(api, asha, str(httpx.QueryParams({"at_version": version}))), 422, "validation_failed")
    assert [fault["pointer"] for fault in problem["errors"]] == ["?at_version"]


def test_at_version_and_min_version_contradict_each_other(api: CheckedApi, asha: Person) -> None:
    for other in (1, 3, 10_000):
        problem = refused(ask(api, asha, f"at_version=3&min_version={other}"), 422, "validation_failed")
        assert [fault["pointer"] for fault in problem["errors"]] == ["?at_version"]
    assert ask(api, asha, "at_version=3&min_version=0").json()["version"] == 3, "0 asks for nothing"


def test_a_wallet_without_a_past(api: CheckedApi) -> None:
    person = api.sign_up("New")
    zero = ask(api, person, "at_version=0").json()
    assert (zero["version"], zero["total"]) == (0, 0)
    refused(ask(api, person, "at_version=1"), 409, "state_conflict")
    refused(ask(api, person, "at_version=0", "USD"), 404, "not_found")
    refused(api.call("GET", "/v1/wallets/INR?at_version=0"), 401, "token_missing")
    assert api.call("POST", "/v1/auth/logout", token=person.token).status_code == 204
    refused(ask(api, person, "at_version=0"), 401, "session_ended")


def test_a_receiving_wallet_has_every_version_that_it_shows(api: CheckedApi, database: Database) -> None:
    shop, asha = api.sign_up("Shop"), api.sign_up("Asha")
    api.deposit(asha, 100)
    with Owner(database.url) as owner:
        owner.switch(shop.handle, receiving=True)
        for amount in (1, 2, 4):
            pay(api, asha, shop, amount)
        [(waiting,)] = owner.rows("SELECT count(*) FROM arrivals")
        assert waiting == 3
    assert ask(api, shop, "").json()["version"] == 3
    assert [ask(api, shop, f"at_version={version}").json()["available"] for version in range(4)] == [0, 1, 3, 7]
    refused(ask(api, shop, "at_version=4"), 409, "state_conflict")
