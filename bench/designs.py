"""The designs that the ledger is measured against, each with tables of its own in the schema `bench`, and its books.

    bare       one row, as wide as a transfer's, inserted by a commit of its own
    minimum    one insert and two updates by key, in one statement
    eight      the usual transaction: eight statements, eight round trips

All of them move one unit from a wallet to another, driven by the same loop (ledger_clients.py) as the ledger itself.
"""

import random
from typing import Any, LiteralString, Protocol

import psycopg

from bench.ledger_clients import Call, Statement

PURSE = 1_000_000_000  # minor units that every wallet starts with; a call moves one


class Design(Protocol):
    """A way to move money: `made` counts the calls that were answered as they should be."""

    name: str
    made: int

    def call(self, payer: int, payee: int) -> Call:
        """Move one unit between two wallets, by number from 0."""


def new_id() -> bytes:
    """A random id for a transfer."""
    return b"%032x" % random.getrandbits(128)


def number(value: int) -> bytes:
    """An integer as an argument."""
    return b"%d" % value


def failing(owner: psycopg.Connection[Any], checks: dict[str, tuple[LiteralString, tuple[Any, ...]]]) -> list[str]:
    """The names of the checks whose query finds a row."""
    return [name for name, (query, values) in checks.items() if owner.execute(query, values).fetchone() is not None]


class Bare:
    """The least that a durable commit costs."""

    name = "bare"
    _INSERT = (
        b"INSERT INTO bench.bare (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind, status,"
        b" currency, asked) VALUES ($1, $2, $3, 1, now(), now(), 1, 1, 'transfer', 'Success', 'INR', 'person_0000000')"
    )

    def __init__(self, owner: psycopg.Connection[Any]) -> None:
        self.made = 0
        owner.execute("CREATE TABLE bench.bare (LIKE okane.transfers)")

    def call(self, payer: int, payee: int) -> Call:
        """Move one unit between two wallets, by number from 0."""
        yield Statement(self._INSERT, (new_id(), number(payer), number(payee)))
        self.made += 1

    def faults(self, owner: psycopg.Connection[Any]) -> list[str]:
        """What is wrong with its books, in words."""
        return failing(
            owner,
            {"bare: rows and answers differ": ("SELECT 1 FROM bench.bare HAVING count(*) <> %s", (self.made,))},
        )


class Minimum:
    """What moving money cannot do without: two balances and a record, with no funds, keys or entries looked at."""

    name = "minimum"
    # Lower id first, so that two wallets that pay each other wait and never deadlock.
    _MOVE = (
        b"WITH one AS (UPDATE bench.minimum_wallets SET available = available + $4 WHERE id = $2),"
        b" other AS (UPDATE bench.minimum_wallets SET available = available - $4 WHERE id = $3)"
        b" INSERT INTO bench.minimum_transfers VALUES ($1, $2, $3, $4, now())"
    )

    def __init__(self, owner: psycopg.Connection[Any], wallets: int) -> None:
        self.made = 0
        self._total = wallets * PURSE
        owner.execute(
            "CREATE TABLE bench.minimum_wallets (id bigint PRIMARY KEY, available bigint NOT NULL) WITH (fillfactor = 70);"
            "CREATE TABLE bench.minimum_transfers (id uuid PRIMARY KEY, lower_wallet bigint NOT NULL,"
            " higher_wallet bigint NOT NULL, to_lower bigint NOT NULL, created_at timestamptz NOT NULL)"
        )
        owner.execute(
            "INSERT INTO bench.minimum_wallets SELECT n, %s FROM generate_series(0, %s - 1) n", (PURSE, wallets)
        )

    def call(self, payer: int, payee: int) -> Call:
        """Move one unit between two wallets, by number from 0."""
        lower, higher = min(payer, payee), max(payer, payee)
        amount = 1 if payee == lower else -1
        yield Statement(self._MOVE, (new_id(), number(lower), number(higher), number(amount)))
        self.made += 1

    def faults(self, owner: psycopg.Connection[Any]) -> list[str]:
        """What is wrong with its books, in words."""
        return failing(
            owner,
            {
                "minimum: rows and answers differ": (
                    "SELECT 1 FROM bench.minimum_transfers HAVING count(*) <> %s",
                    (self.made,),
                ),
                "minimum: the wallets do not add up": (
                    "SELECT 1 FROM bench.minimum_wallets HAVING sum(available) <> %s",
                    (self._total,),
                ),
                "minimum: a wallet is not what was moved": (
                    "SELECT 1 FROM bench.minimum_wallets w LEFT JOIN (SELECT wallet, sum(amount) AS amount FROM"
                    " (SELECT lower_wallet AS wallet, to_lower AS amount FROM bench.minimum_transfers"
                    "  UNION ALL SELECT higher_wallet, -to_lower FROM bench.minimum_transfers) moves GROUP BY wallet) m"
                    " ON m.wallet = w.id WHERE w.available <> %s + coalesce(m.amount, 0)",
                    (PURSE,),
                ),
            },
        )


