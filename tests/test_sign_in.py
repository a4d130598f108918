"""Signing up and in over HTTP, and how often one may try; time is moved through the owner's connection."""

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.contract import CheckedApi, refused
from tests.support.platform import Platform
from tests.support.sign_in import (
    address,
    age,
    forget_tries,
    log_in,
    password,
    profile,
    refresh,
    register,
    until_waiting,
    verify,
    wrong,
)


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(platform.endpoints)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def new(api: CheckedApi) -> None:
    """Every test starts with budgets of which nothing is spent: all come from one network."""
    forget_tries(api)


def test_a_sign_up_becomes_a_person_with_its_code(api: CheckedApi) -> None:
    email, secret = address(), password()
    code = register(api, email, secret)
    tokens = verify(api, email, code).json()
    assert tokens["token_type"] == "Bearer"
    assert (tokens["expires_in"], tokens["refresh_expires_in"]) == (600, 7 * 24 * 3600)
    assert profile(api, tokens).json()["email"] == email
    wallets = api.call("GET", "/v1/wallets", token=tokens["access_token"]).json()["data"]
    assert [(wallet["currency"], wallet["total"]) for wallet in wallets] == [("INR", 0)]
    refused(verify(api, email, code), 401, "code_invalid")  # once
    again = log_in(api, email, secret).json()
    assert again["session_id"] != tokens["session_id"]
    assert profile(api, again).json() == profile(api, tokens).json()


def test_no_answer_says_who_is_here(api: CheckedApi) -> None:
    known, unknown = api.sign_up("Asha").email, address()
    answers = [
        api.call("POST", "/v1/auth/register", json={"email": email, "password": password(), "name": "Ravi"})
        for email in (known, unknown)
    ]
    seen = [(answer.status_code, answer.content, set(answer.headers)) for answer in answers]
    assert seen[0] == seen[1]
    # Only the mail tells, and only its reader.
    assert re.search(r"\d{6}", api.mails(unknown)[0]["text"])
    assert not re.search(r"\d{6}", api.mails(known)[0]["text"])
    assert "sign in instead" in api.mails(known)[0]["text"]
    for email in (known, unknown, address()):
        refused(verify(api, email, "123456"), 401, "code_invalid")
        problem = refused(log_in(api, email, "not the password"), 401, "credentials_invalid")
        assert problem["detail"] == "Check the password, and the e-mail where one is asked for."


def test_a_sign_up_does_not_tell_who_is_here(api: CheckedApi) -> None:
    """Whoever signs up with an address, and tries the password that they chose, hears the same about every address."""
    answers = []
    for email in (api.sign_up("Asha").email, address()):
        mine = password()
        register_only = {"email": email, "password": mine, "name": "Ravi"}
        assert api.call("POST", "/v1/auth/register", json=register_only).status_code == 202
        right, wrong_one = log_in(api, email, mine), log_in(api, email, password())
        refused(right, 403, "email_unverified")
        refused(wrong_one, 401, "credentials_invalid")
        answers.append([answer.json() | {"request_id": ""} for answer in (right, wrong_one)])
    assert answers[0] == answers[1]


def test_a_known_address_cannot_be_taken_over(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    mine = password()
    api.call("POST", "/v1/auth/register", json={"email": person.email, "password": mine, "name": "Thief"})
    refused(log_in(api, person.email, mine), 403, "email_unverified")  # as where nobody has the address
    assert log_in(api, person.email, person.password).status_code == 200
    # A right code is worth nothing any more once the address belongs to somebody.
    email = address()
    code = register(api, email, mine)
    age(api, "INSERT INTO people (email, name, handle) VALUES (%s, 'Asha', %s)", email, f"asha_{secrets.token_hex(8)}")
    refused(verify(api, email, code), 401, "code_invalid")
    refused(log_in(api, email, mine), 401, "credentials_invalid")


@pytest.mark.parametrize(("tries", "status"), [(4, 200), (5, 401)])
def test_five_wrong_tries_kill_a_code(api: CheckedApi, tries: int, status: int) -> None:
    email, secret = address(), password()
    code = register(api, email, secret)
    for _ in range(tries):
        refused(verify(api, email, wrong(code)), 401, "code_invalid")
    assert verify(api, email, code).status_code == status
    if status == 401:
        assert verify(api, email, register(api, email, secret)).status_code == 200


def test_guesses_at_once_are_counted_like_guesses_in_turn(api: CheckedApi) -> None:
    email = address()
    code = register(api, email, password())
    guesses = [f"{(int(code) + step) % 1_000_000:06}" for step in range(1, 10)]
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda guess: verify(api, email, guess), guesses))
    assert {answer.status_code for answer in answers} == {401}
    refused(
        verify(api, email, code), 401, "code_invalid"
    )  # the tenth from this network; the next would not be looked at


