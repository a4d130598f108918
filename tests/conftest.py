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
from local.provider import CLIENT_ID, CLIENT_SECRET, Provider
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

LONGEST = ("test_model", "test_guessing", "test_bench", "test_google_provider", "test_platform", "test_operate", "test_pgbouncer",
           "test_rotation", "test_races", "test_faults", "test_sessions", "test_invariants", "test_launcher")  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """How many processes the tests are spread over: one more than cores, since all of them wait at times, four at most, and one
    on servers that are shared.
    """
    shared = os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL")
    return 1 if shared else min(4, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules that take longest begin first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Postgres with a migrated template database, Valkey, and an OpenID provider."""
    state = tmp_path_factory.mktemp("okane")
    kept = read_secrets(state)
    postgres = valkey = None
    provider = Provider(0, state)
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
        provider.wait_until_ready()
        openid = {"OPENID_ISSUER": provider.url, "OPENID_CLIENT_ID": CLIENT_ID, "OPENID_CLIENT_SECRET": CLIENT_SECRET}
        yield Services(state, kept, server_url, template, redis_url, openid)
        drop_database(server_url, template)
    finally:
        provider.stop()
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
        **services.openid,
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
