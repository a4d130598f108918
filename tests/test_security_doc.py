"""docs/security.md: every test that it names is there, and its figures are those of the code."""

import ast
import re

import pytest

from tests.support.platform import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BUDGETS = (ROOT / "database" / "functions" / "12_budgets.sql").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+\.\d+\.\d+) \|[^|]*\| (\w+) \| (.+) \|$", TEXT, re.M)


def test_the_table_is_whole() -> None:
    assert len(ROWS) > 60
    assert len({row for row, _, _ in ROWS}) == len(ROWS), "a row twice"
    assert {answer for _, answer, _ in ROWS} == {"yes", "partly", "no"}


@pytest.mark.parametrize(
    ("file", "test"), sorted(set(re.findall(r"`((?:local/)?test_\w+\.py)(?:::(test_\w+))?`", TEXT)))
)
def test_what_is_named_is_there(file: str, test: str) -> None:
    path = ROOT / "tests" / file
    assert path.is_file()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not test or test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_events_are_those_of_the_code() -> None:
    said = set(re.findall(r"`([a-z]+_[a-z_]+)`", TEXT.partition("## The event log")[2].partition("##")[0]))
    layer = (ROOT / "layers" / "okane_common" / "okane_common").glob("*.py")
    code = "".join(path.read_text(encoding="utf-8") for path in layer)
    written = set(re.findall(r"\bevent\(\s*\"(\w+)\"", code)) | {
        f"identity_{how}" for how in ("made", "linked", "known")
    }
    assert written <= said
    assert said - written <= {"correlation_id"}


@pytest.mark.parametrize(
    ("route", "cap"),
    [("log_in", "100"), ("sign_up", "300"), ("verify", "100"), ("forgot", "100"), ("reset", "100")],
)
def test_budgets_are_those_of_the_code(route: str, cap: str) -> None:
    """The comment there, which the tests of guessing hold to the code, and the table here."""
    [line] = re.findall(rf"^--   {route} .*$", BUDGETS, re.M)
    one_network, of_it, address, seconds = re.findall(r"\d+", line)[-4:]
    assert one_network == cap
    name = {"log_in": "login", "sign_up": "register", "forgot": "password/forgot", "reset": "password/reset"}.get(
        route, route
    )
    [row] = re.findall(rf"^\| {name}.*$", TEXT, re.M)
    cells = [cell.strip() for cell in row.split("|")[3:7]]
    window = {"900": "15 min", "3600": "1 h"}[seconds]
    assert (cells[0], cells[1].split()[0], cells[2], cells[3]) == (one_network, of_it, address, window)
