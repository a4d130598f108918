"""The benchmark of the ledger: every design moves money and keeps its books, and one that does not has no figures."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as program
from bench import designs, doors, ledger, ledger_large
from bench.delay import delayed
from bench.designs import Design
from bench.ledger_clients import Connection, Statement, drive
from bench.ledger_rounds import Aim, Pace, row_of
from bench.ledger_stand import serving
from tests.support.books import check_books

NAMES = ["ledger", "bare", "minimum", "eight"]
QUICK = ["transfer / bare commit", "transfer / minimum", "p99 / p50 of the transfer", "bytes on the disk per transfer"]
ROW = {"figure", "aim", "floor", "at_most", "found", "verdict", "rounds", "designs"}
LOAD = {"group", "load", "design", "clients", "rate", "p50_ms", "p99_ms", "calls"}


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of everything than a result would need."""
    monkeypatch.setattr(ledger, "SIZED", 10)
    monkeypatch.setattr(doors, "ADDRESSES", 2)
    monkeypatch.setattr(ledger, "FAR_LEAST_SECONDS", 0.1)
    for name, value in {"MANY_WALLETS": 11_000, "DEPTH": 5000, "CHUNK": 2000, "WARM_SECONDS": 0.1}.items():
        monkeypatch.setattr(ledger_large, name, value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ledger.Run]:
    """A server with the ledger and the other designs."""
    with serving(tmp_path_factory.mktemp("bench") / "postgres") as stand, ExitStack() as ends:
        yield ledger.Run(stand, ends, Pace(1, 0.1, quiet))


def design_of(run: ledger.Run, name: str) -> Design:
    """One of NAMES."""
    of_name: dict[str, Design] = {
        design.name: design for design in (run.books.transfers, run.bare, run.minimum, run.eight)
    }
    return of_name[name]


@pytest.mark.parametrize("name", NAMES)
def test_design_keeps_its_books_for_a_second(run: ledger.Run, name: str) -> None:
    design = design_of(run, name)
    before = design.made
    turn = drive(run.direct[:4], [lambda: design.call(*ledger.uniform())] * 4, 1.0)
    assert design.made - before == len(turn.taken) >= 4
    assert run.faults() == {}


def test_batches_and_a_receiving_wallet_keep_the_books(run: ledger.Run) -> None:
    transfers, before = run.books.transfers, run.books.transfers.made
    run.books.receive(ledger.RECEIVING)
    drive(run.direct[:4], [lambda: transfers.batch(ledger.PAYER, [3, 4, 5])] * 4, 0.2)
    drive(run.direct, [lambda: transfers.call(*ledger.to(ledger.RECEIVING))] * len(run.direct), 0.2)
    with run.books.owner() as owner:
        assert owner.execute("SELECT count(*) > 0 FROM okane.arrivals").fetchone() == (True,)
    assert run.faults() == {}
    assert transfers.made > before


BREAKS = {
    "ledger": "UPDATE okane.wallets SET available = available + 1 WHERE id = 200",
    "bare": "INSERT INTO bench.bare SELECT * FROM bench.bare LIMIT 1",
    "minimum": "UPDATE bench.minimum_wallets SET available = available + 1 WHERE id = 7",
    "eight": "UPDATE bench.eight_wallets SET available = available + 1 WHERE id = 7",
}
MENDS = {
    "ledger": "UPDATE okane.wallets SET available = available - 1 WHERE id = 200",
    "bare": "DELETE FROM bench.bare WHERE ctid = (SELECT max(ctid) FROM bench.bare)",
    "minimum": "UPDATE bench.minimum_wallets SET available = available - 1 WHERE id = 7",
    "eight": "UPDATE bench.eight_wallets SET available = available - 1 WHERE id = 7",
}


@pytest.mark.parametrize("name", NAMES)
def test_wrong_books_are_seen(run: ledger.Run, name: str) -> None:
    run.direct[0].run(design_of(run, name).call(5, 6))
    with run.books.owner() as owner:
        owner.execute(BREAKS[name].encode())
        assert list(run.faults()) == [name]
        owner.execute(MENDS[name].encode())
    assert run.faults() == {}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_is_not_in_the_books_is_seen(run: ledger.Run, name: str) -> None:
    design = design_of(run, name)
    design.made += 1
    assert list(run.faults()) == [name]
    design.made -= 1


def test_a_refusal_ends_the_run(run: ledger.Run) -> None:
    with pytest.raises(RuntimeError, match="self_transfer"):
        run.direct[0].run(run.books.transfers.call(5, 5))


def test_a_statement_that_fails_ends_the_run(run: ledger.Run) -> None:
    def broken() -> Any:
        yield Statement(b"SELECT 1 / 0")

    with Connection(run.books.app_url) as connection, pytest.raises(RuntimeError, match="division by zero"):
        drive([connection], [broken], 0.1)


