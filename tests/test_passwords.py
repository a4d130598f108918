"""Passwords over HTTP: changing them, and setting a new one by a mailed code, with what may go on at the same time."""

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.api import Person
from tests.support.cached import PATHS
from tests.support.contract import CheckedApi, refused
from tests.support.networks import from_address
from tests.support.platform import Platform
from tests.support.sign_in import (
    address,
    age,
    log_in,
    password,
    profile,
    refresh,
    register,
    signed_in,
    until_waiting,
    verify,
    wrong,
)

SAID = "If the address has an account, a code was mailed to it."
CHANGED = "Your OKANE password was changed"
READS = 50  # of one path, at most, until it is warm


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(scope="module")
def elsewhere(platform: Platform) -> Iterator[CheckedApi]:
    """The same from another network."""
    client = CheckedApi(platform.endpoints)
    client.close()
    client._http = httpx.Client(timeout=30, transport=from_address("127.0.0.7"))
    yield client
    client.close()


def change(api: CheckedApi, token: str, current: str, new: str) -> httpx.Response:
    body = {"current_password": current, "new_password": new}
    return api.call("PUT", "/v1/auth/password", json=body, token=token)


def forget(api: CheckedApi, email: str) -> httpx.Response:
    return api.call("POST", "/v1/auth/password/forgot", json={"email": email})


def reset(api: CheckedApi, email: str, code: str, new: str) -> httpx.Response:
    return api.call("POST", "/v1/auth/password/reset", json={"email": email, "code": code, "new_password": new})


def mailed(api: CheckedApi, email: str) -> str:
    """Ask for a new password; the code."""
    before = len(api.mails(email))
    answer = forget(api, email)
    assert (answer.status_code, answer.json()) == (202, {"message": SAID})
    return api.code(email, after=before)


def warm(api: CheckedApi, token: str) -> None:
    """Answers for this token come from Redis from now on."""
    for path in PATHS:
        found = (api.call("GET", path, token=token).headers["okane-cache"] for _ in range(READS))
        assert "hit" in found, path


def over(api: CheckedApi, access: str, refresh_token: str) -> None:
    """The session is refused, on warm reads too."""
    for path in (*PATHS, "/v1/wallets"):
        refused(api.call("GET", path, token=access), 401, "session_ended")
    refused(refresh(api, refresh_token), 401, "session_ended")


def told(api: CheckedApi, person: Person) -> int:
    """How often the owner was told of a new password."""
    mails = [mail for mail in api.mails(person.email) if mail["subject"] == CHANGED]
    assert not any(re.search(r"\d", mail["text"]) for mail in mails)
    return len(mails)


# Changing it