class Eight:
    """The usual transaction: look up the key, lock both, update both, insert three rows; the client decides in between."""

    name = "eight"
    _KEY = b"SELECT status FROM bench.eight_transfers WHERE id = $1"
    _LOCK = b"SELECT id, available FROM bench.eight_wallets WHERE id IN ($1, $2) ORDER BY id FOR UPDATE"
    _UPDATE = b"UPDATE bench.eight_wallets SET available = available + $2, updated_at = now() WHERE id = $1"
    _TRANSFER = (
        b"INSERT INTO bench.eight_transfers (id, from_wallet, to_wallet, amount, created_at, status, currency)"
        b" VALUES ($1, $2, $3, 1, now(), 'Success', 'INR')"
    )
    _ENTRIES = (
        b"INSERT INTO bench.eight_entries (wallet_id, transfer_id, delta, available_after, created_at)"
        b" VALUES ($1, $3, -1, $4, now()), ($2, $3, 1, $5, now())"
    )

    def __init__(self, owner: psycopg.Connection[Any], wallets: int) -> None:
        self.made = 0
        owner.execute(
            "CREATE TABLE bench.eight_wallets (id bigint PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0),"
            " updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 70);"
            "CREATE TABLE bench.eight_transfers (id uuid PRIMARY KEY, from_wallet bigint NOT NULL, to_wallet bigint NOT NULL,"
            " amount bigint NOT NULL, created_at timestamptz NOT NULL, status text NOT NULL, currency text NOT NULL);"
            "CREATE TABLE bench.eight_entries (wallet_id bigint NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY,"
            " transfer_id uuid NOT NULL, delta bigint NOT NULL, available_after bigint NOT NULL,"
            " created_at timestamptz NOT NULL, PRIMARY KEY (wallet_id, id))"
        )
        owner.execute(
            "INSERT INTO bench.eight_wallets SELECT n, %s FROM generate_series(0, %s - 1) n", (PURSE, wallets)
        )

    def call(self, payer: int, payee: int) -> Call:
        """Move one unit between two wallets, by number from 0."""
        name, one, other = new_id(), number(payer), number(payee)
        yield Statement(b"BEGIN")
        known = yield Statement(self._KEY, (name,))
        if known.ntuples:
            raise RuntimeError("a random id has come twice")
        locked = yield Statement(self._LOCK, (one, other))
        balances = {locked.get_value(row, 0): int(locked.get_value(row, 1) or 0) for row in range(locked.ntuples)}
        if balances[one] < 1:
            raise RuntimeError("a wallet of the benchmark has run out")
        yield Statement(self._UPDATE, (one, b"-1"))
        yield Statement(self._UPDATE, (other, b"1"))
        yield Statement(self._TRANSFER, (name, one, other))
        yield Statement(self._ENTRIES, (one, other, name, number(balances[one] - 1), number(balances[other] + 1)))
        yield Statement(b"COMMIT")
        self.made += 1

    def faults(self, owner: psycopg.Connection[Any]) -> list[str]:
        """What is wrong with its books, in words."""
        return failing(
            owner,
            {
                "eight: rows and answers differ": (
                    "SELECT 1 FROM bench.eight_transfers HAVING count(*) <> %s",
                    (self.made,),
                ),
                "eight: a transfer's entries do not cancel": (
                    "SELECT 1 FROM bench.eight_transfers t LEFT JOIN bench.eight_entries e ON e.transfer_id = t.id"
                    " AND e.wallet_id IN (t.from_wallet, t.to_wallet)"
                    " GROUP BY t.id HAVING count(e.id) <> 2 OR sum(e.delta) <> 0 OR max(e.delta) <> max(t.amount)",
                    (),
                ),
                "eight: a wallet is not the sum of its entries": (
                    "SELECT 1 FROM bench.eight_wallets w LEFT JOIN (SELECT wallet_id, sum(delta) AS delta"
                    " FROM bench.eight_entries GROUP BY wallet_id) e ON e.wallet_id = w.id"
                    " WHERE w.available <> %s + coalesce(e.delta, 0)",
                    (PURSE,),
                ),
                "eight: an entry does not follow from the one before": (
                    "SELECT 1 FROM (SELECT available_after - delta AS before, lag(available_after, 1, %s::bigint)"
                    " OVER (PARTITION BY wallet_id ORDER BY id) AS expected FROM bench.eight_entries) e"
                    " WHERE before <> expected",
                    (PURSE,),
                ),
            },
        )
