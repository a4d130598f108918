"""Monthly statements in the books: every entry in exactly one month, in the order of versions, between balances that add up."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.books import Ledger, Party
from tests.support.owner import Stand, stand_on
from tests.support.past import MILLISECOND, Past, month_of_each, months, next_month, start_of, text
from tests.support.platform import Database

JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
GAPS: dict[str, timedelta | None] = {
    "at once": timedelta(0),
    "a millisecond": MILLISECOND,
    "hours": timedelta(hours=7, milliseconds=3),
    "days": timedelta(days=11),
    "months": timedelta(days=65),
    "to the last millisecond": None,
    "to the first millisecond": None,
}


@pytest.fixture(scope="module")
def stand(database: Database) -> Iterator[Stand]:
    """The books; they must add up after all of this."""
    with stand_on(database) as both:
        yield both


def read(ledger: Ledger, party: Party, month: datetime, after: int = 0, most: int = 1000) -> dict[str, Any]:
    """What read_statement says."""
    return ledger.call("read_statement", party.person, party.session, "INR", month.date(), after, most)


def whole(ledger: Ledger, party: Party, month: datetime, most: int = 1000) -> dict[str, Any]:
    """A month's statement, put together from parts of so many lines, each of which must add up and follow from the last."""
    answer = read(ledger, party, month, most=most)
    found: dict[str, Any] = answer["statement"]
    adds_up(found)
    while answer["next"] is not None:
        assert len(answer["statement"]["lines"]) == most
        assert answer["next"] == answer["statement"]["closing"]["version"]
        opening = answer["statement"]["closing"]
        answer = read(ledger, party, month, answer["next"], most)
        part = answer["statement"]
        adds_up(part)
        assert part["lines"]
        assert part["opening"] == opening
        found = {**found, "lines": found["lines"] + part["lines"], "closing": part["closing"]}
    return found


def adds_up(statement: dict[str, Any]) -> None:
    """opening + lines = closing, without a gap, line by line."""
    opening, lines, closing = statement["opening"], statement["lines"], statement["closing"]
    available, locked, version = opening["available"], opening["locked"], opening["version"]
    for line in lines:
        available, locked, version = available + line["available_change"], locked + line["locked_change"], version + 1
        assert (line["available_after"], line["locked_after"], line["version"]) == (available, locked, version)
    assert closing == {"available": available, "locked": locked, "total": available + locked, "version": version}
    assert opening["total"] == opening["available"] + opening["locked"]


def next_moment(moment: datetime, gap: str) -> datetime:
    """The moment of the step after."""
    if gap == "to the last millisecond":
        return max(moment, next_month(moment) - MILLISECOND)
    if gap == "to the first millisecond":
        return next_month(moment)
    return moment + (GAPS[gap] or timedelta(0))


