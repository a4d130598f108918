"""What much data costs the ledger: a million wallets, ten million entries, and the page five million entries down.

The entries are written by set, in the shape that one payment after another to one wallet would have left. Their books are
added up here, since the tests' audit looks at more than is worth the time on ten million lines.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import Any, LiteralString, Protocol

from bench.designs import failing
from bench.ledger_clients import Call, Connection, Statement
from bench.ledger_rounds import Aim, Group, Lane, Pace, row_of
from bench.ledger_stand import BASE, Books, LedgerStand, names, settle

WALLETS, MANY_WALLETS = 10_000, 1_000_000
DEPTH = 5_000_000  # entries of one wallet; as many again are on those who paid it
DEEP = 0  # that wallet's person
CHUNK = 500_000
CLIENTS = 4
WARM_SECONDS = 20.0  # in which most pages are touched: the first touch after a checkpoint writes a page whole
PAGE = 50
NEWEST = 2**63 - 1

# Transfer number k is from person 1 + k % payers to person 0. %(first)s to %(last)s: of a chunk.
_TRANSFERS: LiteralString = """
    INSERT INTO okane.transfers (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind,
                                 status, currency, asked)
    SELECT md5('transfer' || k)::uuid, %(base)s + 1 + k %% %(payers)s, %(base)s, 1, made.at, made.at, 2 + k / %(payers)s, 2 + k,
           'transfer', 'Success', 'INR', 'person_0000000'
      FROM okane.wallets w CROSS JOIN generate_series(%(first)s, %(last)s) k
     CROSS JOIN LATERAL (SELECT w.updated_at + k / %(payers)s * interval '1 ms' AS at) made WHERE w.id = %(base)s
"""
_ENTRIES: LiteralString = """
    INSERT INTO okane.entry_rows (wallet_id, transfer_id, seq, available_delta, available_after)
    SELECT line.* FROM generate_series(%(first)s, %(last)s) k
     CROSS JOIN LATERAL (SELECT md5('transfer' || k)::uuid AS id) named
     CROSS JOIN LATERAL (VALUES (%(base)s + 1 + k %% %(payers)s, id, 2 + k / %(payers)s, -1, %(purse)s - 1 - k / %(payers)s),
                                (%(base)s, id, 2 + k, 1, %(purse)s + 1 + k)) line
"""
_WALLETS: LiteralString = """
    UPDATE okane.wallets w SET available = e.after, version = e.seq, updated_at = e.at,
           day = CASE WHEN e.paid > 0 THEN (e.at AT TIME ZONE 'UTC')::date END, day_amount = e.paid, day_count = e.paid
      FROM (SELECT r.wallet_id, max(r.seq) AS seq, sum(r.available_delta) AS after, max(t.created_at) AS at,
                   count(*) FILTER (WHERE r.available_delta < 0) AS paid
              FROM okane.entry_rows r JOIN okane.transfers t ON t.id = r.transfer_id GROUP BY r.wallet_id) e
     WHERE w.id = e.wallet_id AND w.id BETWEEN %(base)s AND %(base)s + %(payers)s