def test_a_guess_that_is_under_way_counts(api: CheckedApi) -> None:
    """The right code comes while the fifth wrong one is being looked at: it is too late."""
    email = address()
    code = register(api, email, password())
    for _ in range(4):
        verify(api, email, wrong(code))
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: log_in(api, email, "nothing"), range(8)))  # workers for all that follows are there now
        holder.execute("SELECT FROM okane.sign_ups WHERE email = %s FOR UPDATE", [email])
        answers = [pool.submit(verify, api, email, wrong(code))]
        until_waiting(api, 1, answers)
        answers.append(pool.submit(verify, api, email, code))
        until_waiting(api, 2, answers)
        holder.rollback()
        assert [answer.result().status_code for answer in answers] == [401, 401]


def test_one_code_at_once_makes_one_person(api: CheckedApi, platform: Platform) -> None:
    email = address()
    code = register(api, email, password())
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: verify(api, email, code), range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + 9 * [401]
    with psycopg.connect(platform.endpoints.database_url) as connection:
        counted = connection.execute("SELECT count(*) FROM okane.people WHERE email = %s", [email]).fetchone()
    assert counted == (1,)


def test_a_code_ends_after_ten_minutes(api: CheckedApi) -> None:
    email, secret = address(), password()
    old = register(api, email, secret)
    age(api, "UPDATE sign_ups SET expires_at = expires_at - interval '9 min 50 s' WHERE email = %s", email)
    refused(verify(api, email, wrong(old)), 401, "code_invalid")
    age(api, "UPDATE sign_ups SET expires_at = expires_at - interval '10 s' WHERE email = %s", email)
    refused(verify(api, email, old), 401, "code_invalid")
    refused(log_in(api, email, secret), 403, "email_unverified")
    assert verify(api, email, register(api, email, secret)).status_code == 200


def test_signing_up_again_gives_another_code_and_keeps_the_old_one(api: CheckedApi) -> None:
    email, secret = address(), password()
    codes = [register(api, email, secret) for _ in range(2)]
    assert verify(api, email, codes[0]).status_code == 200
    refused(verify(api, email, codes[1]), 401, "code_invalid")  # the address is proved, what waited is gone


def test_three_codes_at_most_are_alive(api: CheckedApi) -> None:
    email = address()
    codes = [register(api, email, password()) for _ in range(4)]
    if codes[0] not in codes[1:]:  # one in 300,000
        refused(verify(api, email, codes[0]), 401, "code_invalid")
    assert verify(api, email, codes[1]).status_code == 200


@pytest.mark.parametrize("first", [0, 1])
def test_the_code_decides_whose_sign_up_it_was(api: CheckedApi, first: int) -> None:
    """A stranger who signs up with somebody's address does not own what its owner's code opens."""
    email = address()
    passwords = [password(), password()]
    codes = [register(api, email, secret, f"Person {n}") for n, secret in enumerate(passwords)]
    tokens = verify(api, email, codes[first]).json()
    assert profile(api, tokens).json()["name"] == f"Person {first}"
    assert log_in(api, email, passwords[first]).status_code == 200
    refused(log_in(api, email, passwords[1 - first]), 401, "credentials_invalid")


@pytest.mark.parametrize(
    "common",
    [
        "password",
        "12345678",
        "PASSWORD",
        "qwertyui",
        "iloveyou",
        "sunshine1",
        "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44",
    ],
)
def test_common_passwords_are_refused(api: CheckedApi, common: str) -> None:
    email = address()
    answer = api.call("POST", "/v1/auth/register", json={"email": email, "password": common, "name": "Asha"})
    problem = refused(answer, 422, "validation_failed")
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("/password", "password_common")]
    assert api.mails(email) == []


