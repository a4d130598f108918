"""Histories of any length: a page at any depth touches as much as the first, and a page of rare lines is bounded."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.books import Ledger, Party
from tests.support.owner import Stand, stand_on
from tests.support.past import MILLISECOND, Past
from tests.support.platform import Database

FIRST = 2**63 - 1
LOOKED_AT = 2000  # entries, by one page
LINES = 30_000
START = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=7)
END = START + LINES * STEP
# What one page may touch more than another of as many lines: a page boundary here or there, and look-ups of a lucky kind.
SPREAD = 40


@pytest.fixture(scope="module")
def stand(database: Database) -> Iterator[Stand]:
    """The books; they must add up after all of this."""
    with stand_on(database) as both:
        yield both


@pytest.fixture(scope="module")
def payee(stand: Stand) -> Party:
    """Somebody with 30,000 payments from one person, one every seven minutes, a deposit before and one after them."""
    past, payer, payee = Past(stand.owner), stand.ledger.person("asha"), stand.ledger.person("ravi")
    stand.ledger.fund(payer, LINES + 20)
    stand.ledger.fund(payee, 5)
    past.at(START - MILLISECOND)
    past.lines(payer, payee, LINES, START, STEP)
    stand.ledger.fund(payee, 7)
    past.at(END)
    past.settle()
    stand.owner.connection.execute("VACUUM (ANALYZE) entry_rows, transfers, wallets")
    return payee


class Pages:
    """A wallet's history by the function that the application calls."""

    def __init__(self, ledger: Ledger, party: Party) -> None:
        self._ledger, self._party = ledger, party

    def page(
        self,
        before: int = FIRST,
        limit: int = 25,
        kind: str | None = None,
        status: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> dict[str, Any]:
        asked = (self._party.person, self._party.session, "INR", before, limit, kind, status, since, until)
        found: dict[str, Any] = self._ledger.call("read_history", *asked)["page"]
        assert len(found["data"]) <= limit
        return found

    def all(self, **asked: Any) -> list[list[dict[str, Any]]]:
        """Every page from the first to the last."""
        pages, page = [], self.page(**asked)
        while page["has_more"]:
            pages.append(page["data"])
            page = self.page(page["last_seq"], **asked)
        return [*pages, page["data"]]


@pytest.fixture
def pages(stand: Stand, payee: Party) -> Pages:
    return Pages(stand.ledger, payee)


class Buffers:
    """How many of Postgres' pages a call touches, in the cache or not: a measure that no other process disturbs."""

    def __init__(self, stand: Stand, party: Party) -> None:
        self._connection = stand.owner.connection
        self._connection.execute("SET plan_cache_mode = force_generic_plan")  # as in the functions themselves
        # A planner that dreads look-ups reads whole tables where it can, as it does by itself where they are large.
        self._connection.execute("SET random_page_cost = 50")
        self._party = party

    def of_page(self, before: int = FIRST, *, limit: int = 25, **filters: Any) -> int:
        names = ("kind", "status", "since", "until")
        given = (self._party.person, "INR", before, limit, *(filters.get(name) for name in names))
        return self._touched("history_view(%s, %s, %s, %s, %s, %s, %s, %s)", *given)

    def of_statement(self, month: datetime, after: int = 0, most: int = 100) -> int:
        return self._touched("statement_view(%s, 'INR', %s, %s, %s)", self._party.person, month.date(), after, most)

    def _touched(self, call: str, *given: Any) -> int:
        question = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT {call}"
        for _ in range(2):  # the first may plan, and read the catalogue
            ((found,),) = self._connection.execute(question.encode(), given).fetchall()
        plan = found[0]["Plan"]
        touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert touched > 10, "it has not looked at all"
        return touched


@pytest.fixture
def buffers(stand: Stand, payee: Party) -> Buffers:
    return Buffers(stand, payee)


@pytest.mark.parametrize("limit", [1, 25, 100])
def test_a_page_at_any_depth_costs_what_the_first_does(buffers: Buffers, limit: int) -> None:
    # The newest lines are of a deposit, with one entry more: below them all is alike.
    costs = [buffers.of_page(before, limit=limit) for before in (LINES, LINES // 2, LINES // 10, 1000, 200)]
    assert max(costs) - min(costs) <= SPREAD, costs
    assert abs(buffers.of_page(limit=limit) - costs[0]) <= SPREAD


def test_a_page_between_two_times_costs_the_same_wherever_they_are(buffers: Buffers) -> None:
    spans = [(START + share * (END - START), timedelta(days=4)) for share in (0.01, 0.3, 0.5, 0.77, 0.95)]
    costs = [buffers.of_page(since=since, until=since + span) for since, span in spans]
    assert max(costs) - min(costs) <= SPREAD, costs
    # Two bounds, each found with fifteen halvings: sixteen pages of Postgres a look-up, and not the lines in between.
    assert max(costs) - buffers.of_page(LINES // 2) < 2 * 16 * 16


def test_nothing_between_two_times_costs_no_walk(buffers: Buffers, pages: Pages) -> None:
    for since, until in (
        (END + timedelta(days=1), END + timedelta(days=2)),
        (START - timedelta(days=2), START - timedelta(days=1)),
        (START + STEP * 100 + MILLISECOND, START + STEP * 101),
        (END, START),
    ):
        assert buffers.of_page(since=since, until=until) < 1000
        assert pages.page(since=since, until=until) == {"data": [], "has_more": False, "last_seq": None}


def test_the_bounds_select_as_the_filter_does(pages: Pages) -> None:
    middle = START + STEP * 1234
    found = [line for page in pages.all(since=middle, until=middle + STEP * 30, limit=7) for line in page]
    assert [line["wallet_version"] for line in found] == list(range(2 + 1234 + 30, 2 + 1234, -1))
    one = pages.page(since=middle, until=middle + MILLISECOND)
    assert [line["wallet_version"] for line in one["data"]] == [2 + 1235]
    assert pages.page(since=middle + MILLISECOND, until=middle + STEP)["data"] == []


def test_a_page_of_what_is_rare_looks_at_so_many_entries(buffers: Buffers, pages: Pages) -> None:
    found = pages.all(kind="deposit")
    assert [len(page) for page in found] == [1, *[0] * (len(found) - 2), 1]
    assert len(found) == -(-(LINES + 4) // LOOKED_AT)
    assert [page[0]["amount"] for page in (found[0], found[-1])] == [7, 5]
    first = pages.page(kind="deposit")
    assert (first["has_more"], first["last_seq"]) == (True, LINES + 4 - LOOKED_AT + 1)
    costs = [buffers.of_page(before, kind="refund") for before in (FIRST, LINES, LINES // 2, LOOKED_AT + 1000)]
    assert max(costs) - min(costs) <= SPREAD * 10, costs
    assert max(costs) < LOOKED_AT * 6
    assert buffers.of_page(500, kind="refund") < 500 * 6


def test_what_is_rare_is_found_once_wherever_pages_end(stand: Stand) -> None:
    """Lines of two kinds around the places where a page stops looking."""
    past, asha, ravi = Past(stand.owner), stand.ledger.person("asha"), stand.ledger.person("ravi")
    stand.ledger.fund(asha, 10_000)
    past.at(START - MILLISECOND)
    deposits = []
    for at, count in enumerate((LOOKED_AT - 3, 1, 1, 2, LOOKED_AT - 8, 1, 1)):
        past.lines(asha, ravi, count, START + at * timedelta(days=30), MILLISECOND)
        stand.ledger.fund(ravi, 100 + at)
        past.at(START + at * timedelta(days=30) + timedelta(days=1))
        deposits.append(100 + at)
    past.settle()
    history = Pages(stand.ledger, ravi)
    for limit in (1, 2, 3, 25):
        found = [line["amount"] for page in history.all(kind="deposit", limit=limit) for line in page]
        assert found == deposits[::-1], limit
    whole = [line["wallet_version"] for page in history.all(limit=100) for line in page]
    assert whole == sorted(set(whole), reverse=True)
    assert len(whole) == 2 * LOOKED_AT - 5 + len(deposits)


def test_late_arrivals_are_within_the_times_that_they_have(stand: Stand) -> None:
    """What was folded in can be of an earlier time than the entry before it; the filter goes by its own time."""
    past, asha, shop = Past(stand.owner), stand.rich(1000), stand.ledger.person("shop")
    past.at(START - timedelta(days=1))
    past.lines(asha, shop, 200, START, timedelta(milliseconds=911))
    past.rewrite(
        "UPDATE transfers SET created_at = at, completed_at = at FROM (SELECT transfer_id, created_at"
        " - (seq * 7919 %% 9000) * interval '1 millisecond' AS at FROM entries WHERE wallet_id = %s AND seq %% 3 = 0) late"
        " WHERE id = transfer_id",
        past.wallet(shop),
    )
    entries = past.entries(shop)
    history = Pages(stand.ledger, shop)
    for line in entries[::9]:
        since, until = line.at, line.at + timedelta(seconds=20)
        expected = [one.seq for one in entries if since <= one.at < until]
        found = [one for page in history.all(since=since, until=until, limit=5) for one in page]
        assert [one["wallet_version"] for one in found] == expected[::-1]
    past.settle()


def test_statements_cost_what_their_lines_do(buffers: Buffers) -> None:
    part = buffers.of_statement(START, most=100)
    for month in (START + timedelta(days=40), START + timedelta(days=100)):
        assert abs(buffers.of_statement(month, most=100) - part) <= SPREAD * 2
    nothing = buffers.of_statement(START - timedelta(days=300))
    assert nothing < 1000
    one = buffers.of_statement(START, most=1)
    assert one - nothing < 200
    for most in (10, 100):
        assert buffers.of_statement(START, most=most) - one < most * 8, most
    deep = buffers.of_statement(START, after=4000, most=100)
    assert abs(deep - part) <= SPREAD * 2