"""

# Each finds what must not be there.
_CHECKS: dict[str, LiteralString] = {
    "the currency does not add up to nothing": "SELECT 1 FROM okane.wallets HAVING sum(available + locked) <> 0",
    "a wallet is not the sum of its entries": """
        SELECT w.id FROM okane.wallets w LEFT JOIN (SELECT wallet_id, sum(available_delta) AS available, count(*) AS entries,
               max(seq) AS latest FROM okane.entry_rows GROUP BY wallet_id) e ON e.wallet_id = w.id
         WHERE (w.available, w.version, w.version)
               IS DISTINCT FROM (coalesce(e.available, 0), coalesce(e.entries, 0), coalesce(e.latest, 0))
    """,
    "an entry does not follow from the one before": """
        SELECT wallet_id FROM (SELECT wallet_id, seq, available_after - available_delta AS begun, row_number() OVER w AS number,
               lag(available_after, 1, 0::bigint) OVER w AS before FROM okane.entry_rows
               WINDOW w AS (PARTITION BY wallet_id ORDER BY seq)) e WHERE seq <> number OR begun <> before
    """,
    "a transfer has not moved its amount from one side to the other": """
        SELECT t.id FROM okane.transfers t
          LEFT JOIN okane.entry_rows f ON (f.wallet_id, f.seq) = (t.from_wallet, t.from_seq)
          LEFT JOIN okane.entry_rows o ON (o.wallet_id, o.seq) = (t.to_wallet, t.to_seq)
         WHERE (f.transfer_id, f.available_delta, o.transfer_id, o.available_delta, t.status)
               IS DISTINCT FROM (t.id, -t.amount, t.id, t.amount, 'Success'::okane.transfer_status)
    """,
    "there are entries of no transfer": """
        SELECT 1 FROM (SELECT count(*) AS found FROM okane.entry_rows) e,
             (SELECT 2 * count(*) + count(*) FILTER (WHERE kind = 'deposit') AS due FROM okane.transfers) t WHERE found <> due
    """,
}


class Measured(Protocol):
    """The run that this is part of."""

    stand: LedgerStand
    pace: Pace
    ends: ExitStack
    groups: dict[str, Group]


@dataclass
class Large:
    """What was found, and where to look whether it counts."""

    rows: list[dict[str, Any]]
    books: list[Books]

    def faults(self) -> dict[str, list[str]]:
        """What is wrong with the books, by database; nothing of those that are right."""
        found = {books.name: sums(books) for books in self.books}
        return {name: faults for name, faults in found.items() if faults}


def measure(run: Measured) -> Large:
    """Make the data, in some minutes, and measure on it."""
    run.pace.say("ledger: making a million wallets")
    few, many = run.stand.new("few", WALLETS), run.stand.new("many", MANY_WALLETS)
    run.pace.say("ledger: making ten million entries")
    old = run.stand.new("old", WALLETS)
    fill(old, DEPTH)
    for books in (few, many, old):
        settle(books)
    lanes = {
        "10 k wallets, no entries": _moving(run, few),
        "1 M wallets": _moving(run, many),
        "10 M entries": _moving(run, old),
    }
    group = run.groups["large"] = Group("4 clients, much data", lanes, slices=4)
    group.measure(replace(run.pace, warm_seconds=WARM_SECONDS))
    clients = [run.ends.enter_context(Connection(old.app_url))]
    lanes = {
        "first page": Lane(old.name, clients, partial(_page, lambda: NEWEST)),
        "page at depth 5 M": Lane(old.name, clients, partial(_page, lambda: PAGE + 2 + int(random() * 2000))),
    }
    pages = run.groups["pages"] = Group("1 client, pages", lanes, slices=4)
    pages.measure(run.pace)
    rates = {name: group.ratios(name, "10 k wallets, no entries") for name in ("1 M wallets", "10 M entries")}
    times = pages.times("page at depth 5 M", "first page")
    rows = [
        row_of("1 M wallets / 10 k", Aim(0.9, 0.75), rates["1 M wallets"], few.name, many.name),
        row_of("10 M entries / none", Aim(0.9, 0.75), rates["10 M entries"], few.name, old.name),
        row_of("page at depth 5 M / first page, time", Aim(1.5, 3, at_most=True), times, old.name),
    ]
    return Large(rows, [few, many, old])


def fill(books: Books, transfers: int) -> None:
    """Let everybody pay person 0 one unit, in turns, so many times together. For books in which nothing has happened yet."""
    payers = books.wallets - 1
    values = {"base": BASE, "payers": payers, "purse": books.purse}
    with books.owner() as owner:
        for first in range(0, transfers, CHUNK):
            chunk = values | {"first": first, "last": min(first + CHUNK, transfers) - 1}
            owner.execute(_TRANSFERS, chunk)
            owner.execute(_ENTRIES, chunk)
        owner.execute(_WALLETS, values)
    books.transfers.made += transfers


def sums(books: Books) -> list[str]:
    """What is wrong with books that hold nothing but payments; empty when they are right."""
    with books.owner() as owner:
        owner.execute("SET work_mem = '256MB'")
        return failing(owner, {name: (check, ()) for name, check in _CHECKS.items()}) + books.count_faults()


def _moving(run: Measured, books: Books) -> Lane:
    clients = [run.ends.enter_context(Connection(books.app_url)) for _ in range(CLIENTS)]
    return Lane(books.name, clients, lambda: books.transfers.call(*_pair(books.wallets)))


def _pair(end: int) -> tuple[int, int]:
    payer, payee = int(random() * end), int(random() * end)
    return (payer, payee) if payer != payee else _pair(end)


def _page(before: Callable[[], int]) -> Call:
    person, session, _ = names(DEEP)
    values = (person, session, b"INR", b"%d" % before(), b"%d" % PAGE, None, None, None, None)
    result = yield Statement(b"SELECT okane.read_history($1, $2, $3, $4, $5, $6, $7, $8, $9)", values)
    answer = result.get_value(0, 0) or b""
    if answer.count(b'"balance_after"') != PAGE:
        raise RuntimeError(f"read_history: {answer.decode()[:500]}")
