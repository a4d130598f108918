"""Signing in with Google as a browser drives it, against the local provider."""

import base64
import hashlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.browser import COOKIE, Arrival, Browser, queried, redeem
from tests.support.contract import CheckedApi, refused
from tests.support.platform import (
    ROOT,
    Platform,
    Services,
    empty_redis,
    start_platform,
    stop_platform,
    wait_for_endpoints,
)
from tests.support.proxies import between
from tests.support.sign_in import address, age, log_in, password, profile, refresh, register, verify

LINKED = "A new way to sign in to OKANE"


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture
def browser(api: CheckedApi) -> Iterator[Browser]:
    """A new one."""
    with Browser(api) as new:
        yield new


def somebody(api: CheckedApi, sub: str = "", **claims: Any) -> tuple[str, str]:
    """Somebody whom the provider knows: their sub and e-mail."""
    sub, email = sub or f"sub-{secrets.token_hex(8)}", claims.pop("email", address())
    known = {"email": email, "email_verified": True, "name": "Mina Rao"} | claims
    put = httpx.put(f"{api.endpoints.provider}/users/{sub}", json=known)
    assert put.status_code == 204, put.text
    return sub, email


def signed_in(api: CheckedApi, browser: Browser, sub: str) -> dict[str, Any]:
    """The tokens of a whole round."""
    answer = redeem(api, browser.sign_in(sub).code)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def me(api: CheckedApi, tokens: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = profile(api, tokens).json()
    return found


def rows(api: CheckedApi, question: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(api.endpoints.database_url) as connection:
        connection.execute("SET search_path = okane")
        return connection.execute(question.encode(), values).fetchall()


def test_a_new_person_gets_a_profile_a_handle_and_a_wallet(api: CheckedApi, browser: Browser) -> None:
    sub, email = somebody(api)
    arrived = browser.sign_in(sub)
    assert arrived.url == f"{api.endpoints.mailbox}/signed-in"  # the first of FRONT_END_URLS
    tokens = redeem(api, arrived.code).json()
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 600)
    found = me(api, tokens)
    assert (found["email"], found["name"], found["email_verified"]) == (email, "Mina Rao", True)
    assert found["handle"].startswith("mina_rao")
    wallets = api.call("GET", "/v1/wallets", token=tokens["access_token"]).json()["data"]
    assert [(wallet["currency"], wallet["total"]) for wallet in wallets] == [("INR", 0)]
    assert api.mails(email) == []  # nothing was linked


def test_the_page_of_the_front_end_shows_the_code(api: CheckedApi, browser: Browser) -> None:
    arrived = browser.sign_in("mina")  # whom the provider knows from the start
    page = httpx.get(arrived.url, params={"code": arrived.code})
    assert (page.status_code, arrived.code in page.text) == (200, True)


def test_a_person_with_a_password_is_linked_and_told(api: CheckedApi, browser: Browser) -> None:
    person = api.sign_up("Asha")
    sub, _ = somebody(api, email=person.email, name="Another Name")
    found = me(api, signed_in(api, browser, sub))
    assert (found["id"], found["name"], found["handle"]) == (person.id, "Asha", person.handle)
    assert [mail["subject"] for mail in api.mails(person.email)].count(LINKED) == 1
    assert log_in(api, person.email, person.password).status_code == 200
    signed_in(api, browser, sub)
    assert [mail["subject"] for mail in api.mails(person.email)].count(LINKED) == 1  # once


def test_the_same_person_with_another_address_is_the_same(api: CheckedApi, browser: Browser) -> None:
    """The provider's name for a person is who they are. Their address may even be somebody else's here by now."""
    sub, email = somebody(api)
    before = me(api, signed_in(api, browser, sub))
    somebody(api, sub, email=api.sign_up("Ravi").email)
    assert me(api, signed_in(api, browser, sub)) == before
    assert before["email"] == email


def test_two_first_rounds_at_once_make_one_person(api: CheckedApi) -> None:
    sub, email = somebody(api)
    with ThreadPoolExecutor(4) as pool:
        browsers = [Browser(api) for _ in range(4)]
        urls = [each.choose(each.start(), sub) for each in browsers]
        arrived = list(pool.map(lambda pair: pair[0].come_back(pair[1]), zip(browsers, urls, strict=True)))
        for each in browsers:
            each.__exit__()
    assert len({me(api, redeem(api, one.code).json())["id"] for one in arrived}) == 1
    assert rows(api, "SELECT count(*) FROM people WHERE email = %s", email) == [(1,)]
    assert rows(api, "SELECT count(*) FROM identities WHERE subject = %s", sub) == [(1,)]
    assert rows(api, "SELECT count(*) FROM wallets w JOIN people p ON p.id = w.person_id WHERE email = %s", email) == [
        (1,)
    ]


def test_a_sign_up_that_was_not_proved_loses_its_password(api: CheckedApi, browser: Browser) -> None:
    """Somebody signs up with an address that is not theirs, and waits for its owner."""
    sub, email = somebody(api)
    planted = password()
    code = register(api, email, planted, "Thief")
    tokens = signed_in(api, browser, sub)
    assert me(api, tokens)["name"] == "Mina Rao"
    refused(verify(api, email, code), 401, "code_invalid")
    refused(log_in(api, email, planted), 401, "credentials_invalid")


def test_a_second_provider_account_with_the_address_is_refused(api: CheckedApi, browser: Browser) -> None:
    sub, email = somebody(api)
    signed_in(api, browser, sub)
    other, _ = somebody(api, email=email)
    assert browser.sign_in(other).error == "identity_conflict"
    assert rows(api, "SELECT subject FROM identities i JOIN people p ON p.id = person_id WHERE email = %s", email) == [
        (sub,)
    ]
    signed_in(api, browser, sub)


def test_without_a_password_there_is_none_to_guess_or_to_change(api: CheckedApi, browser: Browser) -> None:
    sub, email = somebody(api)
    tokens = signed_in(api, browser, sub)
    known = refused(log_in(api, email, "something else"), 401, "credentials_invalid")
    unknown = refused(log_in(api, address(), "something else"), 401, "credentials_invalid")
    assert known["detail"] == unknown["detail"]
    change = {"current_password": "something else", "new_password": password()}
    answer = api.call("PUT", "/v1/auth/password", json=change, token=tokens["access_token"])
    refused(answer, 401, "credentials_invalid")


def test_a_mailed_code_gives_a_password_to_who_has_none(api: CheckedApi, browser: Browser) -> None:
    sub, email = somebody(api)
    before = signed_in(api, browser, sub)
    assert api.call("POST", "/v1/auth/password/forgot", json={"email": email}).status_code == 202
    secret = password()
    body = {"email": email, "code": api.code(email), "new_password": secret}
    assert api.call("POST", "/v1/auth/password/reset", json=body).status_code == 204
    refused(profile(api, before), 401, "session_ended")
    now = log_in(api, email, secret).json()
    assert me(api, now)["id"] == me(api, signed_in(api, browser, sub))["id"]


@pytest.mark.parametrize(
    "name",
    [None, "", " padded ", "two\nlines", "x" * 81, 7, ["Mina"], {"given": "Mina"}, "\u200b", "nul\u0000"],
)
def test_a_name_that_is_missing_or_unfit_is_made_from_the_address(
    api: CheckedApi, browser: Browser, name: object
) -> None:
    sub, email = somebody(api, email=f"mina.rao-{secrets.token_hex(6)}@example.com", name=name)
    found = me(api, signed_in(api, browser, sub))
    assert found["name"] == email.partition("@")[0]
    assert found["handle"].startswith("mina_rao_")


@pytest.mark.parametrize("name", ["ミナ", "\N{SLIGHTLY SMILING FACE}", "Żółć", "O'Neil <b>", "9 Lives"])
def test_any_other_name_is_kept(api: CheckedApi, browser: Browser, name: str) -> None:
    assert me(api, signed_in(api, browser, somebody(api, name=name)[0]))["name"] == name


def test_an_address_in_capitals_is_the_same_address(api: CheckedApi, browser: Browser) -> None:
    person = api.sign_up("Asha")
    sub, _ = somebody(api, email=person.email.upper())
    assert me(api, signed_in(api, browser, sub))["id"] == person.id
    sub, email = somebody(api, email=address().upper())
    assert me(api, signed_in(api, browser, sub))["email"] == email.lower()


def test_return_to_is_where_the_browser_ends(api: CheckedApi, browser: Browser) -> None:
    second = "http://localhost:5173/signed-in"
    assert browser.sign_in("mina", return_to=second).url == second
    assert browser.sign_in(None, return_to=second) == Arrival(second, "", "access_denied")
    assert browser.sign_in("mina").url == f"{api.endpoints.mailbox}/signed-in"


def pair() -> tuple[str, str]:
    """A front end's verifier and its challenge."""
    verifier = secrets.token_urlsafe(32)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def test_a_front_end_binds_the_code_to_itself(api: CheckedApi, browser: Browser) -> None:
    verifier, challenge = pair()
    code = browser.sign_in("mina", code_challenge=challenge).code
    assert redeem(api, code, verifier).status_code == 200


@pytest.mark.parametrize("shown", ["none", "another", "the challenge", "unasked"])
def test_a_code_that_is_bound_opens_to_its_verifier_only(api: CheckedApi, browser: Browser, shown: str) -> None:
    verifier, challenge = pair()
    code = browser.sign_in("mina", **({} if shown == "unasked" else {"code_challenge": challenge})).code
    given = {"none": None, "another": pair()[0], "the challenge": challenge, "unasked": verifier}[shown]
    refused(redeem(api, code, given), 401, "code_invalid")
    refused(redeem(api, code, None if shown == "unasked" else verifier), 401, "code_invalid")  # it is spent


@pytest.mark.parametrize(
    "challenge", ["", "short", "x" * 42, "x" * 44, "x" * 42 + "=", "x" * 42 + "+", "x" * 42 + "\n"]
)
def test_a_challenge_that_is_none_is_refused(browser: Browser, challenge: str) -> None:
    refused(browser.get("/v1/auth/google", params={"code_challenge": challenge}), 422, "validation_failed")


def test_what_goes_to_the_provider(api: CheckedApi, browser: Browser) -> None:
    sent = queried(browser.start())
    assert len({sent[name] for name in ("state", "nonce", "code_challenge")}) == 3
    assert all(len(sent[name]) == 43 for name in ("state", "nonce", "code_challenge"))
    assert sent["redirect_uri"] == f"{api.endpoints.api}/v1/auth/google/callback"
    assert (sent["response_type"], sent["code_challenge_method"]) == ("code", "S256")
    assert (sent["scope"], sent["prompt"]) == ("openid email profile", "select_account")
    again = queried(browser.start())
    assert not {sent[name] for name in ("state", "nonce", "code_challenge")} & set(again.values())


def test_the_cookie_is_for_our_host_and_no_script(browser: Browser) -> None:
    answer = browser.get("/v1/auth/google")
    assert cookie(answer) == {"httponly", "max-age=600", "path=/", "samesite=lax"}
    assert browser.cookie
    assert cookie(browser.get("/v1/auth/google/callback")) == {"httponly", "max-age=0", "path=/", "samesite=lax"}
    assert browser.cookie is None


def cookie(answer: httpx.Response) -> set[str]:
    """The attributes of the one cookie of an answer."""
    [header] = answer.headers.get_list("set-cookie")
    content, *attributes = header.split("; ")
    assert content.startswith(f"{COOKIE}=")
    return {attribute.lower() for attribute in attributes}


OVER_TLS = """
import json
from okane_common import api, openid, provider
provider._provider._metadata_at = float("inf")
provider._provider._metadata = {"authorization_endpoint": "https://accounts.example/o"}
way = openid.start(None, None)
[cookie] = api.redirect(way.url, way.cookie, openid.ROUND_SECONDS).cookies
print(str(cookie))
"""


def test_over_tls_the_cookie_is_bound_to_the_host(services: Services) -> None:
    environment = {
        "PYTHONPATH": str(ROOT / "layers" / "okane_common"),
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
        "UPSTASH_REDIS_REST_TOKEN": "none",
        "OKANE_SECRET": services.secrets.okane_secret,
        "TOKEN_ISSUER": "https://api.example.com",
        "TOKEN_AUDIENCE": "okane",
        "TOKEN_PUBLIC_KEYS": services.secrets.public_keys(),
        "TOKEN_SIGNING_KEYS": services.secrets.signing_keys(),
        "MAIL_FROM": "okane@example.com",
        "DEFAULT_CURRENCY": "INR",
        "CURRENCIES": "INR",
        "DOCS_URL": "https://example.com/errors.md",
        "REQUESTS_PER_MINUTE": "60",
        "OPENID_CLIENT_ID": "okane",
        "FRONT_END_URLS": "https://example.com/in",
    }
    done = subprocess.run(
        [sys.executable, "-c", OVER_TLS], env=environment, capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    content, *attributes = done.stdout.strip().split("; ")
    assert content.startswith(f"__Host-{COOKIE}=")
    assert {attribute.lower() for attribute in attributes} == {
        "httponly",
        "max-age=600",
        "path=/",
        "samesite=lax",
        "secure",
    }


def test_its_session_is_like_any_other(api: CheckedApi, browser: Browser) -> None:
    sub, _ = somebody(api)
    first, second = signed_in(api, browser, sub), signed_in(api, browser, sub)
    listed = api.call("GET", "/v1/auth/sessions", token=first["access_token"]).json()["data"]
    assert {one["id"] for one in listed} == {first["session_id"], second["session_id"]}
    assert refresh(api, first["refresh_token"]).status_code == 200
    gone = api.call("DELETE", f"/v1/auth/sessions/{second['session_id']}", token=first["access_token"])
    assert gone.status_code == 204
    refused(profile(api, second), 401, "session_ended")
    refused(refresh(api, second["refresh_token"]), 401, "session_ended")


def test_a_code_ends_after_two_minutes(api: CheckedApi, browser: Browser) -> None:
    sub, _ = somebody(api)
    moved = (
        "UPDATE provider_rounds SET ended_at = ended_at - %s * interval '1 s' WHERE person_id = %s AND used_at IS NULL"
    )
    person = me(api, signed_in(api, browser, sub))["id"]
    for seconds, status in ((110, 200), (121, 401)):
        code = browser.sign_in(sub).code
        age(api, moved, seconds, person)
        assert redeem(api, code).status_code == status


def test_a_callback_and_an_exchange_cost_one_round_trip_each(
    platform: Platform, services: Services, tmp_path: Any
) -> None:
    endpoints = platform.endpoints
    with between(endpoints.database_url, services.redis_url, "token") as counters:
        empty_redis(services.redis_url)
        process = start_platform(
            tmp_path / "counted", "--no-people", "--no-schedule", **(counters.environment | {"REDIS_URL": ""})
        )
        try:
            counted = CheckedApi(wait_for_endpoints(tmp_path / "counted", process))
            with Browser(counted) as browser:
                url = browser.choose(browser.start(), "mina")
                for sub in ("mina", "mina", None):
                    before = counters.postgres.round_trips
                    url = browser.choose(browser.start(), sub)
                    assert counters.postgres.round_trips == before
                    arrived = browser.come_back(url)
                    assert counters.postgres.round_trips == before + 1
                    if sub:
                        assert redeem(counted, arrived.code).status_code == 200
                        assert counters.postgres.round_trips == before + 2
            counted.close()
        finally:
            stop_platform(process)
