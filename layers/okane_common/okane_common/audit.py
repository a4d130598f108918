"""The audit: adds the books up again, slice by slice. It reads, and never repairs.

    full      everything; it may take several runs, and the mark keeps how far it is
    recent    what was made or completed since the last one, up to ten seconds ago

Each slice is one database call that sees one moment, so it is right while money moves; database/functions/85_audit.sql has
what it looks for. The end of an audit is a row in the table audits.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from okane_common import database

SLICE = 500  # rows of a slice: 30 ms from memory, and within a call's time also from a cold disk
RECENT_SLICE = 2000  # transfers of a slice of what is new, which is in memory: some 200 ms
SLICE_SECONDS = 4.0  # what one more slice may take; with less left, the next run goes on
KEPT = 100  # differences that are named; the others are counted
OVERLAP_SECONDS = 300  # how much of what is new the next look sees again: by then all arrivals have become entries
FULL_MARK = "audit_full"
RECENT_MARK = "audit_recent"

type Scope = Literal["recent", "full"]
STEPS: dict[str, tuple[str, ...]] = {
    "full": ("totals", "wallets", "entries", "transfers", "arrivals", "events", "batches"),
    "recent": ("totals", "arrivals", "recent"),
}


class Found(NamedTuple):
    """What an audit, or as much of it as there was time for, has found.

    checked: how many of what. total: of differences. differences: the first of them,
    `{"check", "wallet", "owner", "transfer", "said", "found"}`, amounts in minor units.
    """

    scope: str
    finished: bool
    checked: dict[str, int]
    total: int
    differences: list[dict[str, Any]]


def run_full(seconds_left: Callable[[], float], *, only_go_on: bool = False) -> Found | None:
    """Begin a full audit, or go on with the one that is under way, until it is done or the time is short.

    only_go_on: begin none. Returns None where nothing was to be done. Raises database.Unavailable.
    """
    state = database.call("read_mark", FULL_MARK)["value"]
    if state is None:
        if only_go_on:
            return None
        state = _begin("full", None)
    while state["steps"] and seconds_left() > SLICE_SECONDS:
        _look(state)
        database.call("save_mark", FULL_MARK, database.json(state))
    if not state["steps"]:
        _record(state)
        database.call("save_mark", FULL_MARK, database.json(None))
    return _found(state)


def run_recent(seconds_left: Callable[[], float]) -> Found:
    """Look at what is new, until all is seen or the time is short, and remember until when. Raises database.Unavailable."""
    mark = database.call("read_mark", RECENT_MARK)["value"]
    state = _begin("recent", mark)
    while state["steps"] and seconds_left() > SLICE_SECONDS:
        _look(state)
    reached = state["reached"]
    if reached and (mark is None or datetime.fromisoformat(reached) > datetime.fromisoformat(mark)):
        database.call("save_mark", RECENT_MARK, database.json(reached))
    _record(state)
    return _found(state)


def run_by_hand(scope: Scope) -> Found:
    """The same at one go, and without a mark: the audits on the schedule go on as if nothing had been.

    Raises database.Unavailable.
    """
    state = _begin(scope, database.call("read_mark", RECENT_MARK)["value"])
    while state["steps"]:
        _look(state)
    _record(state)
    return _found(state)


def _begin(scope: Scope, mark: str | None) -> dict[str, Any]:
    """mark: until when the last look at what is new has seen everything."""
    since = (datetime.fromisoformat(mark) - timedelta(seconds=OVERLAP_SECONDS)).isoformat() if mark else None
    return {
        "scope": scope,
        "started_at": datetime.now(UTC).isoformat(),
        "steps": list(STEPS[scope]),  # those that are left
        "after": None,  # where the first of them is
        "since": since,
        "reached": None,
        "checked": {},
        "count": 0,
        "differences": [],
    }


def _look(state: dict[str, Any]) -> None:
    """One slice more."""
    [step, *others] = state["steps"]
    after = state["after"]
    if step == "recent":
        after = after or {"since": state["since"], "until": None}
    found = _slice(step, after)
    for what, number in found["checked"].items():
        state["checked"][what] = state["checked"].get(what, 0) + number
    state["count"] += found["count"]
    state["differences"] = [*state["differences"], *found["differences"]][:KEPT]
    following = found["next"]
    if step == "recent":
        state["reached"] = following["since"]
        if following["since"] == following["until"]:
            following = None
    state["after"] = following
    if following is None:
        state["steps"] = others


def _slice(step: str, after: dict[str, Any] | None) -> dict[str, Any]:
    """-> `{"checked", "count", "differences", "next"}`"""
    position = database.json(after)
    match step:
        case "totals":
            return database.call("audit_totals")
        case "wallets":
            return database.call("audit_wallets", position, SLICE)
        case "entries":
            return database.call("audit_entries", position, SLICE)
        case "transfers":
            return database.call("audit_transfers", position, SLICE)
        case "arrivals":
            return database.call("audit_arrivals", position, SLICE)
        case "events":
            return database.call("audit_events", position, SLICE)
        case "batches":
            return database.call("audit_batches", position, SLICE)
        case "recent":
            return database.call("audit_recent", position, RECENT_SLICE)
    raise ValueError(step)


def _record(state: dict[str, Any]) -> None:
    checked = {**state["checked"], "differences": state["count"]}
    database.call(
        "record_audit",
        state["scope"],
        state["started_at"],
        database.json(checked),
        database.json(state["differences"]),
    )


def _found(state: dict[str, Any]) -> Found:
    return Found(state["scope"], not state["steps"], state["checked"], state["count"], state["differences"])
