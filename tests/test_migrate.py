"""Migrations: once, in order, all or nothing; functions as their files say; the application's role as it must be."""

import hashlib
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from database import migrate as module
from database.migrate import APP_ROLE, MigrationError, migrate, set_app_password
from local.platform import app_url
from local.postgres import create_database, drop_database
from tests.support.books import Ledger, check_books
from tests.support.platform import Services

FILES = ["0001_people.sql", "0002_ledger.sql", "0003_bank_events.sql", "0004_complete_ledger.sql", "0005_sign_in.sql"]

OLD_BOOKS = Path(__file__).with_name("support") / "old_books.sql"


@pytest.fixture
def empty(services: Services) -> Iterator[str]:
    """The owner's URL of an empty database."""
    name = f"okane_test_{secrets.token_hex(6)}"
    yield create_database(services.server_url, name)
    drop_database(services.server_url, name)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migration and function files that migrate() reads instead."""
    for folder in ("migrations", "functions"):
        shutil.copytree(module.HERE / folder, tmp_path / folder)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return tmp_path


@contextmanager
def of_before(files: Path) -> Iterator[None]:
    """The files as they were before the books were complete: three migrations, and no functions, which are for today's tables."""
    later, functions_now = FILES[3:], files / "functions"
    texts = {name: (files / "migrations" / name).read_text() for name in later}
    for name in later:
        (files / "migrations" / name).unlink()
    functions_now.rename(files / "functions_now")
    functions_now.mkdir()
    yield
    for name, text in texts.items():
        (files / "migrations" / name).write_text(text)
    functions_now.rmdir()
    (files / "functions_now").rename(functions_now)


def ask(url: str, question: str, *arguments: Any) -> Any:
    """The first column of the first row, or None."""
    with psycopg.connect(url) as connection:
        row = connection.execute(question.encode(), arguments).fetchone()
    return row[0] if row else None


def recorded(url: str) -> list[str]:
    """The migrations that the database says it has."""
    names: list[str] = ask(url, "SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM okane.migrations")
    return names


def functions(url: str) -> set[str]:
    """The functions of the schema, with their arguments and results."""
    described = "proname || '(' || pg_get_function_identity_arguments(oid) || ') ' || pg_get_function_result(oid)"
    where = "pronamespace = to_regnamespace('okane')"
    return set(ask(url, f"SELECT coalesce(array_agg({described}), '{{}}') FROM pg_proc WHERE {where}"))


def test_empty_database_gets_everything(empty: str) -> None:
    assert migrate(empty) == FILES
    for name in FILES:
        sha256 = hashlib.sha256((module.HERE / "migrations" / name).read_bytes()).hexdigest()
        assert ask(empty, "SELECT sha256 FROM okane.migrations WHERE name = %s", name) == sha256
    with Ledger(empty) as ledger:
        asha, ravi = ledger.person("asha"), ledger.person("ravi")
        ledger.fund(asha, 5)
        assert ledger.transfer(asha, "key-12345", ravi.handle, 5)["outcome"] == "made"


def test_second_time_changes_nothing(empty: str) -> None:
    migrate(empty)
    described = "SELECT json_agg(c ORDER BY attrelid, attnum)::text FROM pg_attribute c WHERE attrelid >= 16384"
    before = functions(empty), ask(empty, described), ask(empty, "SELECT max(applied_at) FROM okane.migrations")
    assert migrate(empty) == []
    assert before == (
        functions(empty),
        ask(empty, described),
        ask(empty, "SELECT max(applied_at) FROM okane.migrations"),
    )


def test_two_at_once_apply_it_once(empty: str) -> None:
    together = threading.Barrier(4)

    def one(_: int) -> list[str]:
        together.wait(30)
        return migrate(empty)

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(one, range(4))) == [[], [], [], FILES]
    assert recorded(empty) == FILES


def test_databases_of_one_server_do_not_disturb_each_other(services: Services) -> None:
    """They share the role, whose settings every migration looks after."""
    names = [f"okane_test_{secrets.token_hex(6)}" for _ in range(4)]
    together = threading.Barrier(len(names))

    def one(url: str) -> list[str]:
        together.wait(30)
        return migrate(url)

    try:
        urls = [create_database(services.server_url, name) for name in names]
        for _ in range(2):
            with ThreadPoolExecutor(len(names)) as threads:
                list(threads.map(one, urls))
        assert [recorded(url) for url in urls] == [FILES] * len(names)
    finally:
        for name in names:
            drop_database(services.server_url, name)