def test_a_password_is_changed(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    warm(api, person.token)
    new = password()
    assert change(api, tokens["access_token"], person.password, new).status_code == 204
    assert profile(api, tokens).status_code == 200, "this session stays"
    assert refresh(api, tokens["refresh_token"]).status_code == 200
    over(api, person.token, person.refresh_token)
    refused(log_in(api, person.email, person.password), 401, "credentials_invalid")
    assert log_in(api, person.email, new).status_code == 200
    assert told(api, person) == 1


def test_the_current_password_must_be_right(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    for current in (password(), person.password + " ", person.password.upper(), "", "x" * 128):
        refused(change(api, tokens["access_token"], current, password()), 401, "credentials_invalid")
    assert api.call("GET", "/v1/me", token=person.token).status_code == 200, "nobody is thrown out"
    assert told(api, person) == 0
    assert log_in(api, person.email, person.password).status_code == 200


def test_a_stolen_session_is_no_place_to_guess_at_the_password(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    refused(change(api, person.token, "not the password", password()), 401, "credentials_invalid")
    age(api, "UPDATE budgets SET spent = 10 WHERE key LIKE %s", f"log_in:{person.email}:%")
    late = change(api, person.token, person.password, password())
    refused(late, 429, "rate_limited")
    assert 1 <= int(late.headers["retry-after"]) <= 900
    refused(log_in(api, person.email, person.password), 429, "rate_limited")


@pytest.mark.parametrize("kind", ["common", "name", "part of the name", "e-mail", "in the e-mail", "product"])
def test_an_easy_new_password_is_refused(api: CheckedApi, kind: str) -> None:
    person = api.sign_up("Asha Kumar")
    easy = {
        "common": "Iloveyou",
        "name": "asha kumar!",
        "part of the name": "Kumar1999",
        "e-mail": person.email.upper(),
        "in the e-mail": person.email.partition("@")[0],
        "product": "Okane2026!",
    }[kind]
    problem = refused(change(api, person.token, person.password, easy), 422, "validation_failed")
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("/new_password", "password_common")]
    assert log_in(api, person.email, person.password).status_code == 200


@pytest.mark.parametrize(
    ("new", "status"),
    [("a-1b-2c", 422), ("a-1b-2c3", 204), ("\u732b" * 7, 422), ("\u732b" * 8, 204), ("\u732b" * 128, 204), ("x" * 129, 422),
     ("with\0nothing", 422), ("  spaces  ", 204), ("tab\t\nline", 204), ("", 422)],
)  # fmt: skip
def test_lengths_and_bytes(api: CheckedApi, new: str, status: int) -> None:
    person = api.sign_up("Asha")
    assert change(api, person.token, person.password, new).status_code == status
    assert log_in(api, person.email, new if status == 204 else person.password).status_code == 200
    if new.strip() != new:
        refused(log_in(api, person.email, new.strip()), 401, "credentials_invalid")


@pytest.mark.parametrize("body", [
    {"current_password": None, "new_password": "a-good-one"}, {"current_password": 12345678, "new_password": "a-good-one"},
    {"current_password": "x", "new_password": ["a-good-one"]}, {"new_password": "a-good-one"}, {"current_password": "x"}, {},
    {"current_password": "x", "new_password": "a-good-one", "email": "x@example.com"},
    {"current_password": "x" * 129, "new_password": "a-good-one"},
])  # fmt: skip
def test_what_a_change_must_look_like(api: CheckedApi, body: dict[str, Any]) -> None:
    person = api.sign_up("Asha")
    refused(api.call("PUT", "/v1/auth/password", json=body, token=person.token), 422, "validation_failed")


def test_a_change_kills_the_codes_that_were_mailed(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    new = password()
    assert change(api, person.token, person.password, new).status_code == 204
    refused(reset(api, person.email, code, password()), 401, "code_invalid")
    assert log_in(api, person.email, new).status_code == 200


def test_who_has_no_password_cannot_change_it_and_can_have_one_mailed(api: CheckedApi) -> None:
    """As somebody who has signed up by a provider."""
    person = api.sign_up("Asha")
    age(api, "UPDATE people SET password_hash = NULL WHERE id = %s", person.id)
    for current in ("", person.password):
        refused(change(api, person.token, current, password()), 401, "credentials_invalid")
    refused(log_in(api, person.email, person.password), 401, "credentials_invalid")
    new = password()
    assert reset(api, person.email, mailed(api, person.email), new).status_code == 204
    assert log_in(api, person.email, new).status_code == 200


# At the same time


def held_up(api: CheckedApi, row: str, value: str, *asked: Any) -> list[httpx.Response]:
    """Ask in this order while somebody has the row, so that all have looked before one of them acts; the answers."""
    answers: list[Future[httpx.Response]] = []
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(len(asked)) as pool:
        list(pool.map(lambda _: log_in(api, address(), "nothing"), range(2 * len(asked))))
        holder.execute(f"SELECT FROM okane.{row} = %s FOR UPDATE".encode(), [value])
        for number, ask in enumerate(asked, 1):
            answers.append(pool.submit(ask))
            until_waiting(api, number, answers)
        holder.rollback()
        return [answer.result() for answer in answers]


@pytest.mark.parametrize("change_first", [True, False])
def test_a_log_in_with_the_old_password_while_it_changes(api: CheckedApi, change_first: bool) -> None:
    person = api.sign_up("Asha")
    asked = [
        lambda: change(api, person.token, person.password, password()),
        lambda: log_in(api, person.email, person.password),
    ]
    answers = held_up(api, "people WHERE id", person.id, *(asked if change_first else reversed(asked)))
    changed, entered = answers if change_first else reversed(answers)
    assert changed.status_code == 204
    if change_first:
        refused(entered, 401, "credentials_invalid")
    else:
        over(api, entered.json()["access_token"], entered.json()["refresh_token"])


@pytest.mark.parametrize("same_session", [True, False])
def test_two_changes_at_once_are_one(api: CheckedApi, same_session: bool) -> None:
    person, tokens = signed_in(api)
    other = person.token if same_session else tokens["access_token"]
    new = [password(), password()]
    first, second = held_up(
        api,
        "people WHERE id",
        person.id,
        lambda: change(api, person.token, person.password, new[0]),
        lambda: change(api, other, person.password, new[1]),
    )
    assert first.status_code == 204
    refused(second, 401, "credentials_invalid" if same_session else "session_ended")
    assert log_in(api, person.email, new[0]).status_code == 200
    refused(log_in(api, person.email, new[1]), 401, "credentials_invalid")
    assert told(api, person) == 1


def test_two_resets_with_one_code_are_one(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    new = [password(), password()]
    first, second = held_up(
        api,
        "password_resets WHERE email",
        person.email,
        *(lambda secret=secret: reset(api, person.email, code, secret) for secret in new),
    )
    assert first.status_code == 204
    refused(second, 401, "code_invalid")
    assert log_in(api, person.email, new[0]).status_code == 200
    assert told(api, person) == 1


def test_two_resets_from_two_networks_with_one_code_are_one(api: CheckedApi, elsewhere: CheckedApi) -> None:
    """Nothing but the code's own row makes the one wait for the other."""
    person = api.sign_up("Asha")
    assert log_in(elsewhere, person.email, person.password).status_code == 200  # where they are known, too
    code = mailed(api, person.email)
    new = [password(), password()]
    answers = held_up(
        api,
        "password_resets WHERE email",
        person.email,
        lambda: reset(api, person.email, code, new[0]),
        lambda: reset(elsewhere, person.email, code, new[1]),
    )
    assert [answer.status_code for answer in answers] == [204, 401]


def test_a_log_in_with_the_old_password_while_it_is_reset(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    entered, done = held_up(
        api,
        "people WHERE id",
        person.id,
        lambda: log_in(api, person.email, person.password),
        lambda: reset(api, person.email, code, password()),
    )
    assert done.status_code == 204
    over(api, entered.json()["access_token"], entered.json()["refresh_token"])


# Forgetting it


def test_a_forgotten_password_is_set_anew(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    for token in (person.token, tokens["access_token"]):
        warm(api, token)
    code, new = mailed(api, person.email), password()
    assert log_in(api, person.email, person.password).status_code == 200, "asking changes nothing"
    answer = reset(api, person.email.upper(), code, new)
    assert (answer.status_code, answer.content) == (204, b""), "it opens no session"
    over(api, person.token, person.refresh_token)
    over(api, tokens["access_token"], tokens["refresh_token"])
    refused(log_in(api, person.email, person.password), 401, "credentials_invalid")
    assert log_in(api, person.email, new).status_code == 200
    assert told(api, person) == 1
    refused(reset(api, person.email, code, password()), 401, "code_invalid")  # once
    assert told(api, person) == 1


def test_asking_does_not_say_who_is_here(api: CheckedApi) -> None:
    known, unknown = api.sign_up("Asha").email, address()
    answers = [forget(api, email) for email in (known, unknown)]
    seen = [(answer.status_code, answer.content, set(answer.headers)) for answer in answers]
    assert seen[0] == seen[1]
    [to_known, _], [to_unknown] = api.mails(known), api.mails(unknown)
    assert re.search(r"\d{6}", to_known["text"])
    assert not re.search(r"\d", to_unknown["text"])
    assert "no account" in to_unknown["text"]
    for email in (known, unknown, address()):
        refused(reset(api, email, "123456", password()), 401, "code_invalid")


def test_somebody_who_has_not_proved_the_address_has_nothing_to_reset(api: CheckedApi) -> None:
    email, secret = address(), password()
    code = register(api, email, secret)
    forget(api, email)
    [mail, _] = api.mails(email)
    assert "no account" in mail["text"]
    refused(reset(api, email, code, password()), 401, "code_invalid")
    assert verify(api, email, code).status_code == 200, "the sign-up goes on"
    assert log_in(api, email, secret).status_code == 200


def test_a_right_code_for_nobody_is_wrong(api: CheckedApi) -> None:
    """The person's row is gone from under it."""
    person = api.sign_up("Asha")
    code, moved = mailed(api, person.email), address()
    age(api, "UPDATE people SET email = %s WHERE id = %s", moved, person.id)
    refused(reset(api, person.email, code, password()), 401, "code_invalid")
    refused(reset(api, moved, code, password()), 401, "code_invalid")
    assert log_in(api, moved, person.password).status_code == 200


def test_a_code_is_for_one_purpose_and_one_person(api: CheckedApi) -> None:
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    code = mailed(api, asha.email)
    refused(reset(api, ravi.email, code, password()), 401, "code_invalid")
    refused(verify(api, asha.email, code), 401, "code_invalid")
    # One code, twice, for two purposes: each is good for its own only.
    email = address()
    sign_up = register(api, email, password())
    age(api, "INSERT INTO password_resets (email, code_hash, source, expires_at)"
             " SELECT email, code_hash, source, expires_at FROM sign_ups WHERE email = %s", email)  # fmt: skip
    assert verify(api, email, sign_up).status_code == 200
    refused(reset(api, email, sign_up, password()), 401, "code_invalid")
    assert reset(api, asha.email, code, password()).status_code == 204


def test_a_code_lives_for_ten_minutes(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    age(
        api, "UPDATE password_resets SET expires_at = expires_at - interval '9 min 50 s' WHERE email = %s", person.email
    )
    refused(reset(api, person.email, wrong(code), password()), 401, "code_invalid")
    age(api, "UPDATE password_resets SET expires_at = expires_at - interval '10 s' WHERE email = %s", person.email)
    refused(reset(api, person.email, code, password()), 401, "code_invalid")
    assert reset(api, person.email, mailed(api, person.email), password()).status_code == 204


@pytest.mark.parametrize(("tries", "status"), [(4, 204), (5, 401)])
def test_five_wrong_tries_kill_a_code(api: CheckedApi, tries: int, status: int) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    for _ in range(tries):
        refused(reset(api, person.email, wrong(code), password()), 401, "code_invalid")
    assert reset(api, person.email, code, password()).status_code == status
    if status == 401:
        assert reset(api, person.email, mailed(api, person.email), password()).status_code == 204


def test_guesses_from_elsewhere_do_not_kill_a_code(api: CheckedApi, elsewhere: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    for _ in range(8):
        refused(reset(elsewhere, person.email, wrong(code), password()), 401, "code_invalid")
    assert reset(api, person.email, code, password()).status_code == 204


def test_guesses_at_once_are_counted_like_guesses_in_turn(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    guesses = [f"{(int(code) + step) % 1_000_000:06}" for step in range(1, 8)]
    with ThreadPoolExecutor(7) as pool:
        answers = list(pool.map(lambda guess: reset(api, person.email, guess, password()), guesses))
    assert {answer.status_code for answer in answers} == {401}
    refused(reset(api, person.email, code, password()), 401, "code_invalid")


def test_three_codes_at_most_are_alive(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    codes = [mailed(api, person.email) for _ in range(4)]
    if codes[0] not in codes[1:]:  # one in 300,000
        refused(reset(api, person.email, codes[0], password()), 401, "code_invalid")
    assert reset(api, person.email, codes[1], password()).status_code == 204
    refused(reset(api, person.email, codes[3], password()), 401, "code_invalid")


@pytest.mark.parametrize("kind", ["common", "in the e-mail", "product", "short", "long"])
def test_a_code_outlives_a_password_that_is_refused(api: CheckedApi, kind: str) -> None:
    person = api.sign_up("Asha")
    code = mailed(api, person.email)
    easy = {
        "common": "iloveyou",
        "in the e-mail": person.email.partition("@")[0],
        "product": "okane2026",
        "short": "a-1b-2c",
        "long": "x" * 129,
    }[kind]
    for _ in range(6):
        problem = refused(reset(api, person.email, code, easy), 422, "validation_failed")
        assert [fault["pointer"] for fault in problem["errors"]] == ["/new_password"]
    assert reset(api, person.email, code, password()).status_code == 204


def test_after_a_reset_the_owner_is_not_kept_waiting(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    for _ in range(10):
        refused(log_in(api, person.email, "not the password"), 401, "credentials_invalid")
    refused(log_in(api, person.email, person.password), 429, "rate_limited")
    new = password()
    assert reset(api, person.email, mailed(api, person.email), new).status_code == 204
    assert log_in(api, person.email, new).status_code == 200


@pytest.mark.parametrize("known", [True, False])
def test_codes_are_not_mailed_without_end(api: CheckedApi, known: bool) -> None:
    email = api.sign_up("Asha").email if known else address()
    for _ in range(10):
        assert forget(api, email).status_code == 202
    late = forget(api, email)
    refused(late, 429, "rate_limited")
    assert 1 <= int(late.headers["retry-after"]) <= 3600
    assert len(api.mails(email)) == 10 + known
