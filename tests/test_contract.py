"""Every route of the API at least once in success, every reply checked against the served OpenAPI document."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.api import Person
from tests.support.bank import Bank, event
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Platform

# Every route that there is, and what it answers when all is well.
ROUTES = {
    ("POST", "/v1/auth/register"),
    ("POST", "/v1/auth/verify"),
    ("POST", "/v1/auth/login"),
    ("POST", "/v1/auth/refresh"),
    ("POST", "/v1/auth/logout"),
    ("GET", "/v1/auth/sessions"),
    ("DELETE", "/v1/auth/sessions"),
    ("DELETE", "/v1/auth/sessions/{id}"),
    ("PUT", "/v1/auth/password"),
    ("POST", "/v1/auth/password/forgot"),
    ("POST", "/v1/auth/password/reset"),
    ("GET", "/v1/auth/google"),
    ("GET", "/v1/auth/google/callback"),
    ("POST", "/v1/auth/google/token"),
    ("GET", "/v1/me"),
    ("PATCH", "/v1/me"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/.well-known/openid-configuration"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/health"),
    ("GET", "/v1/wallets"),
    ("POST", "/v1/wallets"),
    ("GET", "/v1/wallets/{currency}"),
    ("GET", "/v1/wallets/{currency}/transactions"),
    ("GET", "/v1/transactions/{id}"),
    ("GET", "/v1/wallets/{currency}/statements/{month}"),
    ("POST", "/v1/wallets/{currency}/deposits"),
    ("POST", "/v1/wallets/{currency}/withdrawals"),
    ("POST", "/v1/cache/warm"),
    ("GET", "/v1/recipients/{handle}"),
    ("POST", "/v1/transfers"),
    ("POST", "/v1/transfers/batch"),
    ("GET", "/v1/transfers/{id}"),
    ("POST", "/v1/transfers/{id}/capture"),
    ("POST", "/v1/transfers/{id}/void"),
    ("POST", "/v1/transfers/{id}/refunds"),
    ("POST", "/v1/webhooks/bank/{bank}"),
}
ALLOWED_ORIGIN = "http://localhost:5173"


pytestmark = pytest.mark.built  # also against what `sam build` made


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def asha(api: CheckedApi) -> Person:
    """Somebody with 10,000.00 rupees who has given some of it away."""
    return api.sign_up("Asha Kumar")


@pytest.fixture(scope="module")
def ravi(api: CheckedApi) -> Person:
    return api.sign_up("Ravi")


def key() -> str:
    """A fresh idempotency key."""
    return f"key-{secrets.token_hex(12)}"


def pay(api: CheckedApi, payer: Person, payee: Person, amount: int, **other: Any) -> httpx.Response:
    """POST /v1/transfers in INR under a fresh key, unless the arguments say otherwise."""
    name = other.pop("key", None) or key()
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"} | other
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=name)


def read_wallet(api: CheckedApi, person: Person, query: str = "") -> dict[str, Any]:
    answer = api.call("GET", f"/v1/wallets/INR{query}", token=person.token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_document_is_valid_and_says_what_the_issue_lists(api: CheckedApi) -> None:
    document = api.contract.document
    assert document["openapi"].startswith("3.1")
    assert not list(OpenAPIV31SpecValidator(document).iter_errors())
    assert set(api.contract.operations()) == ROUTES
    # A closed schema is what makes an undocumented field a fault.
    open_models = [
        name for name, model in document["components"]["schemas"].items() if model["additionalProperties"] is not False
    ]
    assert not open_models
    for method, path in api.contract.operations():
        operation = document["paths"][path][method.lower()]
        private = path.startswith("/v1/") and not path.startswith(("/v1/auth/", "/v1/webhooks/", "/v1/health"))
        private |= path.startswith(("/v1/auth/logout", "/v1/auth/sessions")) or path == "/v1/auth/password"
        assert bool(operation.get("security")) == private, (method, path)


def test_every_route_answers_as_documented(platform: Platform) -> None:
    api = CheckedApi(platform.endpoints)
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    login = api.call("POST", "/v1/auth/login", json={"email": asha.email, "password": asha.password})
    token = login.json()["access_token"]
    renewed = api.call("POST", "/v1/auth/refresh", json={"refresh_token": login.json()["refresh_token"]})
    api.call("PATCH", "/v1/me", json={"name": "Asha K"}, token=token)
    api.call("GET", "/v1/me", token=token)
    for document in ("/.well-known/jwks.json", "/.well-known/openid-configuration", "/openapi.json", "/v1/health"):
        api.call("GET", document)
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=token)
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=token)
    intent = api.intend(asha, 5000)
    assert Bank(api).tell(event(intent["id"], 5000)) == "processed"
    transfer = pay(api, asha, ravi, 1200, note="Lunch", capture="automatic").json()
    for way in ("capture", "void", "refunds"):
        path = f"/v1/transfers/{pay(api, asha, ravi, 10, capture='automatic' if way == 'refunds' else 'manual').json()['id']}"
        api.call("POST", f"{path}/{way}", token=ravi.token, key=key())
    items = [{"to": f"@{ravi.handle}", "amount": 10}]
    api.call("POST", "/v1/transfers/batch", json={"currency": "INR", "items": items}, token=token, key=key())
    payout = {"amount": 10, "bank": "hdfc", "account": "00123456789"}
    api.call("POST", "/v1/wallets/INR/withdrawals", json=payout, token=token, key=key())
    for path in (
        "/v1/wallets",
        "/v1/wallets/INR",
        "/v1/wallets/INR/transactions",
        f"/v1/wallets/INR/statements/{transfer['created_at'][:7]}",
        f"/v1/transactions/{transfer['id']}",
        f"/v1/transfers/{transfer['id']}",
        f"/v1/recipients/{ravi.handle}",
    ):
        api.call("GET", path, token=token)
    api.call("POST", "/v1/cache/warm", token=token)
    api.call("POST", "/v1/auth/logout", token=renewed.json()["access_token"])
    every_way_in_and_out(api, asha)
    succeeded = {(method, path) for method, path, status in api.contract.seen if status < 400}
    assert succeeded == ROUTES
    assert {("POST", "/v1/wallets", 200), ("POST", "/v1/wallets", 201)} <= api.contract.seen
    api.close()


def every_way_in_and_out(api: CheckedApi, person: Person) -> None:
    """Sessions, passwords and the provider, each once."""
    new = f"another-{person.password}"
    change = {"current_password": person.password, "new_password": new}
    api.call("PUT", "/v1/auth/password", json=change, token=person.token)
    api.call("POST", "/v1/auth/password/forgot", json={"email": person.email})
    reset = {"email": person.email, "code": api.newest_code(person.email), "new_password": person.password}
    api.call("POST", "/v1/auth/password/reset", json=reset)
    login = {"email": person.email, "password": person.password}
    token = api.call("POST", "/v1/auth/login", json=login).json()["access_token"]
    api.call("POST", "/v1/auth/login", json=login)
    other = api.call("GET", "/v1/auth/sessions", token=token).json()["data"][1]
    api.call("DELETE", f"/v1/auth/sessions/{other['id']}", token=token)
    api.call("DELETE", "/v1/auth/sessions", token=token)
    way = httpx.URL(api.call("GET", "/v1/auth/google").headers["location"])
    back = httpx.post(way, data={"sub": "mina"}, trust_env=False).headers["location"]
    came = httpx.URL(api.call("GET", back.removeprefix(api.endpoints.api)).headers["location"])
    api.call("POST", "/v1/auth/google/token", json={"code": came.params["code"]})


def test_the_checker_sees_faults(api: CheckedApi) -> None:
    """What is wrong with a reply must not go unseen: each of these breaks one promise."""
    request = httpx.Request("GET", "http://127.0.0.1/v1/health")
    good = {
        "Content-Type": "application/json",
        "X-Request-Id": "1",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }

    def reply(status: int = 200, content: object = None, headers: dict[str, str] = good) -> httpx.Response:
        body = json.dumps({"status": "ok"} if content is None else content).encode()
        return httpx.Response(status, content=body, headers=headers, request=request)

    api.contract.check(reply())
    lacking = [reply(headers={name: value for name, value in good.items() if name != left}) for left in good]
    cacheable = reply(headers=good | {"Cache-Control": "public, max-age=300"})
    shapes: list[object] = [{}, [], {"status": 1}, {"status": "ok", "surplus": 1}]
    strange = [reply(content=shape) for shape in shapes]
    for broken in (reply(201), reply(404), reply(500), *lacking, cacheable, *strange):
        with pytest.raises(AssertionError):
            api.contract.check(broken)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1/wallets/INR/nothing"),
        ("GET", "/v1/wallets/INR/"),
        ("GET", "/v2/me"),
        ("GET", "/V1/me"),
        ("GET", "/v1//me"),
        ("DELETE", "/v1/me"),
        ("PUT", "/v1/transfers"),
        ("GET", "/v1/auth/register"),
        ("POST", "/openapi.json"),
        ("OPTIONS", "/v1/me"),
    ],
)
def test_what_no_route_serves_is_answered_by_the_gateway(api: CheckedApi, method: str, path: str) -> None:
    answer = api.call(method, path)
    assert answer.status_code == 404
    assert answer.json() == {"message": "Not Found"}


def test_cors_is_an_exact_list(api: CheckedApi) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
    allowed = api.call("OPTIONS", "/v1/transfers", headers={"Origin": ALLOWED_ORIGIN, **asked})
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "idempotency-key" in allowed.headers["access-control-allow-headers"]
    plain = api.call("GET", "/v1/health", headers={"Origin": ALLOWED_ORIGIN})
    assert plain.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "idempotent-replayed" in plain.headers["access-control-expose-headers"].lower()
    for stranger in ("http://evil.example.com", f"{ALLOWED_ORIGIN}.evil.example.com", "http://localhost:51730", "null"):
        for answer in (
            api.call("OPTIONS", "/v1/transfers", headers={"Origin": stranger, **asked}),
            api.call("GET", "/v1/health", headers={"Origin": stranger}),
        ):
            assert "access-control-allow-origin" not in answer.headers, stranger


def test_anybody_can_verify_an_access_token_with_the_published_keys(api: CheckedApi, asha: Person) -> None:
    issuer = api.endpoints.api
    discovery = api.call("GET", "/.well-known/openid-configuration").json()
    assert discovery["issuer"] == issuer
    # PyJWT's own client fetches and picks the key as any resource server would.
    signing_key = jwt.PyJWKClient(discovery["jwks_uri"]).get_signing_key_from_jwt(asha.token)
    claims = jwt.decode(asha.token, signing_key, algorithms=["RS256"], audience="okane", issuer=issuer)
    assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid"}
    assert claims["sub"] == asha.id
    assert claims["exp"] - claims["iat"] == 600
    header = jwt.get_unverified_header(asha.token)
    assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")
    for published in api.call("GET", "/.well-known/jwks.json").json()["keys"]:
        assert set(published) == {"kty", "kid", "use", "alg", "n", "e"}, "nothing private is published"


def test_a_profile_can_be_changed_in_part(api: CheckedApi) -> None:
    person = api.sign_up("Asha Kumar")
    before = api.call("GET", "/v1/me", token=person.token).json()
    assert (before["name"], before["email"], before["email_verified"]) == ("Asha Kumar", person.email, True)
    handle = f"asha_{secrets.token_hex(6)}"
    changed = api.call("PATCH", "/v1/me", json={"handle": handle}, token=person.token)
    assert changed.json() == before | {"handle": handle}
    changed = api.call("PATCH", "/v1/me", json={"name": "Asha K"}, token=person.token)
    assert changed.json() == before | {"handle": handle, "name": "Asha K"}
    assert api.call("GET", "/v1/me", token=person.token).json() == changed.json()
    refused(api.call("PATCH", "/v1/me", json={}, token=person.token), 422, "validation_failed")
    other = api.sign_up("Ravi")
    refused(api.call("PATCH", "/v1/me", json={"handle": handle}, token=other.token), 409, "handle_taken")
    # The handle that was given up is free again, and one's own is never taken.
    assert api.call("PATCH", "/v1/me", json={"handle": handle}, token=person.token).status_code == 200
    assert api.call("PATCH", "/v1/me", json={"handle": before["handle"]}, token=other.token).status_code == 200


def test_a_change_of_handle_does_not_break_a_replay(api: CheckedApi) -> None:
    payer, payee = api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(payer, 1000)
    name = key()
    first = pay(api, payer, payee, 100, key=name)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    api.call("PATCH", "/v1/me", json={"handle": f"new_{secrets.token_hex(6)}"}, token=payee.token)
    again = pay(api, payer, payee, 100, key=name)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json()["id"] == first.json()["id"]
    # A stranger may take the handle now; the key still names the payment to the first one.
    stranger = api.sign_up("Stranger")
    api.call("PATCH", "/v1/me", json={"handle": payee.handle}, token=stranger.token)
    again = pay(api, payer, payee, 100, key=name)
    assert again.json()["counterparty"]["name"] == "Ravi"
    assert read_wallet(api, payer)["available"] == 900
    assert read_wallet(api, stranger)["available"] == 0
    refused(pay(api, payer, payee, 101, key=name), 422, "idempotency_key_reused")
    refused(pay(api, payer, payee, 100, key=name, note="x"), 422, "idempotency_key_reused")


def test_wallets_are_opened_once(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    assert [wallet["currency"] for wallet in api.call("GET", "/v1/wallets", token=person.token).json()["data"]] == [
        "INR"
    ]
    opened = api.call("POST", "/v1/wallets", json={"currency": "JPY"}, token=person.token)
    again = api.call("POST", "/v1/wallets", json={"currency": "JPY"}, token=person.token)
    assert (opened.status_code, again.status_code) == (201, 200)
    assert opened.json() == again.json()
    assert opened.json() | {"as_of": ""} == {
        "currency": "JPY", "available": 0, "locked": 0, "total": 0, "version": 0, "as_of": ""
    }  # fmt: skip
    refused(api.call("GET", "/v1/wallets/USD", token=person.token), 404, "not_found")
    refused(api.call("POST", "/v1/wallets", json={"currency": "XXX"}, token=person.token), 422, "validation_failed")


def test_a_deposit_names_the_page_to_pay_on(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    name = key()
    body = {"amount": 2500, "bank": "axis"}
    opened = api.call("POST", "/v1/wallets/INR/deposits", json=body, token=person.token, key=name)
    intent = opened.json()
    assert opened.status_code == 201
    assert (intent["kind"], intent["direction"], intent["status"]) == ("deposit", "in", "Processing")
    assert (intent["amount"], intent["counterparty"], intent["balance_after"]) == (2500, {"bank": "axis"}, 0)
    assert intent["completed_at"] is None
    page = httpx.URL(intent["payment_url"])
    assert str(page.copy_with(query=None)) == f"{api.endpoints.bank}/axis/pay"
    assert dict(page.params) == {
        "reference": intent["id"], "amount": "2500", "currency": "INR", "expires_at": intent["expires_at"]
    }  # fmt: skip
    again = api.call("POST", "/v1/wallets/INR/deposits", json=body, token=person.token, key=name)
    assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (201, "true", intent)
    for other in ({"amount": 2501, "bank": "axis"}, {"amount": 2500, "bank": "hdfc"}):
        reused = api.call("POST", "/v1/wallets/INR/deposits", json=other, token=person.token, key=name)
        refused(reused, 422, "idempotency_key_reused")
    [delivery] = api.pay(intent["payment_url"])
    assert delivery["answer"] == {"status": "processed"}
    settled = api.call("GET", f"/v1/transactions/{intent['id']}", token=person.token).json()
    assert (settled["status"], settled["balance_after"], settled["payment_url"]) == ("Success", 2500, None)
    assert settled["completed_at"] is not None
    replayed = api.call("POST", "/v1/wallets/INR/deposits", json=body, token=person.token, key=name)
    assert replayed.json() == settled
    declined = api.intend(person, 10)
    api.pay(declined["payment_url"], "decline")
    failed = api.call("GET", f"/v1/transactions/{declined['id']}", token=person.token).json()
    assert (failed["status"], failed["failure"]["code"], failed["balance_after"]) == ("Failure", "declined", 2500)


def test_a_key_belongs_to_a_person_and_a_route(api: CheckedApi, ravi: Person) -> None:
    person, name = api.sign_up("Asha"), key()
    body = {"amount": 100, "bank": "hdfc"}
    ids = {
        api.call("POST", "/v1/wallets/INR/deposits", json=body, token=who.token, key=name).json()["id"]
        for who in (person, ravi)
    }
    assert len(ids) == 2
    api.call("POST", "/v1/wallets", json={"currency": "USD"}, token=person.token)
    elsewhere = api.call("POST", "/v1/wallets/USD/deposits", json=body, token=person.token, key=name)
    refused(elsewhere, 422, "idempotency_key_reused")
    # Another route: the same key is another name, and the payment fails for its own reason.
    refused(pay(api, person, ravi, 100, key=name), 422, "insufficient_funds")


def test_a_payment_looks_right_from_both_sides(api: CheckedApi, asha: Person, ravi: Person) -> None:
    api.deposit(asha, 5000)
    before, theirs = read_wallet(api, asha), read_wallet(api, ravi)
    sent = pay(api, asha, ravi, 1250, note="Lunch").json()
    assert (sent["kind"], sent["direction"], sent["status"], sent["note"]) == ("transfer", "out", "Success", "Lunch")
    assert sent["counterparty"] == {"handle": ravi.handle, "name": "Ravi"}
    assert (sent["captured_amount"], sent["refunded_amount"]) == (1250, 0)
    assert (sent["balance_after"], sent["wallet_version"]) == (before["available"] - 1250, before["version"] + 1)
    for path in ("/v1/transfers", "/v1/transactions"):
        assert api.call("GET", f"{path}/{sent['id']}", token=asha.token).json() == sent
        received = api.call("GET", f"{path}/{sent['id']}", token=ravi.token).json()
        assert received["counterparty"] == {"handle": asha.handle, "name": "Asha Kumar"}
        assert (received["direction"], received["balance_after"]) == ("in", theirs["available"] + 1250)
    assert read_wallet(api, ravi)["total"] == theirs["total"] + 1250


def test_somebody_elses_transaction_looks_like_no_transaction(api: CheckedApi, asha: Person, ravi: Person) -> None:
    stranger = api.sign_up("Stranger")
    api.deposit(asha, 500)
    ids = [pay(api, asha, ravi, 100).json()["id"], api.intend(asha, 100)["id"]]
    unknown = ["00000000-0000-8000-8000-000000000000"]
    for path in ("/v1/transactions", "/v1/transfers"):
        answers = [api.call("GET", f"{path}/{one}", token=stranger.token) for one in (*ids, *unknown)]
        problems = [refused(answer, 404, "not_found") | {"request_id": ""} for answer in answers]
        assert problems[0] == problems[1] == problems[2]
        lengths = {answer.headers["content-length"] for answer in answers}
        assert len(lengths) == 1
    # A deposit is no transfer, not even one's own.
    refused(api.call("GET", f"/v1/transfers/{ids[1]}", token=asha.token), 404, "not_found")


def test_a_refused_payment_is_recorded_for_its_sender_alone(api: CheckedApi) -> None:
    payer, payee = api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(payer, 100)
    name = key()
    first = pay(api, payer, payee, 101, key=name)
    problem = refused(first, 422, "insufficient_funds")
    assert "idempotent-replayed" not in first.headers
    recorded = api.call("GET", f"/v1/transactions/{problem['transaction_id']}", token=payer.token).json()
    assert (recorded["status"], recorded["failure"]["code"]) == ("Failure", "insufficient_funds")
    assert (recorded["balance_after"], recorded["captured_amount"]) == (100, None)
    assert recorded["counterparty"] == {"handle": payee.handle, "name": "Ra***"}, "no way around the mask"
    page = api.call("GET", "/v1/wallets/INR/transactions", token=payer.token).json()
    assert page["data"][0] == recorded
    assert api.call("GET", "/v1/wallets/INR/transactions", token=payee.token).json()["data"] == []
    refused(api.call("GET", f"/v1/transfers/{problem['transaction_id']}", token=payee.token), 404, "not_found")
    # The key names the refusal for ever, even when the money is there by now.
    api.deposit(payer, 1000)
    again = pay(api, payer, payee, 101, key=name)
    replayed = refused(again, 422, "insufficient_funds")
    assert again.headers["idempotent-replayed"] == "true"
    assert replayed | {"request_id": ""} == problem | {"request_id": ""}
    assert read_wallet(api, payer)["available"] == 1100


@pytest.mark.parametrize("name", ["a1-B_2z9", "k" * 255, "--------", "00000000"])
def test_keys_at_the_ends_of_their_range(api: CheckedApi, asha: Person, ravi: Person, name: str) -> None:
    api.deposit(asha, 1)
    assert pay(api, asha, ravi, 1, key=name).status_code == 201
    assert pay(api, asha, ravi, 1, key=name).headers["idempotent-replayed"] == "true"
    other = pay(api, asha, ravi, 1, key=name.swapcase())
    assert ("idempotent-replayed" in other.headers) == (name == name.swapcase()), "a key's case counts"


def test_amounts_at_the_ends_of_their_range(api: CheckedApi, asha: Person, ravi: Person) -> None:
    api.deposit(asha, 1)
    assert pay(api, asha, ravi, 1).json()["amount"] == 1
    problem = refused(pay(api, asha, ravi, 2**53 - 1), 422, "insufficient_funds")
    recorded = api.call("GET", f"/v1/transfers/{problem['transaction_id']}", token=asha.token).json()
    assert recorded["amount"] == 9007199254740991


def test_refusals_of_a_payment_that_leave_no_trace(api: CheckedApi, asha: Person, ravi: Person) -> None:
    before = read_wallet(api, asha)
    refused(pay(api, asha, asha, 1), 422, "self_transfer")
    nobody = Person("", "", "nobody_at_all", "", "", "", "")
    name = key()
    refused(pay(api, asha, nobody, 1, key=name), 404, "recipient_not_found")
    refused(pay(api, asha, ravi, 1, currency="EUR"), 422, "currency_mismatch")
    assert read_wallet(api, asha) == before
    # Nothing was recorded, so the key is still free.
    api.deposit(asha, 10)
    assert pay(api, asha, ravi, 1, key=name).status_code == 201