def test_changed_old_file_is_refused(empty: str, files: Path) -> None:
    migrate(empty)
    before = functions(empty)
    path = files / "migrations" / FILES[1]
    path.write_text(path.read_text() + "\n-- a remark\n")
    (files / "functions" / "99_new.sql").write_text("CREATE FUNCTION new() RETURNS void LANGUAGE sql AS ''")
    with pytest.raises(MigrationError, match=r"0002_ledger\.sql was changed after it was applied.*new migration"):
        migrate(empty)
    assert functions(empty) == before


def test_missing_file_is_refused(empty: str, files: Path) -> None:
    migrate(empty)
    (files / "migrations" / FILES[2]).unlink()
    with pytest.raises(MigrationError, match=r"migrations that are not here: 0003_bank_events\.sql"):
        migrate(empty)


def test_overtaken_number_is_refused(empty: str, files: Path) -> None:
    migrate(empty)
    (files / "migrations" / "0002_zebra.sql").write_text("CREATE TABLE zebra ()")
    with pytest.raises(MigrationError, match=r"0002_zebra\.sql comes before 0005_sign_in\.sql.*new number"):
        migrate(empty)
    assert ask(empty, "SELECT to_regclass('okane.zebra')") is None


def test_books_from_before_are_carried_over(services: Services, empty: str, files: Path) -> None:
    with of_before(files):
        assert migrate(empty) == FILES[:3]
    with psycopg.connect(empty) as owner:
        owner.execute(OLD_BOOKS.read_bytes())
    assert migrate(empty) == FILES[3:]
    assert check_books(empty) == []
    with psycopg.connect(empty) as owner:
        owner.execute("SET search_path = okane")
        lines = owner.execute(
            "SELECT seq, available_delta, available_after, opening, entries.created_at::text FROM entries"
            " JOIN wallets ON id = wallet_id JOIN people ON people.id = person_id WHERE handle = 'asha' ORDER BY seq"
        ).fetchall()
        paid_out = owner.execute(
            "SELECT day::text, day_amount, day_count, earlier_amount, earlier_count FROM wallets WHERE day IS NOT NULL"
        ).fetchall()
        days = owner.execute("SELECT day::text, amount, count FROM wallet_days").fetchall()
        [number] = owner.execute(
            "INSERT INTO wallets (party, stripe, currency) VALUES ('fees', 0, 'INR') RETURNING id"
        ).fetchone() or [0]
        owner.rollback()
    assert [(*line[:4], line[4][:16]) for line in lines] == [
        (1, 0, 0, True, "2026-11-20 10:00"),
        (2, 1000, 1000, False, "2026-11-20 10:01"),
        (3, -300, 700, True, "2026-11-20 10:02"),
        (4, -50, 650, True, "2026-11-21 10:01"),
        (5, 0, 650, True, "2026-11-21 10:02"),
        (6, 0, 650, True, "2026-11-21 10:03"),
    ]
    assert (paid_out, days) == ([("2026-11-21", 50, 1, 300, 1)], [("2026-11-20", 300, 1)])
    assert number == 4
    # And they go on: what was open ends.
    with Ledger(app_url(empty, services.secrets.app_password)) as ledger:
        set_app_password(services.server_url, services.secrets.app_password)
        assert ledger.event("00000000-0000-8000-8000-000000000005", 70)["status"] == "processed"
    assert check_books(empty) == []


def test_what_is_written_while_books_are_carried_over_is_kept(empty: str, files: Path) -> None:
    with of_before(files):
        migrate(empty)
    with psycopg.connect(empty) as writer, ThreadPoolExecutor(1) as threads:
        writer.execute(OLD_BOOKS.read_bytes())  # under way, as a payment would be
        migrating = threads.submit(migrate, empty)
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with psycopg.connect(empty, autocommit=True) as watcher:
            while not watcher.execute(waiting).fetchall():
                assert not migrating.done()
                time.sleep(0.01)
        writer.commit()
        assert migrating.result(60) == FILES[3:]
    assert check_books(empty) == []
    assert ask(empty, "SELECT count(*) FROM okane.transfers") == 5


