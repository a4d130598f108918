"""Postgres: one connection per environment, one function call per request, one deadline over everything.

Every call is one statement in autocommit, so one round trip, with nothing prepared or set on the session: it works
behind PgBouncer in transaction mode and RDS Proxy. A call is never sent twice: what cannot be known to have happened is
reported as Unavailable, and the client's key tells later.
"""

import contextlib
import select
import time
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from okane_common import settings

DEADLINE_SECONDS = 4.0  # connecting, waiting and answering together; a request has 10 and makes two calls at most
CONNECT_SECONDS = 2  # of these, at most
STALE_SECONDS = 30.0  # an idle connection older than this is asked before it is trusted
PING_SECONDS = 1.0

_URL = settings.secret("DATABASE_URL")


class Unavailable(Exception):
    """Postgres could not be reached, or did not answer in time. Nothing is known to have happened."""


class DatabaseBug(Exception):
    """A call that the database could not carry out: a bug here, or a database that is not migrated. It carries no data."""


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives up at `deadline` (of the monotonic clock): a server that hangs ignores all of its own timeouts."""

    deadline = 0.0

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        left = max(0.0, self.deadline - time.monotonic())
        return super().wait(gen, interval, left if timeout is None else min(left, timeout))


class _Database:
    """Holds the connection of this environment between requests."""

    def __init__(self) -> None:
        self._connection: _Connection | None = None
        self._used_at = 0.0

    def call(self, function: str, *arguments: Any) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_SECONDS
        statement = sql.SQL("SELECT okane.{}({})").format(
            sql.Identifier(function), sql.SQL(", ").join([sql.Placeholder()] * len(arguments))
        )
        try:
            connection = self._ready(deadline)
            connection.deadline = deadline
            ((result,),) = connection.execute(statement, arguments).fetchall()
        except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
            # The second: a failover has made this server a replica. A new connection finds the new primary.
            self._drop()
            raise Unavailable(type(error).__name__) from error
        except psycopg.Error as error:
            self._drop()  # start from a clean connection
            # Not the error itself: the server's detail shows the row that failed, and with it whatever is in it.
            constraint = error.diag.constraint_name
            raise DatabaseBug(f"{type(error).__name__} {error.sqlstate} {constraint or ''} in {function}") from None
        self._used_at = time.monotonic()
        answer: dict[str, Any] = result
        return answer

    def _ready(self, deadline: float) -> _Connection:
        """The connection, checked before any work is put on it: frozen environments wake up with dead sockets."""
        connection = self._connection
        if connection is not None and not self._alive(connection):
            self._drop()
            connection = None
        if connection is None:
            left = deadline - time.monotonic()
            connection = _Connection.connect(
                _URL.reveal(),
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=max(1, min(CONNECT_SECONDS, int(left))),
                application_name="okane",
            )
            self._connection = connection
        return connection

    def _alive(self, connection: _Connection) -> bool:
        if connection.closed or select.select([connection.fileno()], [], [], 0)[0]:
            return False  # nothing is owed to us, so whatever can be read is the end
        if time.monotonic() - self._used_at < STALE_SECONDS:
            return True
        connection.deadline = time.monotonic() + PING_SECONDS
        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


_database = _Database()


def call(function: str, *arguments: Any) -> dict[str, Any]:
    """Call one function of the schema okane in one round trip and return its JSON object.

    Raises Unavailable when Postgres cannot be reached or has not answered within DEADLINE_SECONDS; a lock that is not
    had in time (`lock_timeout`) counts as that. Raises DatabaseBug, which is left to show itself, for anything else.
    """
    return _database.call(function, *arguments)


def json(value: Any) -> Json:
    """`value` as an argument of type json."""
    return Json(value)
