"""Transfers and deposits through HTTP: exact answers, problems with their transaction, replays, both parties' views."""

import re
import secrets
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from okane_common import ids
from tests.support.api import Api, Person
from tests.support.books import DEPOSIT, FULL, TRANSFER, check_books
from tests.support.platform import Database

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PROBLEM = {"type", "title", "status", "detail", "code", "request_id", "retryable"}


@pytest.fixture
def people(api: Api) -> tuple[Person, Person]:
    """Two people; the first has 1000."""
    asha, ravi = api.sign_up("asha"), api.sign_up("ravi")
    api.deposit(asha, 1000)
    return asha, ravi


def send(api: Api, payer: Person, key: str, to: str, amount: int, **more: Any) -> httpx.Response:
    """POST /v1/transfers in INR."""
    body = {"to": f"@{to}", "amount": amount, "currency": "INR"} | more
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=key)


def intend(api: Api, payee: Person, key: str, bank: str = "axis", currency: str = "INR") -> httpx.Response:
    """POST /v1/wallets/{currency}/deposits of 500."""
    body = {"amount": 500, "bank": bank}
    return api.call("POST", f"/v1/wallets/{currency}/deposits", json=body, token=payee.token, key=key)


def read(api: Api, person: Person, path: str) -> Any:
    """A 200 answer's JSON."""
    answer = api.call("GET", path, token=person.token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def available(api: Api, person: Person) -> int:
    """What somebody with one wallet may spend, not from a cache."""
    [wallet] = read(api, person, "/v1/wallets")["data"]
    return int(wallet["available"])


def test_transfer_is_answered_replayed_and_seen_by_both(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    first = send(api, asha, "key-12345", ravi.handle, 300, note="rent")
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    made = first.json()
    assert MOMENT.fullmatch(made["created_at"])
    assert made == {
        "id": str(ids.transfer_id(uuid.UUID(asha.id), TRANSFER, "key-12345")),
        "kind": "transfer",
        "direction": "out",
        "status": "Success",
        "amount": 300,
        "currency": "INR",
        "counterparty": {"handle": ravi.handle, "name": "ravi"},
        "note": "rent",
        "refunded_amount": 0,
        "captured_amount": 300,
        "balance_after": 700,
        "wallet_version": 3,
        "failure": None,
        "created_at": made["created_at"],
        "completed_at": made["created_at"],
        "expires_at": None,
        "payment_url": None,
        "refund_of": None,
    }
    for _ in range(2):
        again = send(api, asha, "key-12345", ravi.handle, 300, note="rent")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert again.content == first.content
    received = {"direction": "in", "balance_after": 300, "wallet_version": 1}
    received["counterparty"] = {"handle": asha.handle, "name": "asha"}
    for path in (f"/v1/transfers/{made['id']}", f"/v1/transactions/{made['id']}"):
        assert read(api, asha, path) == made
        assert read(api, ravi, path) == made | received
    assert read(api, ravi, "/v1/wallets/INR/transactions")["data"] == [made | received]
    assert read(api, asha, "/v1/wallets/INR/transactions?kind=transfer")["data"] == [made]
    assert (available(api, asha), available(api, ravi)) == (700, 300)


def test_recorded_refusal_is_a_problem_with_its_transaction(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    first = send(api, asha, "key-12345", ravi.handle, 1001)
    problem = first.json()
    assert first.status_code == 422
    assert first.headers["content-type"] == "application/problem+json"
    assert "idempotent-replayed" not in first.headers
    assert problem.keys() == PROBLEM | {"transaction_id"}
    assert problem["type"].endswith("errors.md#insufficient_funds")
    assert (problem["code"], problem["status"], problem["retryable"]) == ("insufficient_funds", 422, False)
    assert problem["request_id"] == first.headers["x-request-id"]

    [failed] = read(api, asha, "/v1/wallets/INR/transactions?status=Failure")["data"]
    assert failed["id"] == problem["transaction_id"] == str(ids.transfer_id(uuid.UUID(asha.id), TRANSFER, "key-12345"))
    assert (failed["amount"], failed["balance_after"], failed["wallet_version"]) == (1001, 1000, 3)
    assert failed["failure"]["code"] == "insufficient_funds"
    assert read(api, ravi, "/v1/wallets/INR/transactions")["data"] == []
    assert api.call("GET", f"/v1/transfers/{failed['id']}", token=ravi.token).status_code == 404

    api.deposit(asha, 5000)
    again = send(api, asha, "key-12345", ravi.handle, 1001)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (422, "true")
    assert again.json() == problem | {"request_id": again.headers["x-request-id"]}
    assert (available(api, asha), available(api, ravi)) == (6000, 0)


def test_full_wallet_is_a_problem_with_its_transaction(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    api.deposit(ravi, FULL)
    answer = send(api, asha, "key-12345", ravi.handle, 1)
    assert (answer.status_code, answer.json()["code"]) == (422, "limit_exceeded")
    assert answer.json().keys() == PROBLEM | {"transaction_id", "limit"}
    assert answer.json()["limit"] == {"name": "recipient_balance", "used": None, "cap": FULL, "resets_at": None}
    assert available(api, ravi) == FULL
    back = send(api, ravi, "key-most", asha.handle, FULL - 1000)
    assert (back.status_code, back.json()["balance_after"]) == (201, 1000)
    assert available(api, asha) == FULL


def test_refusals_that_are_not_recorded_leave_the_key_free(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    for to, amount, currency, status, code in (
        ("nobody_at_all", 5, "INR", 404, "recipient_not_found"),
        (asha.handle, 5, "INR", 422, "self_transfer"),
        (ravi.handle, 5, "USD", 422, "currency_mismatch"),
        (ravi.handle, 0, "INR", 422, "validation_failed"),
    ):
        answer = send(api, asha, "key-12345", to, amount, currency=currency)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert "transaction_id" not in answer.json()
    assert read(api, asha, "/v1/wallets")["data"][0]["version"] == 2
    assert send(api, asha, "key-12345", ravi.handle, 5).status_code == 201


def test_key_with_another_request_is_refused(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    made = send(api, asha, "key-12345", ravi.handle, 300, note="rent")
    for to, amount, note in (
        (ravi.handle, 301, "rent"),
        (ravi.handle, 300, "Rent"),
        (ravi.handle, 300, None),
        (asha.handle, 300, "rent"),
        ("nobody_at_all", 300, "rent"),
    ):
        answer = send(api, asha, "key-12345", to, amount, note=note)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert answer.json().keys() == PROBLEM
    # The same request in other words: fields in another order, what is the default said or left out.
    body = {"note": "rent", "currency": "INR", "capture": "automatic", "amount": 300, "to": f"@{ravi.handle}"}
    again = api.call("POST", "/v1/transfers", json=body, token=asha.token, key="key-12345")
    assert (again.status_code, again.json()) == (201, made.json())


def test_absent_and_null_note_are_one_request(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    made = send(api, asha, "key-12345", ravi.handle, 300)
    assert made.json()["note"] is None
    assert send(api, asha, "key-12345", ravi.handle, 300, note=None).headers["idempotent-replayed"] == "true"


def test_key_is_of_one_person_and_one_route(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=asha.token)
    paid = send(api, asha, "key-12345", ravi.handle, 300)
    returned = send(api, ravi, "key-12345", asha.handle, 300)
    answers = [paid, returned, intend(api, asha, "key-12345")]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.json()["id"] for answer in answers}) == 3
    assert not [answer for answer in answers if "idempotent-replayed" in answer.headers]
    elsewhere = intend(api, asha, "key-12345", currency="USD")  # the same route
    assert elsewhere.json()["code"] == "idempotency_key_reused"


def test_replay_survives_a_change_of_handle(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    old, new = ravi.handle, f"ravi_{secrets.token_hex(6)}"
    made = send(api, asha, "key-12345", old, 300).json()
    assert api.call("PATCH", "/v1/me", json={"handle": new}, token=ravi.token).status_code == 200
    again = send(api, asha, "key-12345", old, 300)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == made | {"counterparty": {"handle": new, "name": "ravi"}}
    assert send(api, asha, "key-12345", new, 300).json()["code"] == "idempotency_key_reused"
    assert send(api, asha, "key-other", old, 300).json()["code"] == "recipient_not_found"
    assert available(api, ravi) == 300


def test_deposit_from_intent_to_credit(api: Api, people: tuple[Person, Person]) -> None:
    _, ravi = people
    first = intend(api, ravi, "key-12345")
    opened = first.json()
    assert first.status_code == 201
    assert opened == {
        "id": str(ids.transfer_id(uuid.UUID(ravi.id), DEPOSIT, "key-12345")),
        "kind": "deposit",
        "direction": "in",
        "status": "Processing",
        "amount": 500,
        "currency": "INR",
        "counterparty": {"bank": "axis"},
        "note": None,
        "refunded_amount": None,
        "captured_amount": None,
        "balance_after": 0,
        "wallet_version": 1,
        "failure": None,
        "created_at": opened["created_at"],
        "completed_at": None,
        "expires_at": opened["expires_at"],
        "payment_url": opened["payment_url"],
        "refund_of": None,
    }
    terms = {name: value for name, [value] in parse_qs(urlsplit(opened["payment_url"]).query).items()}
    said = {"reference": opened["id"], "amount": "500", "currency": "INR", "expires_at": opened["expires_at"]}
    assert terms == said
    assert opened["expires_at"] > opened["created_at"]
    again = intend(api, ravi, "key-12345")
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")

    [delivery] = api.pay(opened["payment_url"])
    assert delivery["answer"] == {"status": "processed"}
    credited = read(api, ravi, f"/v1/transactions/{opened['id']}")
    done = {"status": "Success", "balance_after": 500, "wallet_version": 2, "payment_url": None}
    assert credited == opened | done | {"completed_at": credited["completed_at"]}
    assert read(api, ravi, "/v1/wallets/INR/transactions")["data"] == [credited]
    assert intend(api, ravi, "key-12345").json() == credited
    assert api.call("GET", f"/v1/transfers/{opened['id']}", token=ravi.token).status_code == 404  # it is no transfer
    refused = intend(api, ravi, "key-12345", bank="hdfc")
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_history_pages_keep_their_order_while_rows_arrive(api: Api, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    made = [send(api, asha, f"key-{number:05}", ravi.handle, 1 + number).json()["id"] for number in range(7)]
    seen: list[str] = []
    path = "/v1/wallets/INR/transactions?limit=2"
    page = read(api, asha, path)
    while True:
        seen += [one["id"] for one in page["data"]]
        send(api, asha, f"key-meanwhile-{len(seen)}", ravi.handle, 1)
        if not page["has_more"]:
            break
        page = read(api, asha, f"{path}&cursor={page['next_cursor']}")
    assert page["next_cursor"] is None
    assert seen[:-1] == made[::-1]
    assert len(seen) == 8
    newest = read(api, asha, "/v1/wallets/INR/transactions")["data"]
    assert [one["wallet_version"] for one in newest] == sorted((one["wallet_version"] for one in newest), reverse=True)


def test_books_are_right_after_all_of_that(database: Database) -> None:
    assert check_books(database.url) == []
