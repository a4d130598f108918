"""Who may tell us what a bank says: signatures, clocks and sizes, per Standard Webhooks 1.0."""

import json
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.api import Person
from tests.support.bank import Bank, count_events, event, sign, signed
from tests.support.books import check_books
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Platform, Services


@pytest.fixture(scope="module")
def rotation(services: Services) -> Iterator[None]:
    """While this module's platform runs, hdfc has two secrets: one in use and one that is being replaced."""
    file = services.state / "secrets.json"
    before = file.read_text()
    changed = json.loads(before)
    changed["bank_secrets"]["hdfc"].append(f"whsec_{secrets.token_hex(16)}")
    file.write_text(json.dumps(changed))
    yield
    file.write_text(before)


@pytest.fixture(scope="module")
def platform(rotation: None, platform: Platform) -> Platform:
    """The usual one, started after its secrets were changed."""
    return platform


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


def body_of(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode()


def test_the_signer_of_standardwebhooks_is_understood(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    intent = api.intend(asha, 100)
    before = balance(api, asha)
    content, webhook_id, now = body_of(event(intent["id"], 100)), "msg_of_the_package", datetime.now(UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(hdfc.secret).sign(webhook_id, now, content.decode()),
    }
    assert hdfc.post(content, headers).json() == {"status": "processed"}
    assert balance(api, asha) == before + 100


def test_both_secrets_of_a_rotation_are_alive(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    both = api.endpoints.bank_secrets["hdfc"]
    assert len(both) == 2
    for secret in both:
        content = body_of(event(api.intend(asha, 10)["id"], 10))
        assert hdfc.post(content, signed(secret, content)).json() == {"status": "processed"}
    # Signed with both, as a bank does that is changing over; and with a third that we do not know yet.
    content = body_of(event(api.intend(asha, 10)["id"], 10))
    headers = signed(both[1], content)
    unknown = sign(f"whsec_{secrets.token_hex(16)}", headers["webhook-id"], headers["webhook-timestamp"], content)
    headers["webhook-signature"] = f"{unknown} {headers['webhook-signature']}"
    assert hdfc.post(content, headers).json() == {"status": "processed"}


def test_every_refusal_says_the_same(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    """Whoever tries things out learns nothing about banks, secrets or clocks."""
    content = body_of(event(api.intend(asha, 10)["id"], 10))
    other = api.endpoints.bank_secrets["axis"][0]
    good = signed(hdfc.secret, content)
    now = int(time.time())
    nobank, icici = Bank(api), Bank(api, "icici")
    nobank.name = "nobank"
    answers = [
        nobank.post(content, good),
        icici.post(content, good),
        hdfc.post(content, signed(other, content)),
        hdfc.post(content, signed(f"whsec_{secrets.token_hex(16)}", content)),
        hdfc.post(content, signed(hdfc.secret, content, timestamp=now - 310)),
        hdfc.post(content, signed(hdfc.secret, content, timestamp=now + 330)),
        hdfc.post(content + b" ", good),
        hdfc.post(content, good | {"webhook-id": "msg_other"}),
        hdfc.post(content, good | {"webhook-timestamp": str(now + 1)}),
        hdfc.post(content, {}),
    ]
    problems = [refused(answer, 401, "signature_invalid") | {"request_id": ""} for answer in answers]
    assert all(problem == problems[0] for problem in problems)
    assert len({answer.headers["content-length"] for answer in answers}) == 1


@pytest.mark.parametrize("seconds", [-290, -60, 60, 299])
def test_clocks_may_differ_by_five_minutes(api: CheckedApi, asha: Person, hdfc: Bank, seconds: int) -> None:
    content = body_of(event(api.intend(asha, 10)["id"], 10))
    headers = signed(hdfc.secret, content, timestamp=int(time.time()) + seconds)
    assert hdfc.post(content, headers).json() == {"status": "processed"}


@pytest.mark.parametrize("seconds", [-86_400, -3600, -301, 320, 3600, 10**9])
def test_and_not_by_more(api: CheckedApi, hdfc: Bank, seconds: int) -> None:
    content = body_of(event("late", 10))
    headers = signed(hdfc.secret, content, timestamp=int(time.time()) + seconds)
    refused(hdfc.post(content, headers), 401, "signature_invalid")


def test_timestamps_that_are_none(api: CheckedApi, hdfc: Bank) -> None:
    content = body_of(event("late", 10))
    for timestamp in (
        "",
        "now",
        "2026-11-23T10:00:00Z",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 400,
        "0x10",
        "-1",
        "0",
        "\0x",
    ):
        if "\0" in timestamp:
            continue  # refused by the gateway before anybody reads it
        headers = signed(hdfc.secret, content, timestamp=timestamp)
        refused(hdfc.post(content, headers), 401, "signature_invalid")


def test_signatures_that_are_none(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    content = body_of(event(api.intend(asha, 10)["id"], 10))
    good = signed(hdfc.secret, content)
    mark = good["webhook-signature"].removeprefix("v1,")
    before = count_events(api.endpoints.database_url)
    for signature in (
        "", "v1", "v1,", ",", "v1,,", mark, f"v2,{mark}", f"v1a,{mark}", f"V1,{mark}", f"v1;{mark}", f"v1 ,{mark}",
        f"v1,{mark[:-4]}", f"v1,{mark[::-1]}", f"v1,{mark.swapcase()}", "v1,!!!!", "v1,=", "v1,é", "v1," + "A" * 5000,
        "v1,AAAA v1,BBBB", f"v2,{mark} v1,AAAA", f"v1,{mark},v1,{mark}", "v1,\u2603", "v1,v1,v1",
    ):  # fmt: skip
        sent: Any = {name: value.encode() for name, value in (good | {"webhook-signature": signature}).items()}
        refused(hdfc.post(content, sent), 401, "signature_invalid")
    for missing in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        rest = {name: value for name, value in good.items() if name != missing}
        refused(hdfc.post(content, rest), 401, "signature_invalid")
        refused(hdfc.post(content, good | {missing: ""}), 401, "signature_invalid")
    assert count_events(api.endpoints.database_url) == before
    # One right signature among others is enough, wherever it stands.
    for others in (["v2,AAAA"], ["v1,AAAA"], ["v1,AAAA", "v1a,BBBB"]):
        content = body_of(event(api.intend(asha, 10)["id"], 10))
        good = signed(hdfc.secret, content)
        for listed in ([good["webhook-signature"], *others], [*others, good["webhook-signature"]]):
            assert hdfc.post(content, good | {"webhook-signature": " ".join(listed)}).status_code == 200


def test_ids_that_are_none(api: CheckedApi, hdfc: Bank) -> None:
    content = body_of(event("late", 10))
    for webhook_id in ("a" * 256, "a" * 3000):
        headers = signed(hdfc.secret, content, webhook_id)
        refused(hdfc.post(content, headers), 401, "signature_invalid")


def test_signed_nonsense_is_refused_and_not_kept(api: CheckedApi, asha: Person, hdfc: Bank) -> None:
    """tests/test_bad_input.py sends much more of it; here, that the refused id is still free afterwards."""
    intent = api.intend(asha, 10)
    good = event(intent["id"], 10)
    before = count_events(api.endpoints.database_url)
    for content, status, code in (
        (b"", 422, "validation_failed"),
        (b"{", 400, "json_invalid"),
        (b"\xff\xfe", 400, "json_invalid"),
        (body_of(good | {"surplus": 1}), 422, "validation_failed"),
        (body_of(event(intent["id"], -10)), 422, "validation_failed"),
        (body_of(event(intent["id"], 10, "deposit.refunded")), 422, "validation_failed"),
        (body_of(event(intent["id"], 10, currency="inr")), 422, "validation_failed"),
        (body_of(good)[:-1] + b', "type": "deposit.failed"}', 400, "json_invalid"),
    ):
        refused(hdfc.post(content, signed(hdfc.secret, content, "msg_nonsense")), status, code)
    assert count_events(api.endpoints.database_url) == before
    assert hdfc.tell(good, "msg_nonsense") == "processed"


def test_what_is_too_large_is_not_even_verified(api: CheckedApi, hdfc: Bank) -> None:
    large = body_of(event("late", 10, reason="x" * 65 * 1024))
    refused(hdfc.post(large), 413, "body_too_large")
    refused(hdfc.post(large, {}), 413, "body_too_large")