@pytest.mark.parametrize(
    "exact",
    [
        " leading",
        "trailing ",
        "päss-wörd-ü",
        "\U0001f642\U0001f642\U0001f642\U0001f642\U0001f642\U0001f642\U0001f642\U0001f642",
        "a" * 128,
        "tab\tand\nline",
        "\uff21bcdefgh1",
    ],
)
def test_passwords_are_taken_byte_for_byte(api: CheckedApi, exact: str) -> None:
    email = address()
    code = register(api, email, exact)
    verify(api, email, code)
    assert log_in(api, email, exact).status_code == 200
    for other in (exact.strip() + "x", exact.upper() if exact.upper() != exact else exact + "x"):
        if len(other) <= 128:
            refused(log_in(api, email, other), 401, "credentials_invalid")
    # What looks the same in another normal form is another password.
    if "ä" in exact:
        refused(log_in(api, email, "pa\u0308ss-wo\u0308rd-u\u0308"), 401, "credentials_invalid")


def test_an_unverified_address_is_told_so_only_with_the_password(api: CheckedApi) -> None:
    email, secret = address(), password()
    code = register(api, email, secret)
    refused(log_in(api, email, secret), 403, "email_unverified")
    refused(log_in(api, email, "not the password"), 401, "credentials_invalid")
    assert verify(api, email, code).status_code == 200
    assert log_in(api, email, secret).status_code == 200


def test_the_case_of_an_address_does_not_matter(api: CheckedApi) -> None:
    email, secret = address(), password()
    shouted = email.upper()
    code = register(api, shouted, secret)
    tokens = verify(api, email.capitalize(), code).json()
    assert profile(api, tokens).json()["email"] == email
    assert log_in(api, shouted, secret).status_code == 200
    api.call("POST", "/v1/auth/register", json={"email": email.title(), "password": password(), "name": "Asha"})
    assert "already" in api.mails(email)[0]["subject"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Asha Kumar", r"asha_kumar(_\d{4})?"),
        ("José Núñez", r"jose_nunez(_\d{4})?"),
        ("O'Brien-Smith", r"o_brien_smith(_\d{4})?"),
        ("42", r"user_42(_\d{4})?"),
        ("猫", r"user(_\d{4})?|user_[0-9a-f]{24}"),
        ("Al", r"al_\d{4}"),
        ("A" * 80, r"a{20}(_\d{4})?"),
        ("__ _", r"user(_\d{4})?|user_[0-9a-f]{24}"),
    ],
)
def test_a_handle_is_made_from_the_name(api: CheckedApi, name: str, shape: str) -> None:
    handles = []
    for _ in range(3):
        email = address()
        tokens = verify(api, email, register(api, email, password(), name)).json()
        handles.append(profile(api, tokens).json()["handle"])
    assert len(set(handles)) == 3
    for handle in handles:
        assert re.fullmatch(shape, handle), handle
        assert re.fullmatch("[a-z][a-z0-9_]{2,29}", handle), handle


@pytest.mark.parametrize("known", [True, False])
def test_an_address_is_not_mailed_without_end(api: CheckedApi, known: bool) -> None:
    email = api.sign_up("Asha").email if known else address()
    mails = len(api.mails(email))
    body = {"email": email, "password": password(), "name": "Asha"}
    for _ in range(10):
        assert api.call("POST", "/v1/auth/register", json=body).status_code == 202
    answer = api.call("POST", "/v1/auth/register", json=body)
    refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    assert len(api.mails(email)) == mails + 10
    assert api.sign_up("Ravi"), "another address is another budget"
    age(api, "UPDATE budgets SET started_at = started_at - interval '59 min' WHERE key LIKE %s", f"%{email}%")
    answer = api.call("POST", "/v1/auth/register", json=body)
    refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    age(api, "UPDATE budgets SET started_at = started_at - interval '1 min' WHERE key LIKE %s", f"%{email}%")
    assert api.call("POST", "/v1/auth/register", json=body).status_code == 202


