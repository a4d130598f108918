"""The ledger on a server of its own: make_transfer against the least that a commit costs, and against the usual way.

Everything that is compared takes turns within each round, so that whatever else the machine does meets all of it alike. A
ratio is taken within its round; the result is the median over the rounds. What has wrong books has no figures.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import random
from typing import Any

from bench import ledger_large
from bench.delay import delayed
from bench.designs import Bare, Design, Eight, Minimum
from bench.ledger_clients import Call, Connection, checked, drive
from bench.ledger_rounds import Aim, Group, Lane, Pace, loads_of, row_of
from bench.ledger_stand import LedgerStand, serving, settle, size

WALLETS = 10_000
HOT, RECEIVING, PAYER = 0, 1, 2  # wallets that the uniform load leaves alone
FIRST = 3
ITEMS = 16  # of a batch
CLIENTS = 4
MOST_CLIENTS = 16
NEAR_MS, FAR_MS = 1.0, 5.0  # that a slow network adds to a round trip
FLUSH_US = 1000  # that a slow disk adds to a flush
FAR_LEAST_SECONDS = 2.0  # what waits for each other across a network needs some time to say anything
SIZED = 30_000  # transfers at least that bytes are counted over: indexes grow by leaps

type Row = dict[str, Any]


def people(first: int, end: int) -> int:
    """One of a range of people; random.randrange takes three times as long."""
    return first + int(random() * (end - first))


def uniform(end: int = WALLETS) -> tuple[int, int]:
    """Two different people, anybody."""
    payer, payee = people(FIRST, end), people(FIRST, end)
    return (payer, payee) if payer != payee else uniform(end)


def to(payee: int) -> tuple[int, int]:
    """Anybody, to one person."""
    return people(FIRST, WALLETS), payee


def by(payer: int) -> tuple[int, int]:
    """One person, to anybody."""
    return payer, people(FIRST, WALLETS)


def moving(design: Design, connections: list[Connection], pair: Callable[[], tuple[int, int]] = uniform) -> Lane:
    """A lane that moves money between those whom `pair` names."""
    return Lane(design.name, connections, lambda: design.call(*pair()))


class Run:
    """One run on one server: the ledger, the other designs beside it, and the groups that have been measured."""

    def __init__(self, stand: LedgerStand, ends: ExitStack, pace: Pace) -> None:
        self.stand = stand
        self.pace = pace
        self.ends = ends
        self.books = stand.new("ledger", WALLETS)
        with self.books.owner() as owner:
            self.bare, self.minimum, self.eight = Bare(owner), Minimum(owner, WALLETS), Eight(owner, WALLETS)
        settle(self.books)
        self.direct = self.connections(MOST_CLIENTS, self.books.app_url)
        self.groups: dict[str, Group] = {}
        self.added_ms: dict[str, float] = {}

    def connections(self, count: int, url: str) -> list[Connection]:
        """Connections that last as long as the run."""
        return [self.ends.enter_context(Connection(url)) for _ in range(count)]

    def through(self, milliseconds: float, count: int) -> list[Connection]:
        """Connections by way of a network that takes its time; what it really takes is measured and kept."""
        port = self.ends.enter_context(delayed(self.stand.postgres.port, milliseconds))
        made = self.connections(count, self.books.app_url.replace(f":{self.stand.postgres.port}/", f":{port}/"))
        self.added_ms[f"{milliseconds:g}"] = round(made[0].round_trip_ms() - self.direct[0].round_trip_ms(), 3)
        return made

    def measure(self, name: str, lanes: dict[str, Lane], slices: int = 4, pace: Pace | None = None) -> Group:
        """All rounds of a group; the group."""
        self.groups[name] = group = Group(name, lanes, slices)
        group.measure(pace or self.pace)
        return group

    def faults(self) -> dict[str, list[str]]:
        """What is wrong with the books, by design; nothing of those that are right."""
        found = {self.books.name: self.books.faults()}
        with self.books.owner() as owner:
            found["bare"] = self.bare.faults(owner)
            found["minimum"] = self.minimum.faults(owner)
            found["eight"] = self.eight.faults(owner)
        return {name: faults for name, faults in found.items() if faults}


def measure(folder: Path, pace: Pace, *, quick: bool = False, full: bool = False) -> dict[str, Any]:
    """quick: only the commit, the minimum and the transfer. full: the large cases too. folder: one that is not there yet.

    -> {"aims": a row for each figure, with aim, floor, found, verdict and every round's value; "loads": a row for each lane,
    with its rate, p50 and p99; "faults": {design: what is wrong with its books}; "added_ms": what the slow networks took}.
    What has a fault is in no other row. RuntimeError if a call is answered with anything but success.
    """
    pace.say("ledger: making people and their wallets")
    with serving(folder) as stand:
        with ExitStack() as ends:
            run = Run(stand, ends, pace)
            rows = _four(run)
            if not quick:
                rows += [*_slow_disk(run), *_near(run), *_far(run), *_receiving(run), *_batch(run)]
                _alone(run)
            large = ledger_large.measure(run) if full else None
        rows.append(row_of("deadlocks", Aim(0, 0, at_most=True), [stand.deadlocks()]))
        pace.say("ledger: adding up the books")
        faults = run.faults()
        if large is not None:
            rows += large.rows
            faults |= large.faults()
    return {
        "aims": [row for row in rows if not faults.keys() & set(row["designs"])],
        "loads": [row for row in loads_of(run.groups.values()) if row["design"] not in faults],
        "added_ms": run.added_ms,
        "faults": faults,
    }


def _four(run: Run) -> list[Row]:
    """Many wallets, against the two that no ledger can beat; and what it takes on the disk."""
    before, made = size(run.books), run.books.transfers.made
    group = run.measure("4 clients", _bounds(run))
    while run.books.transfers.made - made < SIZED:
        drive(group.lanes["transfer"].connections, [group.lanes["transfer"].call] * CLIENTS, run.pace.seconds)
    grown = (size(run.books) - before) / (run.books.transfers.made - made)
    ledger = run.books.name
    return [
        row_of("transfer / bare commit", Aim(0.60, 0.40), group.ratios("transfer", "bare commit"), ledger, "bare"),
        row_of("transfer / minimum", Aim(0.75, 0.55), group.ratios("transfer", "minimum"), ledger, "minimum"),
        row_of("p99 / p50 of the transfer", Aim(3, 6, at_most=True), group.tails("transfer"), ledger),
        row_of("bytes on the disk per transfer", Aim(400, 500, at_most=True), [grown], ledger),
    ]


def _slow_disk(run: Run) -> list[Row]:
    """The same where a flush takes its time, as on most disks; where it takes none, processors are all that is compared."""
    with run.stand.slow_flush(FLUSH_US):
        group = run.measure("4 clients, 1 ms a flush", _bounds(run))
    bare, minimum = group.ratios("transfer", "bare commit"), group.ratios("transfer", "minimum")
    ledger = run.books.name
    return [
        row_of("transfer / bare commit, 1 ms a flush", None, bare, ledger, "bare"),
        row_of("transfer / minimum, 1 ms a flush", None, minimum, ledger, "minimum"),
    ]


def _bounds(run: Run) -> dict[str, Lane]:
    designs: dict[str, Design] = {"transfer": run.books.transfers, "bare commit": run.bare, "minimum": run.minimum}
    return {name: moving(design, run.direct[:CLIENTS]) for name, design in designs.items()}


def _near(run: Run) -> list[Row]:
    clients = run.through(NEAR_MS, 1)
    lanes = {"transfer": moving(run.books.transfers, clients), "eight statements": moving(run.eight, clients)}
    ratios = run.measure("1 client, 1 ms away", lanes).ratios("transfer", "eight statements")
    return [row_of("transfer / eight statements, 1 client, 1 ms", Aim(6, 4), ratios, run.books.name, "eight")]


def _far(run: Run) -> list[Row]:
    clients = run.through(FAR_MS, MOST_CLIENTS)
    for client in clients:  # the usual way makes some wait for longer than the role's timeouts allow
        checked(client.pg.exec_(b"SET lock_timeout = 0; SET statement_timeout = 0"))
    hot = partial(to, HOT)
    lanes = {
        "transfer to one wallet": moving(run.books.transfers, clients, hot),
        "eight statements": moving(run.eight, clients, hot),
    }
    pace = run.pace.at_least(FAR_LEAST_SECONDS)
    group = run.measure("16 clients, 5 ms away", lanes, slices=1, pace=pace)
    ratios = group.ratios("transfer to one wallet", "eight statements")
    return [row_of("transfer / eight statements, hot, 16 clients, 5 ms", Aim(30, 15), ratios, run.books.name, "eight")]


def _receiving(run: Run) -> list[Row]:
    """A receiving wallet, whose payments to be entered later are entered within the time measured."""
    run.books.receive(RECEIVING)
    transfers = run.books.transfers
    lanes = {
        "transfer": moving(transfers, run.direct),
        "transfer to one wallet": moving(transfers, run.direct, partial(to, HOT)),
        "to one receiving wallet": moving(transfers, run.direct, partial(to, RECEIVING)),
    }
    lanes["to one receiving wallet"].after = run.books.fold
    rows = []
    for name, flush in (("16 clients", 0), ("16 clients, 1 ms a flush", FLUSH_US)):
        with run.stand.slow_flush(flush):
            ratios = run.measure(name, lanes).ratios("to one receiving wallet", "transfer")
        rows.append(row_of(f"receiving hot wallet / uniform, {name}", Aim(0.9, 0.6), ratios, run.books.name))
    return rows


def _batch(run: Run) -> list[Row]:
    clients, transfers = run.direct[:CLIENTS], run.books.transfers

    def batch() -> Call:
        first = people(FIRST, WALLETS - ITEMS)
        return transfers.batch(PAYER, list(range(first, first + ITEMS)))

    lanes = {
        "singles by one payer": moving(transfers, clients, partial(by, PAYER)),
        "batches by one payer": Lane(transfers.name, clients, batch, items=ITEMS),
    }
    ratios = run.measure("4 clients, one payer", lanes).ratios("batches by one payer", "singles by one payer")
    return [row_of("batch of 16 / singles, items a second", Aim(4, 3), ratios, transfers.name)]


def _alone(run: Run) -> None:
    """How the rate grows with the clients, for the table."""
    for count in (1, CLIENTS):
        clients, transfers = run.direct[:count], run.books.transfers
        hot = moving(transfers, clients, partial(to, HOT))
        name = "1 client" if count == 1 else f"{count} clients, one wallet"
        lanes = {"transfer": moving(transfers, clients)} if count == 1 else {}
        run.measure(name, lanes | {"transfer to one wallet": hot})
