"""Two who sign in at the same time may wait for each other, but never in a circle: none is told to come again.

Each test holds a row that both want, so that they meet in the order that would be a circle.
"""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.books import Ledger
from tests.support.contract import CheckedApi
from tests.support.doors import OF
from tests.support.platform import Database, Platform
from tests.support.sign_in import address, forgotten, log_in, password, register, reset, until_waiting, verify


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[CheckedApi]:
    """A client that checks every reply, of functions that have workers for two requests at once."""
    client = CheckedApi(platform.endpoints)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: log_in(client, address(), "nothing"), range(8)))
    yield client
    client.close()


@pytest.mark.parametrize("what", ["verify", "reset"])
def test_a_code_may_come_while_another_is_asked_for(api: CheckedApi, what: str) -> None:
    """Neither waits for the other in a circle: the fourth wish takes the first one away, and a right code gives back its cost."""
    email = api.sign_up("Ravi").email if what == "reset" else address()
    ask, prove = (OF["forgot"], reset) if what == "reset" else (OF["sign_up"], verify)
    for _ in range(2):
        ask.may(api, email)
    code = forgotten(api, email) if what == "reset" else register(api, email, password())
    table = "password_resets" if what == "reset" else "sign_ups"
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute(f"SELECT FROM okane.{table} WHERE email = %s ORDER BY id LIMIT 1 FOR UPDATE".encode(), [email])
        answers = [pool.submit(prove, api, email, code)]
        until_waiting(api, 1, answers)
        answers.append(pool.submit(ask.tried, api, email))
        until_waiting(api, 2, answers)
        holder.rollback()
        assert [answer.result().status_code for answer in answers] == [204 if what == "reset" else 200, 202]


def test_a_password_may_be_changed_while_a_code_sets_it(api: CheckedApi) -> None:
    """The change was first, and takes the code away."""
    ravi = api.sign_up("Ravi")
    code = forgotten(api, ravi.email)
    body = {"current_password": ravi.password, "new_password": password()}
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT FROM okane.people WHERE id = %s FOR UPDATE", [ravi.id])
        answers = [pool.submit(api.call, "PUT", "/v1/auth/password", json=body, token=ravi.token)]
        until_waiting(api, 1, answers)
        answers.append(pool.submit(reset, api, ravi.email, code))
        until_waiting(api, 2, answers)
        holder.rollback()
        assert [answer.result().status_code for answer in answers] == [204, 401]
    assert log_in(api, ravi.email, body["new_password"]).status_code == 200


def test_a_code_may_come_while_a_provider_vouches_for_its_address(api: CheckedApi, database: Database) -> None:
    """The code was first and makes the person; the provider's name for them is linked."""
    email = address()
    codes = [register(api, email, password()) for _ in range(2)]
    handles, random = [f"a{secrets.token_hex(8)}"], secrets.token_bytes(32)
    vouched: list[Any] = [random, "https://provider.example.com", email, email, "Asha", handles, "INR", random, ""]
    with (
        psycopg.connect(api.endpoints.database_url) as holder,
        Ledger(database.app_url) as ledger,
        ThreadPoolExecutor(2) as pool,
    ):
        holder.execute("SELECT FROM okane.sign_ups WHERE email = %s ORDER BY id DESC LIMIT 1 FOR UPDATE", [email])
        first = pool.submit(verify, api, email, codes[0])
        until_waiting(api, 1, [first])
        second = pool.submit(ledger.call, "end_round", *vouched)
        until_waiting(api, 2, [first])
        holder.rollback()
        assert first.result().status_code == 200
        assert second.result()["outcome"] == "linked"
