"""Brings a database up to date: numbered migrations once and in order, function files every time.

Everything happens in one transaction under an advisory lock, so that two deploys at once apply it once, and a failure
leaves nothing behind. A migration that has been applied may not change: its SHA-256 is recorded and compared.

`./okane migrate` runs it with the owner's URL.
"""

import hashlib
from pathlib import Path

import psycopg
from psycopg import sql

HERE = Path(__file__).parent
LOCK = 7_241_905_331  # any constant; it only has to be the same in every run
APP_ROLE = "okane_app"
# A statement of the application that waits or works longer than this has lost its caller.
APP_TIMEOUTS = {
    "lock_timeout": "2s",
    "statement_timeout": "3s",
    "idle_in_transaction_session_timeout": "5s",
}


class MigrationError(Exception):
    """The database and the migration files disagree; the message says where."""


def migrate(database_url: str) -> list[str]:
    """Apply what is missing. Returns the names of the migrations applied, oldest first; empty when up to date.

    `database_url` is the owner's, of an empty or an earlier OKANE database (PostgreSQL 15 or newer). Makes the role
    okane_app, with no password, where it is missing.

    Raises MigrationError when an applied migration was changed, removed or overtaken; psycopg.Error from the database.
    """
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        _prepare(connection)
        applied = _apply_migrations(connection)
        _apply_functions(connection)
        return applied


def set_app_password(database_url: str, password: str) -> None:
    """Give okane_app its password. It is hashed here, so that neither a log nor pg_stat_activity ever shows it."""
    with psycopg.connect(database_url) as connection:
        hashed = connection.pgconn.encrypt_password(password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(APP_ROLE), sql.Literal(hashed)))


def _prepare(connection: psycopg.Connection) -> None:
    role = sql.Identifier(APP_ROLE)
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [APP_ROLE]).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    # Roles belong to the whole server: writing what is there already would collide with the migration of another database.
    settings = connection.execute("SELECT unnest(rolconfig) FROM pg_roles WHERE rolname = %s", [APP_ROLE]).fetchall()
    for name, value in APP_TIMEOUTS.items():
        if (f"{name}={value}",) not in settings:
            statement = sql.SQL("ALTER ROLE {} SET {} = {}")
            connection.execute(statement.format(role, sql.Identifier(name), sql.Literal(value)))
    connection.execute("CREATE SCHEMA IF NOT EXISTS okane")
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA okane TO {}").format(role))
    connection.execute("SET LOCAL search_path = okane")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )


def _apply_migrations(connection: psycopg.Connection) -> list[str]:
    files = sorted((HERE / "migrations").glob("*.sql"))
    recorded: dict[str, str] = dict(connection.execute("SELECT name, sha256 FROM migrations ORDER BY name").fetchall())
    if missing := recorded.keys() - {file.name for file in files}:
        raise MigrationError(f"the database has migrations that are not here: {', '.join(sorted(missing))}")
    applied = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        if file.name not in recorded:
            if recorded and file.name < max(recorded):
                raise MigrationError(
                    f"{file.name} comes before {max(recorded)}, which is applied: give it a new number"
                )
            connection.execute(text.encode())
            connection.execute("INSERT INTO migrations (name, sha256) VALUES (%s, %s)", [file.name, sha256])
            applied.append(file.name)
        elif recorded[file.name] != sha256:
            raise MigrationError(f"{file.name} was changed after it was applied: restore it and write a new migration")
    return applied


def _apply_functions(connection: psycopg.Connection) -> None:
    """Replace every function but the triggers': what is not in the files any more must not stay callable."""
    old = connection.execute(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'okane'::regnamespace AND prorettype <> 'trigger'::regtype"
    ).fetchall()
    for (signature,) in old:
        connection.execute(f"DROP FUNCTION {signature}".encode())  # the server's own quoting of its own name
    for file in sorted((HERE / "functions").glob("*.sql")):
        connection.execute(file.read_text(encoding="utf-8").encode())
