"""What the database itself refuses: the application everything but its functions, and everybody what must never be."""

import ast
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from database.migrate import APP_ROLE
from tests.support.books import Ledger, Party
from tests.support.platform import ROOT, Database

LAYER = ROOT / "layers" / "okane_common" / "okane_common"

SOMEBODY = "00000000-0000-4000-8000-000000000001"


def again(table: str, where: str = "true", /, **changes: object) -> str:
    """Insert a row once more, with changes."""
    new = json.dumps(changes)
    return f"INSERT INTO {table} SELECT (jsonb_populate_record(old, '{new}')).* FROM {table} old WHERE {where} LIMIT 1"


def transfer(**changes: object) -> str:
    """Insert a transfer once more, in Success, under another id, with changes."""
    finished = {"id": SOMEBODY, "status": "Success", "completed_at": "2030-01-01", "failure_code": None}
    return again("transfers", **finished | changes)


def wallet(columns: str, values: str) -> str:
    return f"INSERT INTO wallets (currency, {columns}) VALUES ('EUR', {values})"


# Statements of the owner that must fail, by the constraint that refuses them.
REFUSED = {
    "people_handle_shape": [
        f"UPDATE people SET handle = '{handle}'" for handle in ("Asha", "as", "1asha", "a" * 31, "a-b", "as\na")
    ],
    "people_email_lower": ["UPDATE people SET email = 'A@example.com'", "UPDATE people SET email = repeat('a', 255)"],
    "people_email_once": [again("people", id=SOMEBODY, handle="other")],
    "people_handle_once": [again("people", id=SOMEBODY, email="other@example.com")],
    "sign_ups_tries": [
        "INSERT INTO sign_ups (email, name, handles, password_hash, code_hash, expires_at, tries)"
        f" VALUES ('a@example.com', 'a', '{{}}', '', '', now(), {tries})"
        for tries in (-1, 6)
    ],
    "password_resets_tries": [
        f"INSERT INTO password_resets (email, code_hash, source, expires_at, tries) VALUES ('a', '', '', now(), {tries})"
        for tries in (-1, 6)
    ],
    "identities_person": [again("identities", subject="other", person_id=SOMEBODY)],
    "identities_one_of_an_issuer": [again("identities", subject="other")],
    "identities_subject": [
        again("identities", issuer="other", subject=""),
        again("identities", issuer="b", subject="x" * 256),
    ],
    "provider_rounds_person": [again("provider_rounds", state_hash="a", code_hash="b", person_id=SOMEBODY)],
    "provider_rounds_code_once": [again("provider_rounds", state_hash="a")],
    "provider_rounds_whole": [
        "UPDATE provider_rounds SET code_hash = NULL",
        "UPDATE provider_rounds SET person_id = NULL",
    ],
    "sessions_person": [again("sessions", id=SOMEBODY, person_id=SOMEBODY)],
    "refresh_tokens_session": [again("refresh_tokens", token_hash="", session_id=SOMEBODY)],
    "refresh_tokens_used": [
        "UPDATE refresh_tokens SET used_at = now()",
        "UPDATE refresh_tokens SET successor_hash = 'x'",
        "UPDATE refresh_tokens SET used_at = now(), successor_hash = 'x'",
    ],
    "wallets_one_per_person": [
        "INSERT INTO wallets (person_id, currency) SELECT person_id, currency FROM wallets WHERE person_id IS NOT NULL"
    ],
    "wallets_one_per_stripe": [
        "INSERT INTO wallets (party, stripe, currency) SELECT party, stripe, currency FROM wallets WHERE party IS NOT NULL"
    ],
    "wallets_one_owner": [
        "INSERT INTO wallets (currency) VALUES ('EUR')",
        "INSERT INTO wallets (currency, party) VALUES ('EUR', 'bank:hdfc')",
        f"INSERT INTO wallets (currency, person_id, stripe) VALUES ('EUR', '{SOMEBODY}', 0)",
        f"INSERT INTO wallets (currency, person_id, party, stripe) VALUES ('EUR', '{SOMEBODY}', 'bank:hdfc', 0)",
    ],
    "currency_shape": [
        f"INSERT INTO wallets (currency, person_id) VALUES ('{currency}', '{SOMEBODY}')"
        for currency in ("inr", "IN", "INRR", "")
    ],
    "wallets_in_bounds": [
        f"UPDATE wallets SET {balance} WHERE person_id IS NOT NULL"
        for balance in (
            "available = -1",
            "locked = -1",
            f"available = {2**53}",
            f"available = {2**53 - 1}, locked = 1",
        )
    ],
    "amount_in_bounds": [transfer(amount=amount) for amount in (0, -1, 2**53)],
    "transfers_two_sides": [transfer(from_wallet=1, to_wallet=1)],
    "transfers_end": [transfer(status="Processing"), transfer(completed_at=None)],
    "transfers_failure": [transfer(status="Failure"), transfer(failure_code="declined")],
    "transfers_captured": [
        transfer(kind="transfer", amount=5, captured_amount=6),
        transfer(kind="transfer", amount=5, captured_amount=5, status="Failure", failure_code="voided"),
        transfer(kind="deposit", amount=5, captured_amount=5),
    ],
    "transfers_refund": [transfer(kind="refund"), transfer(kind="transfer", refund_of=SOMEBODY)],
    "transfers_account": [transfer(kind="withdrawal"), transfer(kind="transfer", account="1")],
    "transfers_resolved_by_once": [again("transfers", "resolved_by IS NOT NULL", id=SOMEBODY)],
    "transfers_pkey": [again("transfers")],
    "entries_pkey": [again("entry_rows")],
    "arrivals_amount": [
        f"INSERT INTO arrivals (wallet_id, transfer_id, amount, arrived_at) VALUES (1, '{SOMEBODY}', {amount}, now())"
        for amount in (-1, -(2**53))
    ],
    "wallet_days_paid_out": [
        f"INSERT INTO wallet_days VALUES (1, '2026-11-23', {used})" for used in ("-1, 1", "1, -1")
    ],
    "limits_caps": ["INSERT INTO limits (currency, day_count) VALUES ('INR', -1)"],
    "limits_new_account": [
        "INSERT INTO limits (currency, new_account) VALUES ('INR', 5)",
        "INSERT INTO limits (currency, new_account_days) VALUES ('INR', 5)",
    ],
    "audits_scope": [
        "INSERT INTO audits (scope, started_at, finished_at, checked, differences) VALUES ('half', now(), now(), '{}', '[]')"
    ],
    "bank_events_pkey": [again("bank_events")],
    "bank_events_status": ["UPDATE bank_events SET status = 'fine'"],
    "bank_events_one_credit": [again("bank_events", "type = 'deposit.succeeded'", webhook_id="other")],
    "bank_events_one_payout": [again("bank_events", "type = 'withdrawal.succeeded'", webhook_id="other")],
}