def test_the_network_holds_back_what_is_sent(run: ledger.Run) -> None:
    with delayed(run.stand.postgres.port, 20.0) as port:
        url = run.books.app_url.replace(f":{run.stand.postgres.port}/", f":{port}/")
        with Connection(url) as connection:
            assert connection.round_trip_ms() >= 20.0


def test_a_flush_is_slow_as_long_as_it_is_asked_for(run: ledger.Run) -> None:
    def settings() -> list[str]:
        names = ["commit_delay", "commit_siblings", "fsync", "synchronous_commit"]
        with run.books.owner() as owner:
            return [row[0] for name in names for row in owner.execute(f"SHOW {name}".encode())]

    with run.stand.slow_flush(1000):
        assert settings() == ["1000", "0", "on", "on"]
    assert settings()[0] == "0"


def test_many_entries_at_once_are_right_books(run: ledger.Run) -> None:
    books = run.stand.new("filled", 40)
    ledger_large.fill(books, 1003)
    assert check_books(books.url) == []
    assert ledger_large.sums(books) == []
    with Connection(books.app_url) as connection:
        for payee in (1, 0):
            connection.run(books.transfers.call(7, payee))
    assert books.faults() == []
    with books.owner() as owner:
        owner.execute("UPDATE okane.wallets SET version = version + 1 WHERE id = 105")
    assert ledger_large.sums(books) == ["a wallet is not the sum of its entries"]


def test_everything_is_measured(tmp_path: Path) -> None:
    found = ledger.measure(tmp_path / "postgres", Pace(1, 0.1, quiet, warm_seconds=0.1), full=True)
    assert found["faults"] == {}
    assert [row["figure"] for row in found["aims"]] == [
        *QUICK,
        "transfer / bare commit, 1 ms a flush",
        "transfer / minimum, 1 ms a flush",
        "transfer / eight statements, 1 client, 1 ms",
        "transfer / eight statements, hot, 16 clients, 5 ms",
        "receiving hot wallet / uniform, 16 clients",
        "receiving hot wallet / uniform, 16 clients, 1 ms a flush",
        "batch of 16 / singles, items a second",
        "deadlocks",
        "1 M wallets / 10 k",
        "10 M entries / none",
        "page at depth 5 M / first page, time",
    ]
    assert all(row.keys() == ROW and row["found"] >= 0 for row in found["aims"])
    assert all(row.keys() == LOAD and row["rate"] > 0 and row["calls"] > 0 for row in found["loads"])
    assert found["added_ms"].keys() == {"1", "5"}


def test_the_program_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert program.main(["ledger", "--quick", "--rounds", "2", "--seconds", "0.3", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["ledger"]
    assert [row["figure"] for row in found["aims"]] == [*QUICK, "deadlocks"]
    assert [len(row["rounds"]) for row in found["aims"]] == [2, 2, 2, 1, 1]
    shown = capsys.readouterr().out
    assert all(row["figure"] in shown for row in found["aims"])


def test_a_design_with_wrong_books_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_sided = designs.Minimum._MOVE.replace(b"available - $4", b"available")
    monkeypatch.setattr(designs.Minimum, "_MOVE", one_sided)
    file = tmp_path / "result.json"
    assert program.main(["ledger", "--quick", "--rounds", "1", "--seconds", "0.3", "--json", str(file)]) == 1
    found = json.loads(file.read_text())["ledger"]
    assert list(found["faults"]) == ["minimum"]
    assert [row["figure"] for row in found["aims"]] == [*(name for name in QUICK if "minimum" not in name), "deadlocks"]
    assert {row["design"] for row in found["loads"]} == {"ledger", "bare"}
    shown = capsys.readouterr().out
    assert "minimum: its books are wrong" in shown
    assert "transfer / minimum" not in shown


def test_doors_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert program.main(["doors", "--rounds", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["doors"]
    assert [(row["door"], row["tries"]) for row in rows] == [(door, 6) for door in doors.DOORS]
    assert all(row["ratio"] > 0 and row["noise"].keys() == {"known", "unknown"} for row in rows)
    shown = capsys.readouterr().out
    assert all(row["door"] in shown for row in rows)


@pytest.mark.parametrize(
    ("aim", "found", "verdict"),
    [
        (Aim(0.6, 0.4), 0.6, "met"),
        (Aim(0.6, 0.4), 0.59, "missed"),
        (Aim(0.6, 0.4), 0.4, "missed"),
        (Aim(0.6, 0.4), 0.39, "past the floor"),
        (Aim(3, 6, at_most=True), 3, "met"),
        (Aim(3, 6, at_most=True), 3.1, "missed"),
        (Aim(3, 6, at_most=True), 6, "missed"),
        (Aim(3, 6, at_most=True), 6.1, "past the floor"),
    ],
)
def test_verdicts(aim: Aim, found: float, verdict: str) -> None:
    row = row_of("a figure", aim, [found / 2, found, found * 2], "ledger")
    assert (row["verdict"], row["found"], row["designs"]) == (verdict, found, ["ledger"])
