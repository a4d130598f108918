"""What the database's owner does in tests: an operator's switches, limits, and the passing of time."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.types.json import Json

from tests.support.books import Ledger, Party, check_books
from tests.support.platform import Database


class Owner:
    """A connection of the database's owner, each call one transaction."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, options="-c search_path=okane")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def rows(self, question: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self.connection.execute(question.encode(), arguments).fetchall()

    def switch(
        self,
        handle: str,
        currency: str = "INR",
        /,
        *,
        debit: bool | None = None,
        credit: bool | None = None,
        receiving: bool | None = None,
    ) -> dict[str, Any]:
        """Freeze a wallet for debit or credit, flag it as receiving; None leaves as it is."""
        ((found,),) = self.rows("SELECT switch_wallet(%s, %s, %s, %s, %s)", handle, currency, debit, credit, receiving)
        switched: dict[str, Any] = found
        return switched

    def limit(self, currency: str, **caps: int) -> None:
        """The limits of a currency; what is not named has none."""
        row = {"currency": currency} | caps
        self.rows("SELECT set_limits(json_populate_record(NULL::limits, %s))", Json(row))

    def expire(self, hold: object, milliseconds: int = 0) -> None:
        """The hold's time is over from now on, or in some milliseconds. Its key can no longer be compared."""
        self._untriggered(
            "UPDATE transfers SET expires_at = date_trunc('milliseconds', clock_timestamp()) + make_interval(secs => %s)"
            " WHERE id = %s",
            milliseconds / 1000,
            uuid.UUID(str(hold)),
        )

    def pass_days(self, days: int) -> None:
        """Everything that is in the books happened so many days earlier."""
        for table, column in (
            ("transfers", "created_at"),
            ("transfers", "completed_at"),
            ("transfers", "expires_at"),
            ("wallets", "updated_at"),
            ("wallets", "day"),
            ("arrivals", "arrived_at"),
            ("people", "created_at"),
        ):
            self._untriggered(f"UPDATE {table} SET {column} = {column} - %s * interval '1 day'", days)
        # By way of the far past, since each row is checked against those that have not moved yet.
        self._untriggered("UPDATE wallet_days SET day = day - 100000 - %s", days)
        self._untriggered("UPDATE wallet_days SET day = day + 100000")

    def wait_for_waiting(self, count: int = 1) -> None:
        """Until so many connections to this database wait for a lock."""
        question = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while len(self.rows(question)) < count:
            time.sleep(0.005)

    def _untriggered(self, statement: str, *arguments: Any) -> None:
        with self.connection.transaction():
            self.connection.execute("SET LOCAL session_replication_role = replica")
            self.connection.execute(statement.encode(), arguments)


def away_from_midnight() -> None:
    """For what counts by days of UTC: never begins in the last seconds of one."""
    while (now := datetime.now(UTC)).hour == 23 and now.minute == 59 and now.second > 40:
        time.sleep(1)


def changed(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The wallets that a call says have changed, by their owner's id."""
    return {one["person_id"]: one["wallet"] for one in answer["changed"]}


class Stand(NamedTuple):
    """The books, and their owner."""

    ledger: Ledger
    owner: Owner

    def rich(self, amount: int = 1000, currency: str = "INR") -> Party:
        """Somebody who has so many minor units."""
        party = self.ledger.person("asha", currency)
        self.ledger.fund(party, amount, currency)
        return party

    def hold(self, payer: Party, payee: Party, amount: int = 300, key: str = "key-hold", seconds: int = 3600) -> str:
        """A hold that succeeds; its id."""
        made = self.ledger.hold(payer, key, payee.handle, amount, seconds=seconds)
        assert (made["outcome"], made["transaction"]["status"]) == ("made", "Processing"), made
        return str(made["transaction"]["id"])

    def pay(self, payer: Party, payee: Party, amount: int = 300, key: str = "key-pay") -> str:
        """A payment that succeeds; its id."""
        made = self.ledger.transfer(payer, key, payee.handle, amount)
        assert (made["outcome"], made["transaction"]["status"]) == ("made", "Success"), made
        return str(made["transaction"]["id"])

    def read(self, who: Party, transfer: object) -> dict[str, Any]:
        """read_transaction, of any kind."""
        kinds = ["deposit", "withdrawal", "transfer", "refund"]
        return self.ledger.call("read_transaction", who.person, who.session, str(transfer), kinds)

    def seen(self, who: Party, transfer: object) -> dict[str, Any]:
        """A transfer as one of its sides sees it."""
        transaction: dict[str, Any] = self.read(who, transfer)["transaction"]
        return transaction

    def money(self, *parties: Party, currency: str = "INR") -> list[tuple[int, int]]:
        """What each has, available and locked, in minor units."""
        wallets = [self.ledger.wallet(party, currency) for party in parties]
        return [(wallet["available"], wallet["locked"]) for wallet in wallets]

    def wallets(self, *parties: Party) -> dict[str, dict[str, Any]]:
        """The wallets in INR as their owners see them, by their owners' ids."""
        return {str(party.person): self.ledger.wallet(party) for party in parties}

    def everything(self) -> list[tuple[Any, ...]]:
        """All that a refusal which is not recorded must leave alone."""
        rows = [
            f"SELECT '{table}' AS part, to_jsonb(r)::text AS what FROM {table} r"
            for table in ("wallets", "wallet_days", "transfers", "payees", "arrivals")
        ]
        counts = [f"SELECT '{table}', count(*)::text FROM {table}" for table in ("entry_rows", "batches")]
        return self.owner.rows(" UNION ALL ".join(rows + counts) + " ORDER BY 1, 2")


@contextmanager
def stand_on(database: Database) -> Iterator[Stand]:
    """Both connections. The books must add up afterwards."""
    with Ledger(database.app_url) as ledger, Owner(database.url) as owner:
        yield Stand(ledger, owner)
    found = check_books(database.url)
    assert not found, "\n".join(found)