def test_new_codes_do_not_bring_new_guesses_without_end(api: CheckedApi) -> None:
    email = address()
    answers = []
    for _ in range(4):
        code = register(api, email, password())
        answers += [verify(api, email, wrong(code)).status_code for _ in range(5)]
    assert answers == 10 * [401] + 10 * [429]
    late = verify(api, email, code)
    refused(late, 429, "rate_limited")
    assert 1 <= int(late.headers["retry-after"]) <= 900
    age(api, "UPDATE budgets SET started_at = started_at - interval '15 min' WHERE key LIKE %s", f"%{email}%")
    assert verify(api, email, register(api, email, password())).status_code == 200


@pytest.mark.parametrize("known", [True, False])
def test_passwords_cannot_be_guessed_without_end(api: CheckedApi, known: bool) -> None:
    person = api.sign_up("Asha")
    email = person.email if known else address()
    refused(log_in(api, email, "not the password"), 401, "credentials_invalid")
    age(api, "UPDATE budgets SET spent = spent + 6 WHERE key LIKE %s AND spent = 1", f"log_in:{email}:%")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: log_in(api, email, "not the password").status_code, range(6)))
    assert sorted(answers) == 3 * [401] + 3 * [429]  # ten with those before
    late = log_in(api, email, person.password)
    refused(late, 429, "rate_limited")  # the right one does not tell either
    assert 1 <= int(late.headers["retry-after"]) <= 900
    assert api.call("GET", "/v1/me", token=person.token).status_code == 200, "who is in stays in"
    age(api, "UPDATE budgets SET started_at = started_at - interval '15 min' WHERE key LIKE %s", f"%{email}%")
    assert log_in(api, email, person.password).status_code == (200 if known else 401)


def test_the_right_password_starts_the_count_anew(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    for _ in range(3):
        for _ in range(9):
            refused(log_in(api, person.email, "not the password"), 401, "credentials_invalid")
        assert log_in(api, person.email, person.password).status_code == 200


@pytest.mark.parametrize(
    "device", [b"\xff\xfe", b"a" * 8000, "\u00e9 \u732b".encode(), b"'; DROP TABLE okane.sessions; --", b""]
)
def test_any_device_may_sign_in(api: CheckedApi, device: bytes) -> None:
    person = api.sign_up("Asha")
    sent: Any = {"User-Agent": device}
    who = {"email": person.email, "password": person.password}
    assert api.call("POST", "/v1/auth/login", json=who, headers=sent).status_code == 200


@pytest.mark.parametrize("local", ["a.b", "a+b", "a_b-c", "o'brien", "a" * 50, "{a|b}", "1"])
def test_addresses_of_many_kinds_are_taken(api: CheckedApi, local: str) -> None:
    email = f"{local}.{secrets.token_hex(6)}@mail.example.com"
    answer = api.call("POST", "/v1/auth/register", json={"email": email, "password": password(), "name": "Asha"})
    assert answer.status_code == 202


def test_no_secret_is_kept_or_logged_as_it_is(api: CheckedApi, platform: Platform) -> None:
    email, secret = address(), password()
    code = register(api, email, secret)
    tokens = verify(api, email, code).json()
    renewed = refresh(api, tokens["refresh_token"]).json()
    with psycopg.connect(platform.endpoints.database_url) as connection:
        rows = []
        for table in ("people", "sign_ups", "sessions", "refresh_tokens"):
            rows += connection.execute(f"SELECT to_jsonb(t)::text FROM okane.{table} t".encode()).fetchall()
    kept = "\n".join(row for (row,) in rows)
    logged = "".join(file.read_text(errors="replace") for file in (platform.state / "logs").iterdir())
    assert '"route": "POST /v1/auth/refresh"' in logged or '"route":"POST /v1/auth/refresh"' in logged
    for value in (
        secret,
        tokens["refresh_token"],
        renewed["refresh_token"],
        tokens["access_token"],
        renewed["access_token"],
    ):
        assert value not in kept
        assert value not in logged
    assert email not in logged
    assert f'"{code}"' not in logged
