"""Clients of the database that cost it as little as can be: one process, one connection each, one loop over all of them.

A call is a generator that yields statements and is sent their results, so a function call and a transaction of eight
statements are driven by the same code. Statements travel as the layer sends them: one at a time, unprepared, with their
arguments beside them, in autocommit.
"""

import selectors
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

STUCK_SECONDS = 60.0


class Statement(NamedTuple):
    """SQL with $1, $2, … and their values as text; None is null."""

    sql: bytes
    values: Sequence[bytes | None] = ()


type Call = Generator[Statement, PGresult]
type Calls = Callable[[], Call]


@dataclass
class Turn:
    """What a few clients did in some time: the seconds that each call took, and all of them from first to last."""

    taken: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.taken) / self.seconds

    def __iadd__(self, other: "Turn") -> Self:
        self.taken += other.taken
        self.seconds += other.seconds
        return self


class Connection:
    """One connection, and the call that is under way on it."""

    def __init__(self, url: str) -> None:
        self._psycopg = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self.pg: PGconn = self._psycopg.pgconn
        self._call: Call | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._psycopg.close()

    def round_trip_ms(self) -> float:
        """What the shortest statement takes: the median of a few."""
        taken = []
        for _ in range(30):
            started = time.perf_counter()
            checked(self.pg.exec_(b"SELECT 1"))
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) * 1000

    def run(self, call: Call) -> None:
        """One call from begin to end, alone."""
        answered = None
        with suppress(StopIteration):
            while True:
                statement = next(call) if answered is None else call.send(answered)
                answered = checked(self.pg.exec_params(statement.sql, statement.values))

    def begin(self, call: Call) -> None:
        """Send the first statement of a call."""
        self._call, self._began = call, time.perf_counter()
        self._send(next(call))

    def advance(self) -> float | None:
        """Take what has arrived. The seconds that the call took, once it is over; else None."""
        self.pg.consume_input()
        if self.pg.is_busy():
            return None
        result = self.pg.get_result()
        while self.pg.get_result() is not None:
            pass
        if self._call is None or result is None:
            raise RuntimeError("an answer to nothing")
        try:
            self._send(self._call.send(checked(result)))
        except StopIteration:
            return time.perf_counter() - self._began
        return None

    def _send(self, statement: Statement) -> None:
        if statement.values:
            self.pg.send_query_params(statement.sql, statement.values)
        else:
            self.pg.send_query(statement.sql)
        self.pg.flush()


def checked(result: PGresult) -> PGresult:
    """The result; RuntimeError with the server's words if it is an error."""
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise RuntimeError(result.get_error_message())
    return result


def drive(connections: Sequence[Connection], calls: Sequence[Calls], seconds: float) -> Turn:
    """Every connection makes its calls, one after the other, for some seconds, and ends the last one.

    RuntimeError if a statement fails, or none is answered for STUCK_SECONDS.
    """
    turn = Turn()
    with selectors.DefaultSelector() as selector:
        for pair in zip(connections, calls, strict=True):
            selector.register(pair[0].pg.socket, selectors.EVENT_READ, pair)
        started = time.perf_counter()
        for connection, make in zip(connections, calls, strict=True):
            connection.begin(make())
        running = len(connections)
        while running:
            ready = selector.select(STUCK_SECONDS)
            if not ready:
                raise RuntimeError(f"no answer for {STUCK_SECONDS} seconds")
            for key, _ in ready:
                connection, make = key.data
                taken = connection.advance()
                if taken is None:
                    continue
                turn.taken.append(taken)
                if time.perf_counter() - started < seconds:
                    connection.begin(make())
                else:
                    running -= 1
        turn.seconds = time.perf_counter() - started
    return turn
