"""What banks tell us, and what it does to the books, which are re-added after every test."""

import json
import secrets
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from okane_common import ids
from tests.support.api import Person
from tests.support.bank import Bank, event, signed, stored
from tests.support.books import FULL, check_books
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Platform

DEPOSITS = "POST /v1/wallets/{currency}/deposits"


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def books(platform: Platform) -> Iterator[None]:
    """Whatever a bank says, the books are right."""
    yield
    assert check_books(platform.endpoints.database_url) == []


@pytest.fixture(scope="module")
def asha(api: CheckedApi) -> Person:
    return api.sign_up("Asha")


@pytest.fixture(scope="module")
def hdfc(api: CheckedApi) -> Bank:
    return Bank(api)


def balance(api: CheckedApi, person: Person) -> int:
    """What the database says, not a cache."""
    [wallet] = api.call("GET", "/v1/wallets", token=person.token).json()["data"]
    available: int = wallet["available"]
    return available


def read(api: CheckedApi, person: Person, transaction: object) -> dict[str, Any]:
    answer = api.call("GET", f"/v1/transactions/{transaction}", token=person.token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def body_of(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode()


# The same thing told twice.


def test_the_same_id_again(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    intent, before = api.intend(asha, 250), balance(api, asha)
    told, webhook_id = event(intent["id"], 250), f"msg_{secrets.token_hex(8)}"
    assert hdfc.tell(told, webhook_id) == "processed"
    for _ in range(3):
        assert hdfc.tell(told, webhook_id) == "duplicate"
    changed = told | {"data": told["data"] | {"amount": 251}}
    for other in (changed, told | {"timestamp": "2026-11-23T10:00:00.001Z"}):
        content = body_of(other)
        refused(hdfc.post(content, signed(hdfc.secret, content, webhook_id)), 409, "event_conflict")
    # Byte for byte: the same JSON in another layout is another body.
    spaced = json.dumps(told, indent=1).encode()
    refused(hdfc.post(spaced, signed(hdfc.secret, spaced, webhook_id)), 409, "event_conflict")
    assert balance(api, asha) == before + 250
    assert len(stored(api.endpoints.database_url, intent["id"])) == 1


def test_two_banks_may_use_the_same_id(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    webhook_id = f"msg_{secrets.token_hex(8)}"
    before = balance(api, asha)
    for bank in (hdfc, Bank(api, "axis")):
        intent = api.intend(asha, 30, bank=bank.name)
        assert bank.tell(event(intent["id"], 30), webhook_id) == "processed"
    assert balance(api, asha) == before + 60


def test_twenty_deliveries_at_once_credit_once(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    intent, before = api.intend(asha, 400), balance(api, asha)
    told = event(intent["id"], 400)
    with ThreadPoolExecutor(20) as pool:
        same_id = list(pool.map(lambda _: hdfc.tell(told, "msg_twenty"), range(20)))
        assert sorted(same_id) == 19 * ["duplicate"] + ["processed"]
        other_ids = list(pool.map(lambda _: hdfc.tell(told), range(20)))
        assert set(other_ids) == {"duplicate"}
    intent = api.intend(asha, 400)
    told = event(intent["id"], 400)
    with ThreadPoolExecutor(20) as pool:
        other_ids = list(pool.map(lambda _: hdfc.tell(told), range(20)))
    assert sorted(other_ids) == 19 * ["duplicate"] + ["processed"]
    assert balance(api, asha) == before + 800


def test_the_same_movement_under_another_id(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    first, second, before = api.intend(asha, 70), api.intend(asha, 70), balance(api, asha)
    reference = f"ref_{secrets.token_hex(8)}"
    assert hdfc.tell(event(first["id"], 70, bank_reference=reference)) == "processed"
    assert hdfc.tell(event(first["id"], 70, bank_reference=reference)) == "duplicate"
    # One movement at the bank pays for one deposit, whichever it is said to be for.
    assert hdfc.tell(event(second["id"], 70, bank_reference=reference)) == "duplicate"
    assert balance(api, asha) == before + 70
    assert read(api, asha, second["id"])["status"] == "Processing"
    # It may be money without a deposit, so it is kept for a person, other than what was said twice.
    url = api.endpoints.database_url
    assert [status for _, status, _ in stored(url, first["id"])] == ["processed", "duplicate"]
    assert [status for _, status, _ in stored(url, second["id"])] == ["quarantined"]
    # Another bank's movement of the same name is another movement.
    axis = Bank(api, "axis")
    assert axis.tell(event(api.intend(asha, 70, bank="axis")["id"], 70, bank_reference=reference)) == "processed"
    assert hdfc.tell(event(second["id"], 70)) == "processed"


# What contradicts what we know.


def expect_quarantine(api: CheckedApi, person: Person, told: str, reference: object, status: str, before: int) -> None:
    assert told == "quarantined"
    assert stored(api.endpoints.database_url, reference)[-1][1] == "quarantined"
    assert stored(api.endpoints.database_url, reference)[-1][2], "a person who looks at it must find a reason"
    assert read(api, person, reference)["status"] == status
    assert balance(api, person) == before


@pytest.mark.parametrize(
    "data", [{"amount": 99}, {"amount": 101}, {"amount": FULL}, {"currency": "USD"}, {"currency": "XXX"}]
)
def test_other_terms_than_were_asked_for(api: CheckedApi, asha: Person, hdfc: Bank, data: dict[str, Any]) -> None:
    intent, before = api.intend(asha, 100), balance(api, asha)
    told = hdfc.tell(event(intent["id"], **({"amount": 100} | data)))
    expect_quarantine(api, asha, told, intent["id"], "Processing", before)
    # The deposit itself is not lost for it.
    assert hdfc.tell(event(intent["id"], 100)) == "processed"
    assert balance(api, asha) == before + 100


def test_another_banks_deposit(api: CheckedApi, asha: Person) -> None:
    intent, before = api.intend(asha, 100, bank="hdfc"), balance(api, asha)
    for kind in ("deposit.succeeded", "deposit.failed"):
        told = Bank(api, "axis").tell(event(intent["id"], 100, kind))
        expect_quarantine(api, asha, told, intent["id"], "Processing", before)


def test_a_withdrawal_that_is_a_deposit(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    intent, before = api.intend(asha, 100), balance(api, asha)
    for kind in ("withdrawal.succeeded", "withdrawal.failed"):
        expect_quarantine(api, asha, hdfc.tell(event(intent["id"], 100, kind)), intent["id"], "Processing", before)


def test_a_transfer_that_is_no_deposit(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    api.deposit(asha, 100)
    payee = api.sign_up("Ravi")
    body = {"to": f"@{payee.handle}", "amount": 100, "currency": "INR"}
    sent = api.call("POST", "/v1/transfers", json=body, token=asha.token, key=f"key-{uuid.uuid4()}").json()
    before = balance(api, asha)
    for kind in ("deposit.succeeded", "deposit.failed", "withdrawal.failed"):
        expect_quarantine(api, asha, hdfc.tell(event(sent["id"], 100, kind)), sent["id"], "Success", before)
    assert balance(api, payee) == 100


@pytest.mark.parametrize("same_movement", [True, False])
def test_a_success_after_a_failure(api: CheckedApi, asha: Person, hdfc: Bank, same_movement: bool) -> None:
    intent, before = api.intend(asha, 100), balance(api, asha)
    reference = f"ref_{secrets.token_hex(8)}"
    failed = event(intent["id"], 100, "deposit.failed", bank_reference=reference, reason="no money")
    assert hdfc.tell(failed) == "processed"
    assert read(api, asha, intent["id"])["failure"]["code"] == "declined"
    data = {"bank_reference": reference} if same_movement else {}
    told = hdfc.tell(event(intent["id"], 100, **data))
    expect_quarantine(api, asha, told, intent["id"], "Failure", before)


@pytest.mark.parametrize("same_movement", [True, False])
def test_a_failure_after_the_end_is_late(api: CheckedApi, asha: Person, hdfc: Bank, same_movement: bool) -> None:
    for first, status in (("deposit.succeeded", "Success"), ("deposit.failed", "Failure")):
        intent = api.intend(asha, 100)
        reference = f"ref_{secrets.token_hex(8)}"
        assert hdfc.tell(event(intent["id"], 100, first, bank_reference=reference)) == "processed"
        before = balance(api, asha)
        data = {"bank_reference": reference} if same_movement else {}
        assert hdfc.tell(event(intent["id"], 100, "deposit.failed", **data)) == "duplicate"
        assert read(api, asha, intent["id"])["status"] == status
        assert balance(api, asha) == before


def test_a_second_payment(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    intent = api.intend(asha, 100)
    assert hdfc.tell(event(intent["id"], 100)) == "processed"
    before = balance(api, asha)
    expect_quarantine(api, asha, hdfc.tell(event(intent["id"], 100)), intent["id"], "Success", before)


def test_more_than_a_wallet_can_hold(api: CheckedApi, hdfc: Bank) -> None:
    rich = api.sign_up("Rich")
    full, more = api.intend(rich, FULL), api.intend(rich, 1)
    assert hdfc.tell(event(full["id"], FULL)) == "processed"
    expect_quarantine(api, rich, hdfc.tell(event(more["id"], 1)), more["id"], "Processing", FULL)
    assert json.loads(api.call("GET", "/v1/wallets/INR", token=rich.token).text)["total"] == FULL


# What we do not know yet.


def open_deposit(api: CheckedApi, person: Person, key: str, amount: int, currency: str = "INR") -> httpx.Response:
    return api.call(
        "POST",
        f"/v1/wallets/{currency}/deposits",
        json={"amount": amount, "bank": "hdfc"},
        token=person.token,
        key=key,
    )


def named(person: Person) -> tuple[str, uuid.UUID]:
    """A fresh key and the id of the deposit that it will name."""
    key = f"early-{uuid.uuid4()}"
    return key, ids.transfer_id(uuid.UUID(person.id), DEPOSITS, key)


@pytest.mark.parametrize("kind", ["deposit.succeeded", "deposit.failed", "withdrawal.succeeded", "withdrawal.failed"])
@pytest.mark.parametrize(
    "reference", ["unknown", str(uuid.UUID(int=5)), "'; DROP TABLE okane.people; --", "{}", "é" * 200]
)
def test_an_unknown_reference_is_parked(api: CheckedApi, hdfc: Bank, kind: str, reference: str) -> None:
    told, webhook_id = event(reference, 100, kind), f"msg_{secrets.token_hex(8)}"
    assert hdfc.tell(told, webhook_id) == "parked"
    assert hdfc.tell(told, webhook_id) == "duplicate"
    assert stored(api.endpoints.database_url, reference)[-1] == (kind, "parked", "unknown reference")


@pytest.mark.parametrize("spell", [str, lambda name: str(name).upper()])
def test_a_parked_success_is_applied_when_its_deposit_appears(
    api: CheckedApi, asha: Person, hdfc: Bank, spell: Callable[[uuid.UUID], str]
) -> None:
    key, name = named(asha)
    before = balance(api, asha)
    told, webhook_id = event(spell(name), 900), f"msg_{secrets.token_hex(8)}"
    assert hdfc.tell(told, webhook_id) == "parked"
    opened = open_deposit(api, asha, key, 900)
    assert (opened.status_code, opened.json()["id"], opened.json()["status"]) == (201, str(name), "Success")
    assert opened.json()["balance_after"] == before + 900
    assert balance(api, asha) == before + 900
    assert stored(api.endpoints.database_url, name) == [("deposit.succeeded", "processed", None)]
    assert hdfc.tell(told, webhook_id) == "duplicate"
    replayed = open_deposit(api, asha, key, 900)
    assert (replayed.headers["idempotent-replayed"], replayed.json()) == ("true", opened.json())
    assert balance(api, asha) == before + 900


def test_a_parked_failure_is_applied_too(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    key, name = named(asha)
    before = balance(api, asha)
    assert hdfc.tell(event(name, 900, "deposit.failed")) == "parked"
    opened = open_deposit(api, asha, key, 900).json()
    assert (opened["status"], opened["failure"]["code"]) == ("Failure", "declined")
    assert balance(api, asha) == before


def test_parked_events_are_applied_in_the_order_they_came(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    before = balance(api, asha)
    for kinds, status, kept in (
        (["succeeded", "failed"], "Success", ["processed", "duplicate"]),
        (["failed", "succeeded"], "Failure", ["processed", "quarantined"]),
        (["succeeded", "succeeded"], "Success", ["processed", "quarantined"]),
    ):
        key, name = named(asha)
        for kind in kinds:
            assert hdfc.tell(event(name, 10, f"deposit.{kind}")) == "parked"
        assert open_deposit(api, asha, key, 10).json()["status"] == status
        assert [kept_status for _, kept_status, _ in stored(api.endpoints.database_url, name)] == kept
    assert balance(api, asha) == before + 20


def test_a_parked_event_with_other_terms_is_quarantined(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    before = balance(api, asha)
    for bank, data in ((hdfc, {"amount": 11}), (hdfc, {"currency": "USD"}), (Bank(api, "axis"), {})):
        key, name = named(asha)
        assert bank.tell(event(name, 10) | {"data": event(name, 10)["data"] | data}) == "parked"
        assert open_deposit(api, asha, key, 10).json()["status"] == "Processing"
        assert stored(api.endpoints.database_url, name)[0][1] == "quarantined"
    assert balance(api, asha) == before


def test_an_event_and_its_deposit_at_the_same_moment(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    """Whichever is first, the money comes exactly once, and nothing stays parked."""
    before = balance(api, asha)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(15):
            key, name = named(asha)
            told = pool.submit(hdfc.tell, event(name, 7))
            opened = [pool.submit(open_deposit, api, asha, key, 7) for _ in range(2)]
            assert told.result() in ("processed", "parked")
            assert {answer.result().status_code for answer in opened} == {201}
            assert read(api, asha, name)["status"] == "Success"
            assert [status for _, status, _ in stored(api.endpoints.database_url, name)] == ["processed"]
    assert balance(api, asha) == before + 15 * 7


def test_a_credit_shows_in_the_cache_at_once(api: CheckedApi, hdfc: Bank) -> None:
    person = api.sign_up("Asha")
    for path in 2 * ("/v1/wallets/INR", "/v1/wallets/INR/transactions"):
        api.call("GET", path, token=person.token)
    intent = api.intend(person, 60)
    api.call("GET", "/v1/wallets/INR/transactions", token=person.token)
    assert hdfc.tell(event(intent["id"], 60)) == "processed"
    warm = api.call("GET", "/v1/wallets/INR", token=person.token)
    assert (warm.json()["available"], warm.headers["okane-cache"]) == (60, "hit")
    history = api.call("GET", "/v1/wallets/INR/transactions", token=person.token).json()
    assert [(line["status"], line["balance_after"]) for line in history["data"]] == [("Success", 60)]