# What the triggers refuse, also to the owner.
CHANGES = [
    "UPDATE entry_rows SET available_delta = 1",
    "UPDATE entry_rows SET tag = 'closing'",
    "DELETE FROM entry_rows",
    "TRUNCATE entry_rows",
    "UPDATE arrivals SET amount = amount + 1",
    "TRUNCATE arrivals",
    "UPDATE batches SET outcomes = '[]'",
    "DELETE FROM batches",
    "UPDATE audits SET differences = '[]'",
    "DELETE FROM audits",
    "DELETE FROM transfers",
    "DELETE FROM transfers WHERE status = 'Processing'",
    "TRUNCATE transfers",
    "UPDATE transfers SET note = 'other' WHERE status = 'Success'",
    "UPDATE transfers SET status = 'Processing', completed_at = NULL WHERE status = 'Success'",
    "UPDATE transfers SET status = 'Success', failure_code = NULL WHERE status = 'Failure'",
    *(
        f"UPDATE transfers SET {change} WHERE status = 'Processing'"
        for change in (
            "id = gen_random_uuid()",
            "from_wallet = -1",
            "to_wallet = -1",
            "refund_of = id",
            "account = 'other'",
            "expires_at = expires_at + interval '1 day'",
            "amount = amount + 1",
            "currency = 'USD'",
            "kind = 'transfer'",
            "asked = 'axis'",
            "amount = amount + 1, status = 'Success', completed_at = now()",
        )
    ),
    "DELETE FROM bank_events",
    "TRUNCATE bank_events",
    "TRUNCATE wallets, transfers, entry_rows, bank_events CASCADE",
]


