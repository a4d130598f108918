"""Reads: never older than asked for, and histories in pages whose cursors hold while new rows arrive."""

import base64
import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.api import Person
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Platform

LINES = 12


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def ravi(api: CheckedApi) -> Person:
    return api.sign_up("Ravi")


@pytest.fixture(scope="module")
def asha(api: CheckedApi, ravi: Person) -> Person:
    """Somebody with a deposit, an open deposit, payments out and in, and a payment that failed."""
    person = api.sign_up("Asha")
    api.deposit(person, 10_000)
    api.intend(person, 77)
    for amount in range(1, LINES - 3):
        assert pay(api, person, ravi, amount).status_code == 201
    assert pay(api, ravi, person, 5).status_code == 201
    assert pay(api, person, ravi, 1_000_000).status_code == 422
    return person


def pay(api: CheckedApi, payer: Person, payee: Person, amount: int) -> httpx.Response:
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=f"key-{secrets.token_hex(12)}")


def ask(api: CheckedApi, person: Person, **query: object) -> httpx.Response:
    return api.call("GET", f"/v1/wallets/INR/transactions?{urlencode(query)}", token=person.token)


def lines(api: CheckedApi, person: Person, **query: object) -> list[dict[str, Any]]:
    """All of the history that the query selects, page by page."""
    found: list[dict[str, Any]] = []
    for _ in range(100):
        page = ask(api, person, **query).json()
        found += page["data"]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        query["cursor"] = page["next_cursor"]
    raise AssertionError("the pages have no end")


def test_pages_of_any_size_make_the_same_history(api: CheckedApi, asha: Person) -> None:
    whole = lines(api, asha)
    assert len(whole) == LINES
    for limit in (1, 2, 5, 11, 12, 13, 100):
        assert lines(api, asha, limit=limit) == whole, limit
    times = [line["created_at"] for line in whole]
    assert times == sorted(times, reverse=True)
    assert len({line["id"] for line in whole}) == LINES


def test_filters_select(api: CheckedApi, asha: Person, ravi: Person) -> None:
    whole = lines(api, asha)
    for kind in ("deposit", "withdrawal", "transfer", "refund"):
        assert lines(api, asha, kind=kind, limit=3) == [line for line in whole if line["kind"] == kind], kind
    for status in ("Processing", "Success", "Failure"):
        assert lines(api, asha, status=status, limit=3) == [line for line in whole if line["status"] == status], status
    assert [line["amount"] for line in lines(api, asha, kind="deposit", status="Processing")] == [77]
    assert [line["amount"] for line in lines(api, asha, kind="transfer", status="Failure")] == [1_000_000]
    assert all(line["status"] == "Success" and line["direction"] == "in" for line in lines(api, ravi, status="Success")
               if line["amount"] != 5)  # fmt: skip
    assert not [line for line in lines(api, ravi) if line["status"] == "Failure"], "another's failure is not shown"


def test_from_is_included_and_to_is_not(api: CheckedApi, asha: Person) -> None:
    whole = lines(api, asha)
    middle = whole[5]["created_at"]
    since = lines(api, asha, **{"from": middle})
    until = lines(api, asha, to=middle)
    assert since == [line for line in whole if line["created_at"] >= middle]
    assert until == [line for line in whole if line["created_at"] < middle]
    assert since + until == whole
    # Any zone, and pages within the span.
    local = datetime.fromisoformat(middle).astimezone(tz=datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    assert lines(api, asha, limit=2, **{"from": local.isoformat()}) == since
    later = (datetime.fromisoformat(whole[0]["created_at"]) + timedelta(milliseconds=1)).isoformat()
    assert lines(api, asha, **{"from": later}) == []


def test_a_cursor_holds_while_new_rows_arrive(api: CheckedApi, ravi: Person) -> None:
    person = api.sign_up("Asha")
    api.deposit(person, 1000)
    for amount in range(1, 8):
        pay(api, person, ravi, amount)
    before = lines(api, person)
    page = ask(api, person, limit=3).json()
    seen = page["data"]
    while page["has_more"]:
        pay(api, person, ravi, 99)
        api.intend(person, 99)
        page = ask(api, person, limit=3, cursor=page["next_cursor"]).json()
        seen += page["data"]
    assert seen == before


def test_a_cursor_is_bound_to_its_owner_its_list_and_its_filters(api: CheckedApi, asha: Person, ravi: Person) -> None:
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=asha.token)
    cursor = ask(api, asha, limit=2).json()["next_cursor"]
    filtered = ask(api, asha, limit=2, kind="transfer").json()["next_cursor"]
    assert ask(api, asha, limit=5, cursor=cursor).status_code == 200, "another size is no other list"
    assert ask(api, asha, limit=2, kind="transfer", cursor=filtered).status_code == 200
    for answer in (
        ask(api, ravi, limit=2, cursor=cursor),
        ask(api, asha, limit=2, cursor=cursor, kind="transfer"),
        ask(api, asha, limit=2, cursor=cursor, status="Success"),
        ask(api, asha, limit=2, cursor=cursor, to="2030-01-01T00:00:00Z"),
        ask(api, asha, limit=2, cursor=cursor, **{"from": "2020-01-01T00:00:00Z"}),
        ask(api, asha, limit=2, cursor=filtered),
        ask(api, asha, limit=2, cursor=filtered, kind="deposit"),
        api.call("GET", f"/v1/wallets/USD/transactions?cursor={cursor}", token=asha.token),
    ):
        refused(answer, 400, "cursor_invalid")


