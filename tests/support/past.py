"""Books with a past: what has just happened is moved to moments of a test's own choice, and long histories are put in at once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

from tests.support.books import Party
from tests.support.owner import Owner

MILLISECOND = timedelta(milliseconds=1)
_TIMES = (
    ("transfers", "created_at"),
    ("transfers", "completed_at"),
    ("arrivals", "arrived_at"),
    ("wallets", "updated_at"),
    ("people", "created_at"),
)
# What counts for the limits belongs to the days on which it was paid.
_COUNTED_ANEW = (
    "DELETE FROM wallet_days",
    "UPDATE wallets SET day = NULL, day_amount = 0, day_count = 0, earlier_amount = 0, earlier_count = 0",
    "INSERT INTO wallet_days SELECT from_wallet, (created_at AT TIME ZONE 'UTC')::date,"
    " sum(CASE status WHEN 'Failure' THEN 0 ELSE coalesce(captured_amount, amount) END),"
    " count(*) FILTER (WHERE status <> 'Failure')"
    " FROM transfers WHERE kind IN ('transfer', 'withdrawal') GROUP BY 1, 2",
)
_LINES = """
    WITH made AS (
        SELECT g, gen_random_uuid() AS id, %(first)s + (g - 1) * %(step)s AS at FROM generate_series(1, %(count)s) g
    ), sides AS (
        SELECT p.id AS payer, p.version AS payer_version, p.available AS payer_has,
               o.id AS payee, o.version AS payee_version, o.available AS payee_has
          FROM wallets p CROSS JOIN wallets o WHERE p.id = %(payer)s AND o.id = %(payee)s
    ), transferred AS (
        INSERT INTO transfers (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind, status,
                               currency, asked, note)
        SELECT id, payer, payee, 1, at, at, payer_version + g, payee_version + g, 'transfer', 'Success', 'INR', 'somebody',
               %(note)s
          FROM made CROSS JOIN sides
    ), paid AS (
        INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after)
        SELECT payer, id, payer_version + g, -1, payer_has - g FROM made CROSS JOIN sides
    ), received AS (
        INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after)
        SELECT payee, id, payee_version + g, 1, payee_has + g FROM made CROSS JOIN sides
    )
    UPDATE wallets SET version = version + %(count)s, updated_at = (SELECT max(at) FROM made),
           available = available + CASE id WHEN %(payer)s THEN -%(count)s ELSE %(count)s END
     WHERE id IN (%(payer)s, %(payee)s)
"""


class Line(NamedTuple):
    """One entry of a wallet, as its row says; minor units."""

    seq: int
    transfer: str
    available_delta: int
    locked_delta: int
    available_after: int
    locked_after: int
    at: datetime


class Past:
    """Moves what is newer than itself."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        [(self._began,)] = owner.rows("SELECT date_trunc('milliseconds', clock_timestamp())")

    def at(self, moment: datetime) -> None:
        """Whatever has happened since the last call happened at this moment, to the millisecond."""
        assert moment < self._began
        for table, column in _TIMES:
            self.rewrite(f"UPDATE {table} SET {column} = %s WHERE {column} >= %s", moment, self._began)

    def lines(
        self, payer: Party, payee: Party, count: int, first: datetime, step: timedelta, note: str | None = None
    ) -> None:
        """So many payments of 1 in INR, one step apart. The payer must have the money."""
        given = {
            "payer": self.wallet(payer),
            "payee": self.wallet(payee),
            "count": count,
            "first": first,
            "step": step,
            "note": note,
        }
        self._owner.connection.execute(_LINES.encode(), given)

    def settle(self) -> None:
        """The limits' counters are those of the past. To be called at the end."""
        for statement in _COUNTED_ANEW:
            self.rewrite(statement)

    def rewrite(self, statement: str, *arguments: Any) -> None:
        """A statement that no trigger refuses."""
        with self._owner.connection.transaction():
            self._owner.connection.execute("SET LOCAL session_replication_role = replica")
            self._owner.connection.execute(statement.encode(), arguments)

    def wallet(self, party: Party, currency: str = "INR") -> int:
        """A wallet's number in the books."""
        question = "SELECT id FROM wallets WHERE person_id = %s AND currency = %s"
        [(number,)] = self._owner.rows(question, party.person, currency)
        return int(number)

    def entries(self, party: Party, currency: str = "INR") -> list[Line]:
        """All entries of a wallet, in order."""
        rows = self._owner.rows(
            "SELECT seq, transfer_id::text, available_delta, locked_delta, available_after, locked_after, created_at"
            " FROM entries WHERE wallet_id = %s ORDER BY seq",
            self.wallet(party, currency),
        )
        return [Line(*row)._replace(at=row[-1].astimezone(UTC)) for row in rows]


def months(first: datetime, last: datetime) -> Iterator[datetime]:
    """The beginnings of the months from one to another, both included."""
    month = start_of(first)
    while month <= last:
        yield month
        month = next_month(month)


def start_of(moment: datetime) -> datetime:
    """The beginning of its month, in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(moment: datetime) -> datetime:
    """The beginning of the month after."""
    return start_of(start_of(moment) + timedelta(days=31))


def month_of_each(lines: list[Line]) -> list[datetime]:
    """The month that each line is in: of its time, unless a line before it was later."""
    return [start_of(at) for at in accumulate((line.at for line in lines), max)]


def text(moment: datetime) -> str:
    """As the API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