@pytest.fixture(scope="module")
def asha(database: Database) -> Party:
    """Somebody with money, a payment behind them, a refused one, and a deposit under way."""
    with Ledger(database.app_url) as ledger:
        asha, ravi = ledger.person("asha"), ledger.person("ravi")
        ledger.fund(asha, 1000)
        ledger.transfer(asha, "key-paid", ravi.handle, 300)
        ledger.transfer(asha, "key-poor", ravi.handle, 9000)
        ledger.intend(asha, "key-open", 70)
        paid_out = ledger.withdraw(asha, "key-out", 50)["transaction"]["id"]
        ledger.event(paid_out, 50, type="withdrawal.succeeded")
        held = ledger.hold(asha, "key-hold", ravi.handle, 5)["transaction"]["id"]
        ledger.capture(ravi, "key-capture", held)
        ledger.batch(asha, "key-batch", [(ravi.handle, 1)])
    with psycopg.connect(database.url) as owner:
        owner.execute("SET search_path = okane")
        owner.execute(
            "INSERT INTO arrivals (wallet_id, transfer_id, amount, arrived_at) SELECT 1, id, 1, now() FROM transfers LIMIT 1"
        )
        owner.execute(
            "INSERT INTO audits (scope, started_at, finished_at, checked, differences) VALUES ('full', now(), now(), '{}', '[]')"
        )
    return asha


@pytest.fixture
def owner(database: Database, asha: Party) -> "Iterator[psycopg.Connection[Any]]":
    """The owner's connection; whatever it does is rolled back."""
    with psycopg.connect(database.url) as connection:
        connection.execute("SET LOCAL search_path = okane")
        # Nobody has come by a provider yet.
        connection.execute("INSERT INTO identities SELECT 'issuer', 'subject', id FROM people LIMIT 1")
        connection.execute(
            "INSERT INTO provider_rounds (state_hash, code_hash, person_id) SELECT 's', 'c', id FROM people LIMIT 1"
        )
        yield connection
        connection.rollback()


@pytest.fixture
def app(database: Database, asha: Party) -> Iterator[Ledger]:
    """The application's connection."""
    with Ledger(database.app_url) as ledger:
        yield ledger


def names(connection: "psycopg.Connection[Any]", question: str) -> set[str]:
    """The first column of the answer."""
    return {name for (name,) in connection.execute(question.encode()).fetchall()}


def granted(connection: "psycopg.Connection[Any]") -> set[str]:
    """The functions that the application may call."""
    question = "SELECT proname FROM pg_proc WHERE pronamespace = 'okane'::regnamespace"
    return names(connection, f"{question} AND has_function_privilege('{APP_ROLE}', oid, 'EXECUTE')")


def called() -> set[str]:
    """The functions that the layer calls: what it gives to database.call(), and ledger.py to its own _call()."""
    found = set()
    for path in LAYER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(ast.Name("database"), "call"), [ast.Constant(str(name)), *_]):
                    found.add(name)
                case ast.Call(ast.Name("_call"), [ast.Constant(str(name)), *_]) if path.stem == "ledger":
                    found.add(name)
    return found


def test_application_may_call_what_the_layer_calls_and_nothing_else(owner: "psycopg.Connection[Any]") -> None:
    assert granted(owner) == called()
    assert len(called()) > 15