class Random:
    """Three people, of whom the last can be a receiving one, and steps that a draw picks."""

    def __init__(self, stand: Stand) -> None:
        self.stand, self.ledger = stand, stand.ledger
        self.past = Past(stand.owner)
        self.people = [self.ledger.person("asha") for _ in range(3)]
        self.holds: list[tuple[Party, str]] = []
        self.with_bank: list[tuple[str, str, int]] = []  # kind, id, amount
        self.paid: list[tuple[Party, str]] = []
        self.receiving = False
        self.keys = 0

    def step(self, action: str, who: int, amount: int) -> None:
        self.keys += 1
        key, asha, ravi = f"key-{self.keys:06}", self.people[who], self.people[(who + 1) % 3]
        match action:
            case "fund":
                self.ledger.fund(asha, amount * 3)
            case "intend":
                made = self.ledger.intend(asha, key, amount)["transaction"]
                self.with_bank.append(("deposit", made["id"], amount))
            case "withdraw":
                made = self.ledger.withdraw(asha, key, amount)["transaction"]
                self.with_bank.append(("withdrawal", made["id"], amount))
            case "settle" | "decline" if self.with_bank:
                kind, name, asked = self.with_bank.pop(0)
                self.ledger.event(name, asked, type=f"{kind}.{'succeeded' if action == 'settle' else 'failed'}")
            case "pay":
                self.paid.append((ravi, self.ledger.transfer(asha, key, ravi.handle, amount)["transaction"]["id"]))
            case "hold":
                self.holds.append((ravi, self.ledger.hold(asha, key, ravi.handle, amount)["transaction"]["id"]))
            case "capture" | "void" if self.holds:
                payee, hold = self.holds.pop(0)
                resolve = self.ledger.capture if action == "capture" else self.ledger.void
                resolve(payee, key, hold, *([1 + amount // 2] if action == "capture" and amount % 2 else []))
            case "refund" if self.paid:
                payee, name = self.paid.pop(0)
                self.ledger.refund(payee, key, name, 1 if amount % 2 else None)
            case "receive":
                self.receiving = not self.receiving
                self.stand.owner.switch(self.people[2].handle, receiving=self.receiving)


ACTIONS = [
    *("fund", "pay", "pay", "hold", "capture", "void"),
    *("refund", "intend", "withdraw", "settle", "decline", "receive"),
]
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(1, 90), st.sampled_from(list(GAPS))),
    min_size=1,
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, most=st.sampled_from([1, 2, 7, 1000]))
def test_any_history_adds_up_month_by_month(stand: Stand, steps: list[tuple[str, int, int, str]], most: int) -> None:
    world, moment = Random(stand), JANUARY + timedelta(hours=1)
    world.past.at(JANUARY)
    for action, who, amount, gap in steps:
        world.step(action, who, amount)
        moment = next_moment(moment, gap)
        world.past.at(moment)
    for party in world.people:
        every = list(months(JANUARY - timedelta(days=1), next_month(moment)))
        statements = [whole(stand.ledger, party, month, most) for month in every]
        entries = world.past.entries(party)
        placed = month_of_each(entries)
        closing = {"available": 0, "locked": 0, "total": 0, "version": 0}
        for month, statement in zip(every, statements, strict=True):
            assert statement["opening"] == closing, "a month opens as the one before has closed"
            closing = statement["closing"]
            expected = [line for line, place in zip(entries, placed, strict=True) if place == month]
            assert [
                (
                    *(line["version"], line["transaction_id"], line["available_change"], line["locked_change"]),
                    *(line["available_after"], line["locked_after"], line["at"]),
                )
                for line in statement["lines"]
            ] == [(*line[:-1], text(line.at)) for line in expected]
            assert (statement["from"], statement["to"]) == (text(month), text(next_month(month)))
            assert statement["final"] is True
        wallet = stand.ledger.wallet(party)
        assert closing == {name: wallet[name] for name in closing}, "the last month closes with what there is now"
        for version in range(wallet["version"] + 1):
            at_version(stand.ledger, party, version, entries[version - 1] if version else None)
    world.past.settle()


def at_version(ledger: Ledger, party: Party, version: int, line: Any) -> None:
    """The wallet at a version is what the entry of that number says."""
    read_at = ledger.call("read_wallet_at", party.person, party.session, "INR", version)["wallet"]
    available, locked, at = (line.available_after, line.locked_after, line.at) if line else (0, 0, JANUARY)
    assert read_at == {
        "currency": "INR", "available": available, "locked": locked, "total": available + locked, "version": version,
        "as_of": text(at),
    }  # fmt: skip


def test_an_entry_at_midnight_belongs_to_the_month_that_begins(stand: Stand) -> None:
    past, asha, ravi = Past(stand.owner), stand.ledger.person("asha"), stand.ledger.person("ravi")
    february = next_month(JANUARY)
    moments = [
        JANUARY - MILLISECOND, JANUARY, JANUARY, JANUARY + MILLISECOND, february - MILLISECOND, february,
        datetime(2025, 3, 1, tzinfo=UTC) - MILLISECOND,
    ]  # fmt: skip
    stand.ledger.fund(asha, 1000)
    past.at(JANUARY - timedelta(days=2))
    for number, moment in enumerate(moments):
        stand.ledger.transfer(asha, f"key-{number:05}", ravi.handle, 10 + number)
        past.at(moment)
    changes = {
        month: [line["available_change"] for line in whole(stand.ledger, asha, month)["lines"]]
        for month in months(JANUARY - MILLISECOND, february)
    }
    assert changes == {
        start_of(JANUARY - MILLISECOND): [0, 1000, -10],
        JANUARY: [-11, -12, -13, -14],
        february: [-15, -16],
    }
    past.settle()


def test_a_statement_says_what_was_known_with_each_line(stand: Stand) -> None:
    """A hold that was opened in January and captured in March was Processing in January, for ever."""
    past, asha, ravi = Past(stand.owner), stand.rich(1000), stand.ledger.person("ravi")
    past.at(JANUARY - timedelta(days=1))
    hold = stand.ledger.hold(asha, "key-hold", ravi.handle, 100, note="deposit on the flat")["transaction"]["id"]
    past.at(JANUARY)
    stand.ledger.transfer(asha, "key-poor", ravi.handle, 100_000)
    past.at(JANUARY + MILLISECOND)
    before = [whole(stand.ledger, party, JANUARY) for party in (asha, ravi)]
    march = datetime(2025, 3, 9, tzinfo=UTC)
    stand.ledger.capture(ravi, "key-take", hold, 60)
    past.at(march)
    after = [whole(stand.ledger, party, JANUARY) for party in (asha, ravi)]
    for was, now in zip(before, after, strict=True):
        for line in (*was["lines"], *now["lines"]):
            name = line["counterparty"].pop("name")
            assert name in ("ravi", "ra***", "asha", "as***")
        assert was == now
    held, failed = after[0]["lines"]
    assert held | {"counterparty": {}} == {
        "version": 3, "at": text(JANUARY), "transaction_id": hold, "kind": "transfer", "direction": "out",
        "stage": "opening", "status": "Processing", "counterparty": {}, "note": "deposit on the flat",
        "available_change": -100, "locked_change": 100, "available_after": 900, "locked_after": 100,
    }  # fmt: skip
    assert (failed["status"], failed["available_change"], failed["locked_change"]) == ("Failure", 0, 0)
    [captured] = whole(stand.ledger, asha, march)["lines"]
    assert captured == {
        "version": 5, "at": text(march), "transaction_id": hold, "kind": "transfer", "direction": "out",
        "stage": "closing", "status": "Success", "counterparty": {"handle": ravi.handle, "name": "ravi"},
        "note": "deposit on the flat",
        "available_change": 40, "locked_change": -100, "available_after": 940, "locked_after": 0,
    }  # fmt: skip
    [received] = whole(stand.ledger, ravi, march)["lines"]
    assert (received["direction"], received["stage"], received["available_change"]) == ("in", "closing", 60)
    past.settle()


def test_a_failed_payment_keeps_the_name_masked(stand: Stand) -> None:
    asha, ravi = stand.rich(10), stand.ledger.person("ravi")
    stand.ledger.transfer(asha, "key-poor", ravi.handle, 100)
    stand.ledger.transfer(asha, "key-paid", ravi.handle, 10)
    now = datetime.now(UTC)
    *_, failed, paid = whole(stand.ledger, asha, now)["lines"]
    assert failed["counterparty"] == {"handle": ravi.handle, "name": "ra***"}
    assert paid["counterparty"] == {"handle": ravi.handle, "name": "ravi"}
    funded = whole(stand.ledger, asha, now)["lines"][0]
    assert funded["counterparty"] == {"bank": "hdfc"}


def test_the_month_that_runs_is_so_far_and_the_next_is_not_there(stand: Stand) -> None:
    asha = stand.rich(10)
    [(now,)] = stand.owner.rows("SELECT clock_timestamp()")
    running = read(stand.ledger, asha, start_of(now))["statement"]
    assert (running["final"], len(running["lines"]), running["closing"]["available"]) == (False, 2, 10)
    for month in (next_month(now), datetime(9999, 12, 1, tzinfo=UTC)):
        assert read(stand.ledger, asha, month) == {"outcome": "not_found"}
    early = read(stand.ledger, asha, datetime(1000, 1, 1, tzinfo=UTC))["statement"]
    assert (early["final"], early["lines"], early["closing"]["version"]) == (True, [], 0)


def test_a_receiving_wallet_has_its_arrivals_in_its_statement(stand: Stand) -> None:
    past, shop, asha = Past(stand.owner), stand.ledger.person("shop"), stand.rich(100)
    past.at(JANUARY - timedelta(days=1))
    stand.owner.switch(shop.handle, receiving=True)
    for number in range(4):
        stand.ledger.transfer(asha, f"key-{number:05}", shop.handle, 10 + number)
        past.at(JANUARY + number * timedelta(days=12))
    arrived = "SELECT count(*) FROM arrivals WHERE wallet_id = %s"
    assert stand.owner.rows(arrived, past.wallet(shop)) == [(4,)], "nobody has looked yet"
    january, february = (whole(stand.ledger, shop, month) for month in months(JANUARY, next_month(JANUARY)))
    assert [line["available_change"] for line in january["lines"]] == [10, 11, 12]
    assert [line["available_change"] for line in february["lines"]] == [13]
    assert stand.owner.rows(arrived, past.wallet(shop)) == [(0,)]
    past.settle()


def test_what_reaches_a_wallet_late_changes_no_month_that_has_an_end(stand: Stand) -> None:
    """Payments that were slower than others are folded in after them, with earlier times: as versions go, so go months."""
    past, asha, shop = Past(stand.owner), stand.rich(1000), stand.ledger.person("shop")
    past.at(JANUARY - timedelta(days=1))
    past.lines(asha, shop, 300, JANUARY - timedelta(seconds=150), timedelta(milliseconds=997))
    # Every third entry is late, by up to nine seconds.
    past.rewrite(
        "UPDATE transfers SET created_at = at, completed_at = at FROM (SELECT transfer_id, created_at"
        " - (seq * 7919 %% 9000) * interval '1 millisecond' AS at FROM entries WHERE wallet_id = %s AND seq %% 3 = 0) late"
        " WHERE id = transfer_id",
        past.wallet(shop),
    )
    entries = past.entries(shop)
    assert [line.at for line in entries] != sorted(line.at for line in entries)
    bounds = [line.at + off for line in entries[::7] for off in (-MILLISECOND, timedelta(0), MILLISECOND)]
    for bound in (*bounds, JANUARY):
        first = next((line.seq for line in entries if line.at >= bound), len(entries) + 1)
        for version in (*range(0, 300, 11), first - 1, first, first + 1, 300):
            known = min(version, 300)
            [(found,)] = stand.owner.rows("SELECT version_before(%s, %s, %s)", past.wallet(shop), known, bound)
            assert found == min(first - 1, known), (bound, known)
    december, january = (whole(stand.ledger, shop, month) for month in months(JANUARY - MILLISECOND, JANUARY))
    assert len(december["lines"]) + len(january["lines"]) == 300
    assert december["closing"] == january["opening"]
    assert any(line["at"] < january["from"] for line in january["lines"]), "one that came late"
    past.settle()


def test_parts_are_as_long_as_asked_for_and_end_with_the_month(stand: Stand) -> None:
    past, asha, ravi = Past(stand.owner), stand.rich(1000), stand.ledger.person("ravi")
    past.at(JANUARY)
    past.lines(asha, ravi, 10, JANUARY + MILLISECOND, timedelta(days=1))
    past.lines(asha, ravi, 10, next_month(JANUARY), timedelta(days=1))
    for most, parts in ((4, [4, 4, 2]), (5, [5, 5]), (9, [9, 1]), (10, [10]), (11, [10])):
        found, after = [], 0
        while True:
            answer = read(stand.ledger, ravi, JANUARY, after, most)
            found.append(len(answer["statement"]["lines"]))
            if answer["next"] is None:
                break
            after = answer["next"]
        assert found == parts, most
        assert whole(stand.ledger, ravi, JANUARY, most) == read(stand.ledger, ravi, JANUARY)["statement"]
    past.settle()
