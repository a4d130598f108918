"""Through PgBouncer in transaction mode, as RDS Proxy pools too: many clients, two connections, and every answer right."""

import importlib.util
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

import okane_common
from okane_common import ids
from tests.support import debian
from tests.support.books import TRANSFER, Ledger, check_books
from tests.support.plans import BooksTogether, agree, stand
from tests.support.platform import Database

CLIENTS = 8
POOL = 2
ROUNDS = 10


@pytest.fixture(scope="module")
def pooled(database: Database) -> Iterator[Database]:
    """This module's database, with PgBouncer before it for the application."""
    with ExitStack() as stack:
        try:
            programs = stack.enter_context(debian.package("pgbouncer", "/usr/sbin/pgbouncer"))
        except debian.Missing as missing:
            pytest.skip(str(missing))
        yield Database(database.url, stack.enter_context(debian.pgbouncer(programs, database.app_url, POOL)))
    assert check_books(database.url) == []


@pytest.fixture
def environments(pooled: Database, monkeypatch: pytest.MonkeyPatch) -> list[ModuleType]:
    """The layer's database module, loaded once for each of many environments of Lambda."""
    monkeypatch.setenv("DATABASE_URL", pooled.app_url)
    return [load_database(number) for number in range(CLIENTS)]


def load_database(number: int) -> ModuleType:
    path = Path(okane_common.__path__[0]) / "database.py"
    spec = importlib.util.spec_from_file_location(f"database_of_environment_{number}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def backends(database: Database) -> int:
    """The application's connections as Postgres sees them."""
    with psycopg.connect(database.url) as owner:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'okane_app' AND datname = current_database()"
        [(count,)] = owner.execute(asked).fetchall()
    found: int = count
    return found


def test_environments_share_connections_and_a_key_moves_money_once(
    pooled: Database, environments: list[ModuleType]
) -> None:
    with Ledger(pooled.app_url) as ledger:
        ledger.connection.prepare_threshold = None
        payer, payee = ledger.person("asha"), ledger.person("ravi")
        ledger.fund(payer, 100 * ROUNDS)
    together = threading.Barrier(CLIENTS)

    def pay(environment: ModuleType) -> list[tuple[str, int]]:
        answers = []
        for turn in range(ROUNDS):
            name = ids.transfer_id(payer.person, TRANSFER, f"key-{turn:05}")
            together.wait(60)
            asked = (payer.person, payer.session, name, payee.handle, 100, "INR", None, None)
            answer = environment.call("make_transfer", *asked)
            answers.append((answer["outcome"], answer["transaction"]["balance_after"]))
        return answers

    with ThreadPoolExecutor(CLIENTS) as threads:
        rounds = list(zip(*threads.map(pay, environments), strict=True))
    for turn, answers in enumerate(rounds):
        assert Counter(outcome for outcome, _ in answers) == {"made": 1, "replayed": CLIENTS - 1}
        assert {balance for _, balance in answers} == {100 * (ROUNDS - turn - 1)}
    assert len({id(environment._database._connection) for environment in environments}) == CLIENTS
    assert all(environment.call("read_wallet", payer.person, payer.session, "INR") for environment in environments)
    assert 1 <= backends(pooled) <= POOL


def test_timeouts_of_the_application_hold(pooled: Database) -> None:
    """They are the role's, so they need no SET on a connection that is somebody else's a moment later."""
    with psycopg.connect(pooled.app_url, autocommit=True, prepare_threshold=None) as connection:
        found = [
            connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("lock_timeout", "statement_timeout")
        ]
    assert found == [("2s",), ("3s",)]


def test_model_agrees(pooled: Database) -> None:
    with stand(pooled.url, pooled.app_url, CLIENTS, prepare=False) as connected:
        agree(BooksTogether, connected, 15)
    assert backends(pooled) <= POOL
