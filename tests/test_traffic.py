"""Ordinary limits: what one person may ask in a minute, over Redis, without it, and with one that lies."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.valkey import Valkey
from tests.support.api import Person
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Database, Services, start_platform, stop_platform, wait_for_endpoints

CAP = 40
MOST = 3 * CAP  # requests until one is refused, even if the minute ends meanwhile


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey.start(tmp_path_factory.mktemp("valkey"), password=secrets.token_urlsafe(12))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def api(services: Services, database: Database, valkey: Valkey) -> Iterator[CheckedApi]:
    """A client of a platform on which a minute has room for few."""
    state: Path = services.state
    process = start_platform(
        state,
        *("--no-people", "--no-schedule"),
        DATABASE_URL=database.url,
        REDIS_URL=valkey.url,
        REQUESTS_PER_MINUTE=str(CAP),
        **services.openid,
    )
    try:
        client = CheckedApi(wait_for_endpoints(state, process))
        yield client
        client.close()
    finally:
        stop_platform(process)


@pytest.fixture
def asha(api: CheckedApi) -> Person:
    return api.sign_up("Asha")


def until_refused(
    api: CheckedApi, person: Person, method: str, path: str, body: object = None
) -> tuple[httpx.Response, int]:
    """Ask until it is too often; the refusal, and how many were answered before."""
    for answered in range(MOST):
        key = f"traffic-{secrets.token_hex(8)}" if method == "POST" else None
        answer = api.call(method, path, token=person.token, json=body, key=key)
        if answer.status_code == 429:
            return answer, answered
    pytest.fail(f"{MOST} requests were answered")


@pytest.mark.parametrize("path", ["/v1/me", "/v1/wallets/INR", "/v1/wallets/INR/transactions", "/v1/wallets"])
def test_reads_are_limited(api: CheckedApi, asha: Person, path: str) -> None:
    refusal, answered = until_refused(api, asha, "GET", path)
    refused(refusal, 429, "rate_limited")
    assert 1 <= int(refusal.headers["retry-after"]) <= 60
    assert CAP - 1 <= answered <= 2 * CAP  # GET /v1/me of the sign-up counts; a minute may have ended meanwhile


def test_payments_are_limited(api: CheckedApi, asha: Person) -> None:
    body = {"to": "@nobody_here", "amount": 1, "currency": "INR"}
    refusal, _ = until_refused(api, asha, "POST", "/v1/transfers", body)
    refused(refusal, 429, "rate_limited")


def test_others_do_not_notice(api: CheckedApi, asha: Person) -> None:
    until_refused(api, asha, "GET", "/v1/me")
    other = api.sign_up("Ravi")
    assert api.call("GET", "/v1/me", token=other.token).status_code == 200


def test_a_counter_that_somebody_has_set_refuses_no_payment(api: CheckedApi, asha: Person) -> None:
    rest = {"Authorization": f"Bearer {api.endpoints.redis_rest_token}"}

    def redis(*command: object) -> object:
        answer = httpx.post(api.endpoints.redis_rest_url, json=list(command), headers=rest, trust_env=False)
        return answer.raise_for_status().json()["result"]

    api.call("GET", "/v1/wallets/INR", token=asha.token)
    found = redis("KEYS", f"reads:{asha.id}:*")
    assert isinstance(found, list)
    assert found
    for value in (10**9, "a text", 2**62):
        for key in found:
            redis("SET", key, value)
        body = {"currency": "USD"}
        assert api.call("POST", "/v1/wallets", json=body, token=asha.token).status_code in (200, 201)
    for key in found:
        redis("SET", key, "a text")
    assert api.call("GET", "/v1/wallets/INR", token=asha.token).status_code == 200
    for key in found:
        redis("DEL", key)
        redis("LPUSH", key, "of another type")
    assert api.call("GET", "/v1/wallets/INR", token=asha.token).status_code == 200


def test_counters_end(api: CheckedApi, asha: Person) -> None:
    rest = {"Authorization": f"Bearer {api.endpoints.redis_rest_token}"}
    api.call("GET", "/v1/me", token=asha.token)
    command = ["EVAL", "return redis.call('PTTL', redis.call('KEYS', ARGV[1])[1])", 0, f"reads:{asha.id}:*"]
    answer = httpx.post(api.endpoints.redis_rest_url, json=command, headers=rest, trust_env=False)
    assert 0 < answer.json()["result"] <= 60_000


def test_without_redis_they_hold(api: CheckedApi, asha: Person, valkey: Valkey) -> None:
    """The last test: it stops the server."""
    valkey.process.terminate()
    valkey.process.wait(10)
    refusal, answered = until_refused(api, asha, "GET", "/v1/wallets/INR")
    refused(refusal, 429, "rate_limited")
    assert answered >= CAP - 1
