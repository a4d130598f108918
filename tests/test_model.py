"""Random operations of every kind, on Postgres and beside it in a plain Python model that must agree on everything.

One after another, every answer is predicted to the last field. From several threads at once, there must be an order of
the calls, agreeing with time, in which the model gives every answer that was given.
"""

import inspect
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import Phase
from hypothesis.errors import Flaky
from hypothesis.stateful import RULE_MARKER

from database.migrate import migrate, set_app_password
from local.platform import app_url
from local.postgres import create_database, drop_database
from tests.support import debian
from tests.support.plans import Books, BooksTogether, agree, stand
from tests.support.platform import Database, Services


def test_one_after_another(database: Database) -> None:
    with stand(database.url, database.app_url) as connected:
        agree(Books, connected, 40)


def test_side_by_side(database: Database) -> None:
    with stand(database.url, database.app_url) as connected:
        agree(BooksTogether, connected, 40)


# The oldest server that is promised


@pytest.fixture(scope="module")
def postgres_15(services: Services) -> Iterator[Database]:
    """A migrated database on a PostgreSQL 15 of Debian's."""
    with psycopg.connect(services.server_url) as connection:
        if connection.info.server_version // 10_000 == 15:
            pytest.skip("the server of this run is PostgreSQL 15")
    with ExitStack() as stack:
        try:
            programs = stack.enter_context(debian.package("postgresql-15", "/usr/lib/postgresql/15/bin/postgres"))
        except debian.Missing as missing:
            pytest.skip(str(missing))
        server_url = stack.enter_context(debian.postgres(programs))
        url = create_database(server_url, "okane_test")
        assert migrate(url)
        set_app_password(url, password := secrets.token_urlsafe(24))
        yield Database(url, app_url(url, password))


@pytest.mark.parametrize("machine", [Books, BooksTogether])
def test_on_postgres_15(postgres_15: Database, machine: type[Books]) -> None:
    with psycopg.connect(postgres_15.url) as connection:
        assert connection.info.server_version // 10_000 == 15
    with stand(postgres_15.url, postgres_15.app_url) as connected:
        agree(machine, connected, 15)


# What a broken function looks like


@pytest.fixture
def scratch(services: Services) -> Iterator[Database]:
    """A copy of the template database, to be spoilt."""
    name = f"okane_test_{secrets.token_hex(6)}"
    url = create_database(services.server_url, name, services.template)
    yield Database(url, app_url(url, services.secrets.app_password))
    drop_database(services.server_url, name)


class Fault(NamedTuple):
    machine: type[Books]
    rules: tuple[str, ...]  # of the machine, to come to the point
    statement: str


FAULTS = {
    "what is released loses a unit": Fault(
        Books,
        ("pay", "hold", "capture", "void"),
        """
        CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.available := NEW.available - 1; RETURN NEW; END';
        CREATE TRIGGER lose BEFORE UPDATE ON wallets FOR EACH ROW
            WHEN (NEW.locked < OLD.locked AND NEW.available > OLD.available) EXECUTE FUNCTION lose();
        """,
    ),
    "refunds are forgotten": Fault(
        Books,
        ("pay", "refund"),
        "CREATE OR REPLACE FUNCTION refunded(p_transfer uuid) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
    ),
    "a bank's event and what it is about do not wait for each other": Fault(
        BooksTogether,
        ("tell_early", "catch_up", "pay"),
        "CREATE OR REPLACE FUNCTION lock_name(p_class integer, p_name text) RETURNS void LANGUAGE sql AS ''",
    ),
}


def is_rule(member: object) -> bool:
    return hasattr(member, RULE_MARKER)


@pytest.mark.parametrize("fault", FAULTS)
def test_model_notices(scratch: Database, fault: str) -> None:
    """The choices are the same in every run. What one connection fails with is made small; races take too long for that."""
    machine, rules, statement = FAULTS[fault]
    others = {name: lambda *given, _rule=rule, **named: _rule(*given, **named)
              for name, rule in inspect.getmembers(machine, is_rule) if name not in rules}  # fmt: skip
    used: Any = type("Few", (machine,), others)
    phases = [Phase.generate, Phase.shrink] if machine is Books else [Phase.generate]
    with stand(scratch.url, scratch.app_url, sound=False) as connected, pytest.raises((AssertionError, Flaky)):
        connected.owner.execute(statement.encode())
        agree(used, connected, 1000, 15, derandomize=True, phases=phases)
    assert machine is BooksTogether or len(used.taken) <= 3
