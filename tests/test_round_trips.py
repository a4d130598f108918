"""What a request costs: one round trip to Postgres when it is needed, one request to Redis on a hit or after a write, two
on a miss (look, fill), and nothing from Postgres on a warm read."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.support.api import Api, Person
from tests.support.bank import Bank, event
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
    process = start_platform(services.state, "--no-people", "--no-schedule", *options, **counters.environment)
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


def cost(counters: Between, request: Request, status: int, **headers: str) -> Cost:
    """What the request costs; it must be answered with this status and these headers (`okane_cache="hit"`)."""
    before = Cost(counters.postgres.round_trips, counters.redis.requests)
    answer = request()
    after = Cost(counters.postgres.round_trips, counters.redis.requests)
    assert answer.status_code == status, answer.text
    for name, value in headers.items():
        assert answer.headers.get(name.replace("_", "-")) == value, answer.headers
    return Cost(after.postgres - before.postgres, after.redis - before.redis)


def costs(counters: Between, request: Request, status: int, expected: Cost, **headers: str) -> None:
    """The request must cost what is expected; never more, and less only while its function leaves Redis alone."""
    for _ in range(TRIES):
        found = cost(counters, request, status, **headers)
        if found == expected:
            return
        assert (found.postgres, found.redis) == (expected.postgres, 0), f"{found}, not {expected}"
        time.sleep(AGAIN_SECONDS)
    pytest.fail(f"{found}, not {expected}, {TRIES} times")
