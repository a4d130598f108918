"""Signing in from a test: sign-ups, codes, sessions, and time that is moved through the owner's connection."""

import secrets
import time
from concurrent.futures import Future
from typing import Any

import httpx
import psycopg

from tests.support.api import Person
from tests.support.contract import CheckedApi

SENT = "Enter the code that was mailed to the address."


def address() -> str:
    """An e-mail address that nobody has."""
    return f"person-{secrets.token_hex(8)}@example.com"


def password() -> str:
    return f"pass-{secrets.token_hex(8)}"


def register(api: CheckedApi, email: str, secret: str, name: str = "Asha") -> str:
    """Sign up; the code that is mailed."""
    before = len(api.mails(email.lower()))
    answer = api.call("POST", "/v1/auth/register", json={"email": email, "password": secret, "name": name})
    assert (answer.status_code, answer.json()) == (202, {"message": SENT})
    return api.code(email.lower(), after=before)


def verify(api: CheckedApi, email: str, code: str) -> httpx.Response:
    return api.call("POST", "/v1/auth/verify", json={"email": email, "code": code})


def log_in(api: CheckedApi, email: str, secret: str) -> httpx.Response:
    return api.call("POST", "/v1/auth/login", json={"email": email, "password": secret})


def forgotten(api: CheckedApi, email: str) -> str:
    """Ask for a new password; the code that is mailed."""
    before = len(api.mails(email))
    assert api.call("POST", "/v1/auth/password/forgot", json={"email": email}).status_code == 202
    return api.code(email, after=before)


def reset(api: CheckedApi, email: str, code: str) -> httpx.Response:
    body = {"email": email, "code": code, "new_password": password()}
    return api.call("POST", "/v1/auth/password/reset", json=body)


def refresh(api: CheckedApi, token: str) -> httpx.Response:
    return api.call("POST", "/v1/auth/refresh", json={"refresh_token": token})


def profile(api: CheckedApi, tokens: dict[str, Any]) -> httpx.Response:
    return api.call("GET", "/v1/me", token=tokens["access_token"])


def wrong(code: str) -> str:
    """Another code."""
    return f"{(int(code) + 1) % 1_000_000:06}"


def age(api: CheckedApi, statement: str, *values: object) -> None:
    """Move time in the tables, as their owner."""
    with psycopg.connect(api.endpoints.database_url) as connection:
        connection.execute("SET search_path = okane")
        assert connection.execute(statement.encode(), values).rowcount > 0


def forget_tries(api: CheckedApi) -> None:
    """As if nobody had tried anything for an hour."""
    with psycopg.connect(api.endpoints.database_url) as connection:
        connection.execute("DELETE FROM okane.budgets")


def until_waiting(api: CheckedApi, count: int, answers: "list[Future[httpx.Response]]") -> None:
    """Return once that many requests wait for a lock; fail once all are answered, which none may be before."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(api.endpoints.database_url, autocommit=True) as watcher:
        while watcher.execute(asked).fetchall()[0][0] < count:
            assert not all(answer.done() for answer in answers)
            time.sleep(0.005)


def signed_in(api: CheckedApi) -> tuple[Person, dict[str, Any]]:
    person = api.sign_up("Asha")
    return person, log_in(api, person.email, person.password).json()