def test_next_number_is_applied_alone(empty: str, files: Path) -> None:
    migrate(empty)
    (files / "migrations" / "0006_zebra.sql").write_text("CREATE TABLE zebra ()")
    assert migrate(empty) == ["0006_zebra.sql"]
    assert recorded(empty) == [*FILES, "0006_zebra.sql"]
    assert ask(empty, "SELECT to_regclass('okane.zebra')") is not None


def test_failing_migration_leaves_nothing(empty: str, files: Path) -> None:
    broken = files / "migrations" / "0006_broken.sql"
    broken.write_text("CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty)
    assert ask(empty, "SELECT to_regnamespace('okane')") is None
    broken.unlink()
    migrate(empty)
    before = functions(empty)
    (files / "migrations" / "0006_fine.sql").write_text("CREATE TABLE fine ()")
    (files / "migrations" / "0007_broken.sql").write_text("CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty)
    assert recorded(empty) == FILES
    assert ask(empty, "SELECT to_regclass('okane.fine')") is None
    assert functions(empty) == before


def test_failing_function_file_leaves_the_old_functions(empty: str, files: Path) -> None:
    migrate(empty)
    before = functions(empty)
    (files / "functions" / "99_broken.sql").write_text(
        "CREATE FUNCTION broken() RETURNS void LANGUAGE sql AS 'SELECT nothing'"
    )
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(empty)
    assert functions(empty) == before


def test_functions_are_replaced_and_orphans_dropped(empty: str, files: Path) -> None:
    """Also when what they give back has changed, which CREATE OR REPLACE alone refuses."""
    new = files / "functions" / "99_new.sql"
    new.write_text(
        "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "CREATE OR REPLACE FUNCTION orphan() RETURNS integer LANGUAGE sql AS 'SELECT 1';"
        "GRANT EXECUTE ON FUNCTION orphan() TO okane_app"
    )
    migrate(empty)
    assert ask(empty, "SELECT okane.answer()") == 1
    new.write_text("CREATE OR REPLACE FUNCTION answer() RETURNS text LANGUAGE sql AS $$ SELECT 'two' $$")
    migrate(empty)
    assert ask(empty, "SELECT okane.answer()") == "two"
    assert "orphan() integer" not in functions(empty)
    assert "refuse_change() trigger" in functions(empty)  # the triggers' own stays: the tables hang on it


def test_role_and_its_timeouts(empty: str) -> None:
    migrate(empty)
    with psycopg.connect(empty, autocommit=True) as owner:
        owner.execute(f"ALTER ROLE {APP_ROLE} SET lock_timeout = '9s'".encode())
        migrate(empty)
        settings = {f"{name}={value}" for name, value in module.APP_TIMEOUTS.items()}
        assert set(ask(empty, "SELECT rolconfig FROM pg_roles WHERE rolname = %s", APP_ROLE)) == settings
        may = "rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
        assert ask(empty, f"SELECT ARRAY[{may}] FROM pg_roles WHERE rolname = %s", APP_ROLE) == [True] + [False] * 5
        member = "SELECT count(*) FROM pg_auth_members WHERE member = %s::regrole OR roleid = %s::regrole"
        assert ask(empty, member, APP_ROLE, APP_ROLE) == 0


def test_timeouts_reach_the_application(services: Services, empty: str) -> None:
    migrate(empty)
    app = app_url(empty, services.secrets.app_password)
    assert {name: ask(app, f"SHOW {name}") for name in module.APP_TIMEOUTS} == module.APP_TIMEOUTS
    assert module.APP_TIMEOUTS.keys() >= {"lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"}


def test_password_is_sent_and_kept_as_a_hash(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Listening(psycopg.Connection[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            said.append(query.as_string(self) if hasattr(query, "as_string") else str(query))
            return super().execute(query, *arguments, **options)

    monkeypatch.setattr(psycopg, "connect", Listening.connect)
    password = "with 'quotes', \\ and a ü"
    try:
        set_app_password(services.server_url, password)
        monkeypatch.undo()
        assert said
        assert not [statement for statement in said if "quotes" in statement]
        kept = ask(services.server_url, "SELECT rolpassword FROM pg_authid WHERE rolname = %s", APP_ROLE)
        assert kept.startswith("SCRAM-SHA-256$")
        parts = psycopg.conninfo.conninfo_to_dict(services.server_url) | {"user": APP_ROLE, "password": password}
        psycopg.connect(**parts).close()  # type: ignore[arg-type]  # a plain dict of strings
    finally:
        set_app_password(services.server_url, services.secrets.app_password)