def test_application_has_no_privilege_on_any_table(owner: "psycopg.Connection[Any]") -> None:
    tables = "FROM pg_class WHERE relnamespace = 'okane'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')"
    privileges = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    assert names(owner, f"SELECT relname {tables}") >= {"people", "wallets", "transfers", "entries", "bank_events"}
    assert not names(owner, f"SELECT relname {tables} AND has_table_privilege('{APP_ROLE}', oid, '{privileges}')")
    columns = f"has_any_column_privilege('{APP_ROLE}', oid, 'SELECT, INSERT, UPDATE, REFERENCES')"
    assert not names(owner, f"SELECT relname {tables} AND {columns}")
    sequences = "FROM pg_sequences WHERE schemaname = 'okane'"
    assert names(owner, f"SELECT sequencename {sequences}")
    allowed = f"has_sequence_privilege('{APP_ROLE}', 'okane.' || sequencename, 'SELECT, USAGE, UPDATE')"
    assert not names(owner, f"SELECT sequencename {sequences} AND {allowed}")


def test_application_makes_nothing_outside_its_temporary_schema(owner: "psycopg.Connection[Any]") -> None:
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'"
    assert not names(owner, f"{schemas} AND has_schema_privilege('{APP_ROLE}', oid, 'CREATE')")
    assert not names(owner, f"SELECT proname FROM pg_proc WHERE proowner = '{APP_ROLE}'::regrole")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT password_hash FROM okane.people",
        "SELECT * FROM okane.sign_ups",
        "SELECT * FROM okane.refresh_tokens",
        "SELECT * FROM okane.wallets",
        "SELECT * FROM okane.migrations",
        "UPDATE okane.wallets SET available = 1000000",
        "INSERT INTO okane.bank_events DEFAULT VALUES",
        "DELETE FROM okane.sessions",
        "TRUNCATE okane.entry_rows",
        "SELECT * FROM okane.entries",
        "SELECT * FROM okane.arrivals",
        "UPDATE okane.limits SET payment = NULL",
        "SELECT nextval('okane.sign_ups_id_seq')",
        "COPY okane.people TO STDOUT",
        "CREATE TABLE okane.mine ()",
        "CREATE FUNCTION okane.session_live(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "ALTER TABLE okane.entries DISABLE TRIGGER ALL",
        "DO 'BEGIN LOCK TABLE okane.wallets; END'",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_application_is_refused(app: Ledger, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app.connection.execute(statement.encode())


def test_application_cannot_call_inner_functions(owner: "psycopg.Connection[Any]", app: Ledger) -> None:
    inner = owner.execute(
        "SELECT proname, proargtypes::regtype[]::text[], provariadic <> 0 FROM pg_proc"
        " WHERE pronamespace = 'okane'::regnamespace AND NOT has_function_privilege(%s, oid, 'EXECUTE')",
        [APP_ROLE],
    ).fetchall()
    assert len(inner) > 10
    app.connection.execute("SET search_path = okane")  # where the names of its types are to be found
    for name, kinds, variadic in inner:
        given = ", ".join(f"{'VARIADIC ' if variadic else ''}NULL::{kind}" for kind in kinds)
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
            app.connection.execute(f"SELECT {name}({given})".encode())


def test_granted_functions_work_as_the_owner_with_a_fixed_path(owner: "psycopg.Connection[Any]") -> None:
    safe = "prosecdef AND proconfig @> ARRAY['search_path=okane, pg_temp']"
    question = f"SELECT proname FROM pg_proc WHERE pronamespace = 'okane'::regnamespace AND {safe}"
    assert names(owner, question) == granted(owner)


def test_no_function_is_anybody_s(owner: "psycopg.Connection[Any]") -> None:
    """EXECUTE for PUBLIC is what PostgreSQL gives a new function unless it is told not to."""
    question = "SELECT proname FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0"
    assert not names(owner, f"{question} AND pronamespace = 'okane'::regnamespace")


@pytest.mark.parametrize("path", ["pg_temp, okane, pg_catalog", "okane, pg_temp", "public"])
def test_things_of_the_same_name_in_the_temporary_schema_are_not_used(app: Ledger, asha: Party, path: str) -> None:
    """What a stolen connection could try: be believed without a session, or own a fuller wallet."""
    stranger = uuid.uuid4()
    for statement in (
        f"SET search_path = {path}",
        "CREATE TEMP TABLE sessions (id uuid, person_id uuid, ended_at timestamptz, expires_at timestamptz)",
        f"INSERT INTO pg_temp.sessions VALUES ('{stranger}', '{asha.person}', NULL, 'infinity')",
        "CREATE TEMP TABLE wallets (id uuid, person_id uuid, party text, stripe smallint, currency text, available bigint,"
        " locked bigint, version bigint, updated_at timestamptz)",
        f"INSERT INTO pg_temp.wallets VALUES ('{stranger}', '{asha.person}', NULL, NULL, 'INR', 1000000, 0, 1, now())",
        "CREATE FUNCTION pg_temp.session_live(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '-infinity'::timestamptz $$",
        "CREATE FUNCTION pg_temp.moment(timestamptz) RETURNS text LANGUAGE sql AS $$ SELECT 'never' $$",
        "CREATE FUNCTION pg_temp.json_build_object(VARIADIC text[]) RETURNS json LANGUAGE sql AS $$ SELECT '{}'::json $$",
    ):
        app.connection.execute(statement.encode())
    assert app.call("read_wallet", asha.person, stranger, "INR") == {"outcome": "session_ended"}
    assert app.transfer(asha._replace(session=stranger), "key-theft", "nobody", 5) == {"outcome": "session_ended"}
    read = app.wallet(asha)
    assert read["available"] == 644
    assert read["as_of"].startswith("20")


@pytest.mark.parametrize("change", CHANGES)
def test_books_are_append_only(owner: "psycopg.Connection[Any]", change: str) -> None:
    with pytest.raises(errors.RestrictViolation, match="the books are append-only"):
        owner.execute(change.encode())


def test_open_transfer_may_end(owner: "psycopg.Connection[Any]") -> None:
    ended = owner.execute("UPDATE transfers SET status = 'Success', completed_at = now() WHERE status = 'Processing'")
    assert ended.rowcount == 1


def test_every_constraint_is_named_and_tried(owner: "psycopg.Connection[Any]") -> None:
    """A new CHECK needs a name that tells what it is for, and a statement that it refuses."""
    made = "FROM pg_constraint WHERE connamespace = 'okane'::regnamespace"
    checks = names(owner, f"SELECT conname {made} AND contype = 'c'")
    assert not {name for name in checks if re.search(r"_check\d*$", name)}
    uniques = names(owner, f"SELECT conname {made} AND contype IN ('u', 'f')")
    partial = "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indrelid"
    uniques |= names(
        owner, f"{partial} WHERE relnamespace = 'okane'::regnamespace AND indisunique AND indpred IS NOT NULL"
    )
    books = {f"{table}_pkey" for table in ("transfers", "entries", "bank_events")}
    bodies = names(
        owner, "SELECT prosrc FROM pg_proc WHERE proname LIKE 'check\\_%' AND prorettype = 'trigger'::regtype"
    )
    rules = {rule for body in bodies for rule in re.findall(r"'((?:transfers|wallets)_\w+)'", body)}
    assert len(rules) > 5
    assert checks | uniques | books | rules == REFUSED.keys()


@pytest.mark.parametrize(("name", "statement"), [(name, one) for name, several in REFUSED.items() for one in several])
def test_constraint_refuses(owner: "psycopg.Connection[Any]", name: str, statement: str) -> None:
    with pytest.raises(psycopg.IntegrityError) as refused:
        owner.execute(statement.encode())
    assert refused.value.diag.constraint_name == name


def test_system_wallet_may_be_negative(owner: "psycopg.Connection[Any]") -> None:
    assert owner.execute("UPDATE wallets SET available = -5 WHERE party IS NOT NULL").rowcount > 0
