"""Monthly statements: which form of them is asked for, and what they look like as CSV.

CSV is RFC 4180 in UTF-8: a header row, the opening balance, the lines, the closing balance. Amounts are integers in minor
units. Spreadsheets run what looks like a formula, so text that people have written gets a single quote in front of it.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from okane_common import api, models

# A line can take 3,700 bytes of a Lambda's answer (a note and a name of emoji, escaped twice), and Lambda takes six million.
MOST_LINES = 1000
CONTENT = {"application/json": {"model": models.Statement}, "text/csv": {"schema": {"type": "string"}}}
MonthInPath = Annotated[
    str,
    api.Path(pattern="^[1-9][0-9]{3}-(0[1-9]|1[0-2])$", description="A month of UTC, YYYY-MM"),
]
COLUMNS = (
    "row", "version", "at", "transaction_id", "kind", "direction", "stage", "status", "counterparty_handle",
    "counterparty_name", "counterparty_bank", "note", "currency", "available_change", "locked_change", "available_after",
    "locked_after",
)  # fmt: skip
COPIED = {
    "version", "at", "transaction_id", "kind", "direction", "stage", "status", "available_change", "locked_change",
    "available_after", "locked_after",
}  # fmt: skip
# What a spreadsheet takes for the beginning of a formula, at the beginning of a cell; a semicolon ends one in half the world.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")


def answer(statement: dict[str, Any], following: str | None, accept: str) -> api.Response[Any]:
    """A statement as the database gives it, or a part of one, in the form that `accept` asks for.

    following: the cursor of the next part, if there is one; in JSON next_cursor, with CSV the header OKANE-Next-Cursor.
    """
    if not wants_csv(accept):
        content = {**statement, "has_more": following is not None, "next_cursor": following}
        return api.answer(models.Statement, content)
    headers = {"Content-Disposition": f'attachment; filename="okane-{statement["currency"]}-{statement["month"]}.csv"'}
    if following is not None:
        headers["OKANE-Next-Cursor"] = following
    return api.answer_text("text/csv", as_csv(statement), headers=headers)


def wants_csv(accept: str) -> bool:
    """Whether a header Accept (RFC 9110) prefers text/csv to JSON: by its weight, then by being named more exactly."""
    ranges = [_range(one) for one in accept.split(",")]
    found, otherwise = _preference("text", "csv", ranges), _preference("application", "json", ranges)
    return found[0] > 0 and found > otherwise


def _range(text: str) -> tuple[str, float]:
    """A media range in lower case and its weight; 0 for a weight that is none."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((part.removeprefix("q=") for part in parameters if part.startswith("q=")), "1")
    return name, float(weight) if re.fullmatch(r"0(\.\d{0,3})?|1(\.0{0,3})?", weight, re.ASCII) else 0.0


def _preference(kind: str, form: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """The weight of a media type, by the range that names it most exactly, and how exactly that is."""
    names = ("*/*", f"{kind}/*", f"{kind}/{form}")
    found = [(names.index(name), weight) for name, weight in ranges if name in names]
    exactness, weight = max(found, default=(0, 0.0))
    return weight, exactness


def as_csv(statement: Mapping[str, Any]) -> str:
    """The text of a statement, `{"currency", "opening", "lines", "closing"}`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({**row, "currency": statement["currency"]} for row in _rows(statement))
    return text.getvalue()


def _rows(statement: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"row": "opening", **_balance(statement["opening"])}
    for line in statement["lines"]:
        other = {f"counterparty_{name}": harmless(value) for name, value in line["counterparty"].items()}
        copied = {name: value for name, value in line.items() if name in COPIED}
        yield {"row": "line", **copied, **other, "note": harmless(line["note"] or "")}
    yield {"row": "closing", **_balance(statement["closing"])}


def _balance(balance: Mapping[str, int]) -> dict[str, int]:
    return {
        "version": balance["version"],
        "available_after": balance["available"],
        "locked_after": balance["locked"],
    }


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula: a single quote stands before what one could begin with."""
    return _FORMULA.sub(r"\1'", text)
