"""The server that the ledger is measured on: a Postgres of its own, a database for each size, and people with money.

People and their opening balances are written by set, as rows that the functions of the ledger could have written one by
one: the audit of the tests (tests/support/books.py) re-adds them with everything else.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from bench.designs import PURSE, new_id
from bench.ledger_clients import Call, Statement
from database.migrate import APP_ROLE, migrate, set_app_password
from local.postgres import Postgres, create_database
from tests.support.books import Ledger, check_books

BASE = 100  # the wallet's id of person 0

type Owner = psycopg.Connection[Any]

# %(last)s: the number of the last person; the first has 0. What is named after a number is found without being asked for.
# The treasury is a person of its own, whom the bank has paid, and who has paid everybody their purse.
_PEOPLE: tuple[LiteralString, ...] = (
    """
    INSERT INTO okane.people (id, email, name, handle)
    SELECT md5('person' || n)::uuid, 'person' || n || '@example.com', 'Asha Kumar', 'person_' || lpad(n::text, 7, '0')
      FROM generate_series(0, %(last)s) n
    """,
    """
    INSERT INTO okane.sessions (id, person_id, device, expires_at)
    SELECT md5('session' || n)::uuid, md5('person' || n)::uuid, 'bench', now() + interval '1 day'
      FROM generate_series(0, %(last)s) n
    """,
    """
    INSERT INTO okane.wallets (id, person_id, currency, available, version, updated_at) OVERRIDING SYSTEM VALUE
    SELECT %(base)s + n, md5('person' || n)::uuid, 'INR', %(purse)s, 1, date_trunc('milliseconds', now())
      FROM generate_series(0, %(last)s) n
    """,
    "SELECT setval(pg_get_serial_sequence('okane.wallets', 'id'), %(base)s + %(last)s)",
    """
    INSERT INTO okane.transfers (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind,
                                 status, currency, asked)
    SELECT md5('opening' || n)::uuid, t.id, w.id, %(purse)s, w.updated_at, w.updated_at, t.version + 1 + n, 1, 'transfer',
           'Success', 'INR', 'person_' || lpad(n::text, 7, '0')
      FROM generate_series(0, %(last)s) n JOIN okane.wallets w ON w.id = %(base)s + n
      JOIN okane.wallets t ON t.person_id = %(treasury)s
    """,
    """
    INSERT INTO okane.entry_rows (wallet_id, transfer_id, seq, available_delta, available_after)
    SELECT line.* FROM generate_series(0, %(last)s) n JOIN okane.wallets t ON t.person_id = %(treasury)s
     CROSS JOIN LATERAL (VALUES
           (%(base)s + n, md5('opening' || n)::uuid, 1, %(purse)s, %(purse)s),
           (t.id, md5('opening' || n)::uuid, t.version + 1 + n, -%(purse)s, t.available - (n + 1) * %(purse)s::bigint)) line
    """,
    """
    UPDATE okane.wallets SET version = version + %(last)s + 1, available = available - (%(last)s + 1) * %(purse)s::bigint,
           day = (now() AT TIME ZONE 'UTC')::date, day_amount = (%(last)s + 1) * %(purse)s::bigint, day_count = %(last)s + 1
     WHERE person_id = %(treasury)s
    """,
)


@lru_cache(20_000)
def names(n: int) -> tuple[bytes, bytes, bytes]:
    """A person's id, session and handle, as arguments."""
    return md5(b"person%d" % n).hexdigest().encode(), md5(b"session%d" % n).hexdigest().encode(), b"person_%07d" % n


class Transfers:
    """The ledger's own design: make_transfer, called as the application calls it."""

    _CALL = b"SELECT okane.make_transfer($1, $2, $3, $4, $5, $6, $7, $8)"
    _BATCH = b"SELECT okane.make_batch($1, $2, $3, $4, $5, $6, $7)"

    def __init__(self, name: str, made: int) -> None:
        self.name = name
        self.made = made  # transfers between people that are in the books

    def call(self, payer: int, payee: int) -> Call:
        """One transfer of one unit."""
        person, session, _ = names(payer)
        values = (person, session, new_id(), names(payee)[2], b"1", b"INR", None, None)
        result = yield Statement(self._CALL, values)
        answer = result.get_value(0, 0) or b""
        # Looked at with as little work as can be: the client takes its time from the same processors.
        if b'"made"' not in answer[:40] or b'"Success"' not in answer:
            raise RuntimeError(f"make_transfer: {answer.decode()}")
        self.made += 1

    def batch(self, payer: int, payees: list[int]) -> Call:
        """One unit to each of some people, in one call."""
        items = [{"id": new_id().decode(), "to": names(n)[2].decode(), "amount": 1, "note": None} for n in payees]
        person, session, _ = names(payer)
        values = (person, session, new_id(), b"\\x" + new_id(), b"f", b"INR", json.dumps(items).encode())
        result = yield Statement(self._BATCH, values)
        answer = json.loads(result.get_value(0, 0) or b"null")
        if answer["outcome"] != "made" or any(item["code"] for item in answer["items"]):
            raise RuntimeError(f"make_batch: {answer}")
        self.made += len(answer["items"])