def test_a_tampered_cursor_is_refused(api: CheckedApi, asha: Person) -> None:
    cursor = ask(api, asha, limit=2).json()["next_cursor"]
    raw = base64.urlsafe_b64decode(cursor)
    flipped = [bytes([*raw[:at], raw[at] ^ 1, *raw[at + 1 :]]) for at in range(len(raw))]
    forged = [base64.urlsafe_b64encode(one).decode() for one in (*flipped, raw[:-1], raw + b"\0", raw[:8], b"")]
    for one in (*forged, cursor + "=", cursor[:-1], " " + cursor, cursor.swapcase(), "x", "1", "a" * 3000, "\0", "é"):
        refused(ask(api, asha, limit=2, cursor=one), 400, "cursor_invalid")


@pytest.mark.parametrize("limit", ["1", "100", "025"])
def test_limits_that_are_taken(api: CheckedApi, asha: Person, limit: str) -> None:
    assert len(ask(api, asha, limit=limit).json()["data"]) == min(LINES, int(limit))


def test_another_wallet_has_another_history(api: CheckedApi, asha: Person) -> None:
    person = api.sign_up("Asha")
    refused(api.call("GET", "/v1/wallets/GBP/transactions", token=person.token), 404, "not_found")
    api.call("POST", "/v1/wallets", json={"currency": "GBP"}, token=person.token)
    api.deposit(person, 300, "GBP", "axis")
    page = api.call("GET", "/v1/wallets/GBP/transactions", token=person.token).json()
    assert [(line["currency"], line["amount"]) for line in page["data"]] == [("GBP", 300)]
    assert ask(api, person).json()["data"] == []


def test_a_read_is_never_older_than_asked_for(api: CheckedApi, asha: Person) -> None:
    api.deposit(asha, 700)
    answer = api.call("GET", "/v1/wallets/INR", token=asha.token)
    version = answer.json()["version"]
    assert answer.headers["etag"] == f'"{version}"'
    assert answer.headers["okane-cache"] in ("hit", "miss", "bypass")
    assert api.call("GET", f"/v1/wallets/INR?min_version={version}", token=asha.token).json()["version"] == version
    for path in ("/v1/wallets/INR", "/v1/wallets/INR/transactions"):
        history = api.call("GET", f"{path}?min_version={version}", token=asha.token)
        assert history.headers["etag"] == f'"{version}"'
        refused(api.call("GET", f"{path}?min_version={version + 1}", token=asha.token), 409, "state_conflict")


def test_an_unchanged_wallet_comes_from_the_cache(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    api.deposit(person, 700)
    answers = [api.call("GET", "/v1/wallets/INR", token=person.token) for _ in range(3)]
    assert answers[-1].headers["okane-cache"] == "hit"
    assert answers[0].json() == answers[-1].json()


def test_warming_fills_the_cache_behind_the_readers_back(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    api.call("POST", "/v1/cache/warm", token=person.token)
    deadline = time.monotonic() + 20
    while True:  # the warmer runs on its own
        answer = api.call("GET", "/v1/wallets/INR/transactions", token=person.token)
        if answer.headers["okane-cache"] == "hit":
            break
        assert time.monotonic() < deadline, answer.headers
    assert answer.json() == {"data": [], "has_more": False, "next_cursor": None}
