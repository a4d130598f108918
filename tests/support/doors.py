"""The doors that strangers may try, how often, and what a test can see and move of the budgets behind them."""

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest

from tests.support.contract import CheckedApi, refused
from tests.support.sign_in import age


class Door(NamedTuple):
    """A route that strangers may try, what a try that is looked at gets, and how many there may be in `seconds`: from one
    network, at one address from there, and at one address from anywhere.
    """

    what: str
    path: str
    body: Callable[[str], dict[str, Any]]
    status: int
    network: int
    pair: int
    address: int
    seconds: int

    def tried(self, api: CheckedApi, email: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """One try that proves nothing."""
        return api.call("POST", self.path, json=self.body(email), headers=headers)

    def may(self, api: CheckedApi, email: str) -> None:
        """A try is looked at."""
        answer = self.tried(api, email)
        assert answer.status_code == self.status, answer.text

    def may_not(self, api: CheckedApi, email: str) -> dict[str, Any]:
        """A try is not looked at; what is said instead."""
        return limited(self.tried(api, email), self.seconds)


DOORS = [
    Door("log_in", "/v1/auth/login", lambda email: {"email": email, "password": "not the password"}, 401, 100, 10, 100, 900),
    Door("sign_up", "/v1/auth/register", lambda email: {"email": email, "password": "some-pass-1", "name": "Asha"},
         202, 300, 10, 12, 3600),
    Door("verify", "/v1/auth/verify", lambda email: {"email": email, "code": "123456"}, 401, 100, 10, 15, 900),
    Door("forgot", "/v1/auth/password/forgot", lambda email: {"email": email}, 202, 100, 10, 12, 3600),
    Door("reset", "/v1/auth/password/reset",
         lambda email: {"email": email, "code": "123456", "new_password": "some-pass-1"}, 401, 100, 10, 15, 900),
]  # fmt: skip
OF = {door.what: door for door in DOORS}
each_door = pytest.mark.parametrize("door", DOORS, ids=[door.what for door in DOORS])


def limited(answer: httpx.Response, seconds: int) -> dict[str, Any]:
    """The refusal; it names a time to wait that is not longer than the budget's."""
    problem = refused(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= seconds
    return problem


def spent(api: CheckedApi, like: str) -> list[int]:
    """What is spent of the budgets whose keys are like this."""
    with psycopg.connect(api.endpoints.database_url) as connection:
        rows = connection.execute("SELECT spent FROM okane.budgets WHERE key LIKE %s ORDER BY key", [like])
        return [row[0] for row in rows]


def leave(api: CheckedApi, like: str, *, before: int, now: int) -> None:
    """Of one budget `before` was spent; from here on it is `now`."""
    assert spent(api, like) == [before]
    age(api, "UPDATE budgets SET spent = %s WHERE key LIKE %s", now, like)


def alike(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether two answers are the same, but for the request's own name and a second that may have gone by."""
    same = set(one.headers) == set(other.headers)
    bodies = [answer.json() | {"request_id": ""} for answer in (one, other)]
    waits = [int(answer.headers.get("retry-after", 0)) for answer in (one, other)]
    return same and one.status_code == other.status_code and bodies[0] == bodies[1] and abs(waits[0] - waits[1]) <= 2


def people(api: CheckedApi, count: int) -> list[str]:
    """Accounts, all with one password that nobody guesses, since what is measured is how many guesses are looked at."""
    taken = secrets.token_hex(6)
    with psycopg.connect(api.endpoints.database_url) as connection:
        made = connection.execute(
            "INSERT INTO okane.people (email, name, handle, password_hash)"
            " SELECT %(taken)s || n || '@example.com', 'Asha', 'g' || %(taken)s || n,"
            "        (SELECT password_hash FROM okane.people WHERE password_hash IS NOT NULL LIMIT 1)"
            " FROM generate_series(1, %(count)s) n RETURNING email",
            {"taken": taken, "count": count},
        )
        return [row[0] for row in made]