@dataclass
class Books:
    """One database of the ledger, with `wallets` people who have PURSE minor units of INR each."""

    name: str
    url: str
    app_url: str
    wallets: int
    transfers: Transfers
    purse: int = PURSE

    @contextmanager
    def owner(self) -> Iterator[Owner]:
        """A connection of the owner's."""
        with psycopg.connect(self.url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            yield connection

    def receive(self, n: int) -> None:
        """Flag a person's wallet as receiving, as an operator does."""
        with self.owner() as owner:
            owner.execute("SELECT okane.switch_wallet(%s, 'INR', NULL, NULL, true)", [names(n)[2].decode()])

    def fold(self) -> None:
        """Enter everything that has arrived at receiving wallets, as the schedule does."""
        with self.owner() as owner:
            owner.execute("SELECT okane.fold_arrivals(1000000)")

    def faults(self) -> list[str]:
        """What the audit of the tests finds, and whether every answer is in the books; a line for each difference."""
        self.fold()
        return check_books(self.url) + self.count_faults()

    def count_faults(self) -> list[str]:
        """Whether there are as many transfers in the books as were answered, and as many wallets as were made."""
        with self.owner() as owner:
            query = "SELECT count(*) FROM okane.transfers WHERE kind = 'transfer'"
            ((found,),) = owner.execute(query).fetchall()
        return (
            [] if found == self.transfers.made else [f"{found} transfers in the books, {self.transfers.made} answered"]
        )


def settle(books: Books) -> None:
    """After much was written: what the server would do about it in its own time, now."""
    with books.owner() as owner:
        owner.execute(
            "GRANT USAGE ON SCHEMA bench TO okane_app; GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA bench TO okane_app"
        )
        owner.execute("VACUUM ANALYZE")
        owner.execute("CHECKPOINT")


def size(books: Books) -> int:
    """Bytes that the books take on the disk, with indexes and all."""
    with books.owner() as owner:
        owner.execute("CHECKPOINT")
        ((found,),) = owner.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
            " WHERE relnamespace = 'okane'::regnamespace AND relkind = 'r'"
        ).fetchall()
    return int(found)


@dataclass
class LedgerStand:
    """A running server."""

    postgres: Postgres
    password: str = field(repr=False)

    def new(self, name: str, wallets: int) -> Books:
        """A migrated database with that many people, each with PURSE minor units of INR."""
        url = create_database(self.postgres.url("postgres"), name)
        migrate(url)
        set_app_password(url, self.password)
        app_url = self.postgres.url(name, APP_ROLE, self.password)
        books = Books(name, url, app_url, wallets, Transfers(name, wallets))
        with books.owner() as owner, Ledger(app_url) as ledger:
            owner.execute("CREATE SCHEMA bench")
            treasury = ledger.person("treasury")
            ledger.fund(treasury, wallets * PURSE)
            values = {"last": wallets - 1, "purse": PURSE, "base": BASE, "treasury": treasury.person}
            for statement in _PEOPLE:
                owner.execute(statement, values)
        return books

    @contextmanager
    def slow_flush(self, microseconds: int) -> Iterator[None]:
        """Every flush of the log takes so much longer, as long as the block takes; 0 changes nothing."""
        self._set("commit_delay", microseconds)
        self._set("commit_siblings", 0)  # a flush waits even if nobody else is about to commit
        try:
            yield
        finally:
            self._set("commit_delay", 0)

    def _set(self, name: LiteralString, value: int) -> None:
        with psycopg.connect(self.postgres.url(), autocommit=True) as owner:
            owner.execute(SQL("ALTER SYSTEM SET {} = {}").format(Identifier(name), Literal(value)))
            owner.execute("SELECT pg_reload_conf()")

    def deadlocks(self) -> int:
        """How many there have been. Connections report them at the latest when they end."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as owner:
            ((found,),) = owner.execute("SELECT sum(deadlocks) FROM pg_stat_database").fetchall()
        return int(found)


@contextmanager
def serving(folder: Path) -> Iterator[LedgerStand]:
    """A server as long as the block takes, as durable as everywhere."""
    postgres = Postgres.start(folder, password=secrets.token_urlsafe(24))
    try:
        yield LedgerStand(postgres, secrets.token_urlsafe(24))
    finally:
        postgres.stop()
