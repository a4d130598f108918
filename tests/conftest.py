"""Real services for the tests: one Postgres and one Valkey for the run, a fresh copy of the database per module.

DATABASE_URL and REDIS_URL, where set, name the servers to use instead: that is how the suite runs on PostgreSQL 15.
A database is made and dropped there, the role okane_app gets a password, and that Redis is emptied.
"""

import os
import secrets
from collections.abc import Iterator

import pytest

from database.migrate import migrate, set_app_password
from local.platform import app_url
from local.postgres import Postgres, create_database, drop_database
from local.state import read_secrets
from local.valkey import Valkey
from tests.support.api import Api
from tests.support.platform import (
    Database,
    Platform,
    Services,
    empty_redis,
    start_platform,
    stop_platform,
    wait_for_endpoints,
)


def pytest_xdist_auto_num_workers() -> int:
    """How many processes the tests are spread over: one per core, four at most, and one on servers that are shared."""
    shared = os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL")
    return 1 if shared else min(4, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Postgres with a migrated template database, and Valkey."""
    state = tmp_path_factory.mktemp("okane")
    kept = read_secrets(state)
    postgres = valkey = None
    template = f"okane_template_{secrets.token_hex(4)}"
    server_url = os.environ.get("DATABASE_URL", "")
    redis_url = os.environ.get("REDIS_URL", "")
    try:
        if not server_url:
            postgres = Postgres.start(state / "postgres", password=kept.postgres_password)
            server_url = postgres.url()
        if not redis_url:
            valkey = Valkey.start(state / "valkey", password=secrets.token_urlsafe(24))
            redis_url = valkey.url
        migrate(create_database(server_url, template))
        set_app_password(server_url, kept.app_password)
        yield Services(state, kept, server_url, template, redis_url)
        drop_database(server_url, template)
    finally:
        if valkey:
            valkey.stop()
        if postgres:
            postgres.stop()


@pytest.fixture(scope="module")
def database(services: Services) -> Iterator[Database]:
    """A copy of the template database, dropped afterwards with whoever is still connected."""
    name = f"okane_test_{secrets.token_hex(6)}"
    url = create_database(services.server_url, name, services.template)
    # Roles belong to the whole server, and a module before this one may have run an `up` with other secrets on it.
    set_app_password(services.server_url, services.secrets.app_password)
    yield Database(url, app_url(url, services.secrets.app_password))
    drop_database(services.server_url, name)


@pytest.fixture(scope="module")
def platform(services: Services, database: Database) -> Iterator[Platform]:
    """`up` on free ports with this module's database and an emptied Redis; OKANE_BUILT=1 runs the built artefacts."""
    empty_redis(services.redis_url)
    process = start_platform(
        services.state,
        *("--no-people", "--no-schedule", *(["--built"] if os.environ.get("OKANE_BUILT") == "1" else [])),
        DATABASE_URL=database.url,
        REDIS_URL=services.redis_url,
    )
    try:
        yield Platform(wait_for_endpoints(services.state, process), process.pid, services.state)
    finally:
        stop_platform(process)


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[Api]:
    """A client of the platform."""
    client = Api(platform.endpoints)
    yield client
    client.close()
