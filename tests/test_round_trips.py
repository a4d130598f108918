"""What a request costs: one round trip to Postgres when it is needed, one request to Redis on a hit or after a write, two
on a miss (look, fill), and nothing from Postgres on a warm read."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import httpx
import psycopg
import pytest

from tests.support.api import Api, Person
from tests.support.bank import Bank, event, signed
from tests.support.platform import Database, Services, start_platform, stop_platform, wait_for_endpoints
from tests.support.proxies import Between, between

TRIES = 10  # a busy machine may let a request go without the cache; then the next one is counted
AGAIN_SECONDS = 0.5

type Request = Callable[[], httpx.Response]


class Cost(NamedTuple):
    """Round trips to Postgres, requests to Redis."""

    postgres: int
    redis: int


@pytest.fixture(scope="module")
def counters(services: Services, database: Database) -> Iterator[Between]:
    with between(database.url, services.redis_url, secrets.token_urlsafe(24)) as both:
        yield both


@pytest.fixture(scope="module")
def api(services: Services, counters: Between) -> Iterator[Api]:
    """A platform whose database and Redis are behind the counters."""
    options = ["--built"] if os.environ.get("OKANE_BUILT") == "1" else []
    process = start_platform(
        services.state, "--no-people", "--no-schedule", *options, **counters.environment, **services.openid
    )
    try:
        client = Api(wait_for_endpoints(services.state, process))
        yield client
        client.close()
    finally:
        stop_platform(process)


@pytest.fixture(scope="module")
def asha(api: Api) -> Person:
    person = api.sign_up("Asha")
    api.deposit(person, 1_000_000)
    return person


@pytest.fixture(scope="module")
def ravi(api: Api) -> Person:
    return api.sign_up("Ravi")


def costs(counters: Between, request: Request, status: int, expected: Cost, cache: str | None = None) -> None:
    """The request must cost what is expected. While its function leaves Redis alone it is asked again."""
    for _ in range(TRIES):
        before = Cost(counters.postgres.round_trips, counters.redis.requests)
        answer = request()
        after = Cost(counters.postgres.round_trips, counters.redis.requests)
        found = Cost(after.postgres - before.postgres, after.redis - before.redis)
        assert answer.status_code == status, answer.text
        if (found, answer.headers.get("OKANE-Cache")) == (expected, cache):
            return
        alone = found.redis == 0 < expected.redis or answer.headers.get("OKANE-Cache") == "bypass" != cache
        assert alone, f"{found}, {answer.headers.get('OKANE-Cache')}; not {expected}, {cache}"
        time.sleep(AGAIN_SECONDS)
    pytest.fail(f"{found}, not {expected}, {TRIES} times")


def forget(counters: Between, key: str) -> None:
    """Take a key out of Redis, past the counter."""
    token = counters.environment["UPSTASH_REDIS_REST_TOKEN"]
    gone = httpx.post(counters.redis_rest_url, json=["DEL", key], headers={"Authorization": f"Bearer {token}"})
    assert gone.status_code == 200, gone.text


def pay(api: Api, payer: Person, payee: Person, amount: int = 1, key: str = "") -> httpx.Response:
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
    return api.call("POST", "/v1/transfers", json=body, token=payer.token, key=key or f"pay-{secrets.token_hex(12)}")


CACHED = {
    "/v1/me": "profile:{id}",
    "/v1/wallets/INR": "wallet:{id}:INR",
    "/v1/wallets/INR/transactions": "history:{id}:INR",
}


@pytest.mark.parametrize("path", CACHED)
def test_a_warm_read_costs_one_request_to_redis(counters: Between, api: Api, asha: Person, path: str) -> None:
    api.call("GET", path, token=asha.token)
    costs(counters, lambda: api.call("GET", path, token=asha.token), 200, Cost(0, 1), "hit")


@pytest.mark.parametrize("path", CACHED)
def test_a_miss_costs_one_round_trip_and_two_requests(counters: Between, api: Api, asha: Person, path: str) -> None:
    def request() -> httpx.Response:
        forget(counters, CACHED[path].format(id=asha.id))
        return api.call("GET", path, token=asha.token)

    costs(counters, request, 200, Cost(1, 2), "miss")


def test_a_read_that_is_not_cached_costs_one_round_trip(
    counters: Between, api: Api, asha: Person, ravi: Person
) -> None:
    made = pay(api, asha, ravi).json()["id"]
    for path, cache in {
        "/v1/wallets": None,
        "/v1/wallets/INR/transactions?limit=7": "bypass",
        "/v1/wallets/INR/transactions?kind=transfer": "bypass",
        f"/v1/transactions/{made}": None,
        f"/v1/transfers/{made}": None,
        f"/v1/recipients/{ravi.handle}": None,
    }.items():
        costs(counters, partial(api.call, "GET", path, token=asha.token), 200, Cost(1, 0), cache)


def test_a_statement_and_a_past_version_cost_one_round_trip(counters: Between, api: Api, asha: Person) -> None:
    month = f"/v1/wallets/INR/statements/{time.strftime('%Y-%m', time.gmtime())}"
    for accept in ("application/json", "text/csv"):
        ask = partial(api.call, "GET", month, token=asha.token, headers={"Accept": accept})
        costs(counters, ask, 200, Cost(1, 0))
    for version in (0, 1):
        path = f"/v1/wallets/INR?at_version={version}"
        costs(counters, partial(api.call, "GET", path, token=asha.token), 200, Cost(1, 0), "bypass")


def test_a_refused_read_costs_one_round_trip_at_most(counters: Between, api: Api, asha: Person) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    costs(counters, lambda: api.call("GET", f"/v1/transactions/{missing}", token=asha.token), 404, Cost(1, 0))
    costs(counters, lambda: api.call("GET", "/v1/wallets/EUR", token=asha.token), 404, Cost(1, 1))
    costs(counters, lambda: api.call("GET", "/v1/wallets/INR", token="no token"), 401, Cost(0, 0))
    costs(counters, lambda: api.call("GET", "/v1/wallets/INR"), 401, Cost(0, 0))


def test_a_transfer_costs_one_of_each(counters: Between, api: Api, asha: Person, ravi: Person) -> None:
    pay(api, asha, ravi)
    costs(counters, lambda: pay(api, asha, ravi), 201, Cost(1, 1))


def test_a_replayed_transfer_costs_one_of_each(counters: Between, api: Api, asha: Person, ravi: Person) -> None:
    key = f"pay-{secrets.token_hex(12)}"
    pay(api, asha, ravi, key=key)
    costs(counters, lambda: pay(api, asha, ravi, key=key), 201, Cost(1, 1))


def test_a_transfer_that_fails_costs_one_of_each(counters: Between, api: Api, asha: Person, ravi: Person) -> None:
    costs(counters, lambda: pay(api, asha, ravi, amount=10**12), 422, Cost(1, 1))


def test_a_refused_transfer_costs_one_round_trip(counters: Between, api: Api, asha: Person) -> None:
    costs(counters, lambda: pay(api, asha, asha), 422, Cost(1, 0))
    nobody = replace(asha, handle="nobody_of_this_name")
    costs(counters, lambda: pay(api, asha, nobody), 404, Cost(1, 0))
    costs(counters, lambda: pay(api, asha, nobody, amount=-1), 422, Cost(0, 0))


def test_a_deposit_costs_one_of_each(counters: Between, api: Api, asha: Person) -> None:
    def request() -> httpx.Response:
        key = f"deposit-{secrets.token_hex(12)}"
        body = {"amount": 5, "bank": "hdfc"}
        return api.call("POST", "/v1/wallets/INR/deposits", json=body, token=asha.token, key=key)

    costs(counters, request, 201, Cost(1, 1))


def post(api: Api, who: Person, path: str, **body: object) -> httpx.Response:
    """POST under a fresh key."""
    return api.call("POST", path, json=body, token=who.token, key=f"post-{secrets.token_hex(12)}")


def transfers(api: Api, asha: Person, ravi: Person, **terms: str) -> list[str]:
    """The paths of as many transfers from Asha to Ravi as there may be tries."""
    body = {"to": f"@{ravi.handle}", "amount": 10, "currency": "INR"} | terms
    return [f"/v1/transfers/{post(api, asha, '/v1/transfers', **body).json()['id']}" for _ in range(TRIES)]


def test_a_hold_costs_one_of_each(counters: Between, api: Api, asha: Person, ravi: Person) -> None:
    terms = {"to": f"@{ravi.handle}", "amount": 10, "currency": "INR", "capture": "manual"}
    costs(counters, lambda: post(api, asha, "/v1/transfers", **terms), 201, Cost(1, 1))


@pytest.mark.parametrize(("way", "status"), [("capture", 200), ("void", 200), ("refunds", 201)])
def test_what_a_recipient_does_costs_one_of_each(
    counters: Between, api: Api, asha: Person, ravi: Person, way: str, status: int
) -> None:
    done, *others = transfers(api, asha, ravi, capture="automatic" if way == "refunds" else "manual")
    costs(counters, lambda: post(api, ravi, f"{others.pop()}/{way}"), status, Cost(1, 1))
    assert post(api, ravi, f"{done}/{way}").status_code == status
    # One that comes too late may have released a hold, so the cache hears of it.
    too_late = (422, Cost(1, 0)) if way == "refunds" else (409, Cost(1, 1))
    costs(counters, lambda: post(api, ravi, f"{done}/{way}"), *too_late)
    costs(counters, lambda: post(api, asha, f"{done}/{way}"), 403, Cost(1, 0))


def test_a_withdrawal_costs_one_of_each(counters: Between, api: Api, asha: Person) -> None:
    terms = {"amount": 5, "bank": "hdfc", "account": "00123456789"}
    costs(counters, lambda: post(api, asha, "/v1/wallets/INR/withdrawals", **terms), 201, Cost(1, 1))
    bank = Bank(api)
    opened = [post(api, asha, "/v1/wallets/INR/withdrawals", **terms).json()["id"] for _ in range(TRIES)]
    costs(counters, lambda: bank.post(event(opened.pop(), 5, "withdrawal.succeeded")), 200, Cost(1, 1))


@pytest.mark.parametrize("items", [1, 100])
@pytest.mark.parametrize("whole", [True, False])
def test_a_batch_costs_one_of_each(
    counters: Between, api: Api, asha: Person, ravi: Person, items: int, whole: bool
) -> None:
    body = {"currency": "INR", "items": [{"to": f"@{ravi.handle}", "amount": 1}] * items, "all_or_nothing": whole}
    costs(counters, lambda: post(api, asha, "/v1/transfers/batch", **body), 201, Cost(1, 1))


def test_a_batch_that_is_refused_costs_one_of_each(counters: Between, api: Api, asha: Person, ravi: Person) -> None:
    body = {"currency": "INR", "items": [{"to": f"@{ravi.handle}", "amount": 10**12}], "all_or_nothing": True}
    costs(counters, lambda: post(api, asha, "/v1/transfers/batch", **body), 422, Cost(1, 1))


def test_a_receiving_wallet_costs_one_round_trip(counters: Between, api: Api, asha: Person, database: Database) -> None:
    """To be paid, and to be read: it is looked for in Redis, and never put there."""
    shop = api.sign_up("Shop")
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("SET search_path = okane")
        owner.execute("SELECT switch_wallet(%s, 'INR', NULL, NULL, true)", [shop.handle])
    costs(counters, lambda: pay(api, asha, shop), 201, Cost(1, 1))
    for path in ("/v1/wallets/INR", "/v1/wallets/INR/transactions"):
        costs(counters, partial(api.call, "GET", path, token=shop.token), 200, Cost(1, 1), "miss")


def test_a_webhook_costs_one_of_each(counters: Between, api: Api, asha: Person) -> None:
    bank = Bank(api)
    intents = [api.intend(asha, 5) for _ in range(TRIES)]
    costs(counters, lambda: bank.post(event(intents.pop()["id"], 5)), 200, Cost(1, 1))


def test_a_webhook_that_came_before_costs_one_of_each(counters: Between, api: Api, asha: Person) -> None:
    bank = Bank(api)
    told = event(api.intend(asha, 5)["id"], 5)
    assert bank.tell(told, "msg_twice") == "processed"
    content = json.dumps(told).encode()
    costs(counters, lambda: bank.post(content, signed(bank.secret, content, "msg_twice")), 200, Cost(1, 1))
    costs(counters, lambda: bank.post(told), 200, Cost(1, 1))


def test_a_webhook_that_changes_no_balance_costs_one_round_trip(counters: Between, api: Api) -> None:
    bank = Bank(api)
    costs(counters, lambda: bank.post(event("unknown", 5)), 200, Cost(1, 0))
    costs(counters, lambda: bank.post(event("unknown", 5), headers={"webhook-id": "unsigned"}), 401, Cost(0, 0))


def test_a_change_of_the_profile_costs_one_of_each(counters: Between, api: Api) -> None:
    person = api.sign_up("Asha")
    change = {"name": "Asha K"}
    costs(counters, lambda: api.call("PATCH", "/v1/me", json=change, token=person.token), 200, Cost(1, 1))


def test_a_session_costs_two_round_trips_at_its_start_and_one_at_its_end(counters: Between, api: Api) -> None:
    person = api.sign_up("Asha")
    credentials = {"email": person.email, "password": person.password}

    def log_in() -> httpx.Response:
        return api.call("POST", "/v1/auth/login", json=credentials)

    # Two on purpose, one before and one after the password is checked; and the proof that more than one is seen.
    costs(counters, log_in, 200, Cost(2, 1))
    tokens = [log_in().json()["access_token"] for _ in range(TRIES)]
    costs(counters, lambda: api.call("POST", "/v1/auth/logout", token=tokens.pop()), 204, Cost(1, 1))


def test_the_counters_count(counters: Between, database: Database) -> None:
    with psycopg.connect(counters.environment["DATABASE_URL"], autocommit=True) as connection:
        before = counters.postgres.round_trips
        for _ in range(3):
            connection.execute("SELECT 1")
        assert counters.postgres.round_trips - before == 3
        with connection.transaction():
            connection.execute("SELECT 1")
        assert counters.postgres.round_trips - before == 6, "BEGIN and COMMIT are round trips too"
    token = counters.environment["UPSTASH_REDIS_REST_TOKEN"]
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as http:
        requests = counters.redis.requests
        for _ in range(3):
            assert http.post(counters.redis.url, json=["PING"]).json() == {"result": "PONG"}
        assert counters.redis.requests - requests == 3
