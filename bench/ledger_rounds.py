"""Rounds of turns, and what comes of them: ratios within each round, medians over all."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bench.ledger_clients import Call, Connection, Turn, drive


class Aim(NamedTuple):
    """What a figure should be, and what it has to be: at least, or at most."""

    aim: float
    floor: float
    at_most: bool = False

    def verdict(self, found: float) -> str:
        """`met`, `missed`, or `past the floor`: worse than that."""
        sign = -1 if self.at_most else 1
        if sign * found >= sign * self.aim:
            return "met"
        return "missed" if sign * found >= sign * self.floor else "past the floor"


@dataclass(frozen=True)
class Pace:
    """How long to measure: rounds, and seconds of each lane in each; and where to say how far it is."""

    rounds: int
    seconds: float
    say: Callable[[str], None]
    warm_seconds: float = 0.5

    def at_least(self, seconds: float) -> "Pace":
        """The same, with lanes of that many seconds or more."""
        return replace(self, seconds=max(self.seconds, seconds))


@dataclass
class Lane:
    """One design under one load: who calls what."""

    design: str
    connections: list[Connection]
    call: Callable[[], Call]
    items: int = 1  # that a call moves
    after: Callable[[], object] | None = None  # work that the calls have put off, which is part of their round


@dataclass
class Group:
    """Lanes that take turns; in one round each has `slices` of them."""

    name: str
    lanes: dict[str, Lane]
    slices: int
    rounds: list[dict[str, Turn]] = field(default_factory=list)

    def measure(self, pace: Pace) -> None:
        """All rounds, after a short one that counts for nothing, in which plans and caches get warm."""
        self._round(pace.warm_seconds)
        for number in range(pace.rounds):
            turns = self._round(pace.seconds)
            self.rounds.append(turns)
            rates = ", ".join(f"{name} {turn.rate * self.lanes[name].items:,.0f}" for name, turn in turns.items())
            pace.say(f"ledger: {self.name}, round {number + 1} of {pace.rounds}: {rates} a second")

    def _round(self, seconds: float) -> dict[str, Turn]:
        turns = {name: Turn() for name in self.lanes}
        for _ in range(self.slices):
            for name, lane in self.lanes.items():
                calls = [lane.call] * len(lane.connections)
                turns[name] += drive(lane.connections, calls, seconds / self.slices)
        for name, lane in self.lanes.items():
            if lane.after is not None:
                started = time.perf_counter()
                lane.after()
                turns[name].seconds += time.perf_counter() - started
        return turns

    def ratios(self, one: str, other: str) -> list[float]:
        """How many times as much one lane moved as the other, round by round."""
        share = self.lanes[one].items / self.lanes[other].items
        return [share * turns[one].rate / turns[other].rate for turns in self.rounds]

    def times(self, one: str, other: str) -> list[float]:
        """How many times as long a call of one lane took as one of the other, by their medians, round by round."""
        return [statistics.median(turns[one].taken) / statistics.median(turns[other].taken) for turns in self.rounds]

    def tails(self, name: str) -> list[float]:
        """p99 as a multiple of p50, round by round."""
        return [percentile(turns[name].taken, 99) / percentile(turns[name].taken, 50) for turns in self.rounds]


def percentile(taken: list[float], percent: int) -> float:
    """The value below which so many of a hundred lie."""
    return sorted(taken)[int(len(taken) * percent / 100)]


def row_of(figure: str, aim: Aim | None, values: list[float], *designs: str) -> dict[str, Any]:
    """A figure with its verdict, where it has an aim; designs: whose books have to be right for it to count."""
    found = statistics.median(values)
    return {
        "figure": figure,
        "aim": aim and aim.aim,
        "floor": aim and aim.floor,
        "at_most": aim is not None and aim.at_most,
        "found": round(found, 3),
        "verdict": aim.verdict(found) if aim else "",
        "rounds": [round(value, 3) for value in values],
        "designs": list(designs),
    }


def loads_of(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """What each lane came to: items a second, and the times of its calls."""
    rows = []
    for group in groups:
        for name, lane in group.lanes.items():
            every = [taken for turns in group.rounds for taken in turns[name].taken]
            rows.append(
                {
                    "group": group.name,
                    "load": name,
                    "design": lane.design,
                    "clients": len(lane.connections),
                    "rate": round(statistics.median(turns[name].rate for turns in group.rounds) * lane.items),
                    "p50_ms": round(percentile(every, 50) * 1000, 3),
                    "p99_ms": round(percentile(every, 99) * 1000, 3),
                    "calls": len(every),
                }
            )
    return rows
