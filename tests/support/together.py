"""Steps side by side: several threads take them on Postgres, and a search finds the order in which they can have happened.

Every call happens at one moment between its beginning and its answer. So there must be an order of all calls in which no call
comes after one that began when it had ended already, in which the model gives every answer that was given, and after which
it has what the tables have. Each thread's calls are in order, so what is searched is how they interleave.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

from tests.support.books import Ledger
from tests.support.model import Model
from tests.support.model_state import Answer
from tests.support.steps import Example, Step, difference, expected

# Answers that were had without the wallets' locks: what they say of balances is of another moment than the rest.
UNLOCKED = ("replayed", "parked", "quarantined", "duplicate")


class Call(NamedTuple):
    """One step as it was taken, between two moments of this machine's clock."""

    step: Step
    began: float
    ended: float
    answer: Answer


def take(example: Example, ledgers: Sequence[Ledger], plan: Sequence[Step]) -> list[list[Call]]:
    """Deal the plan out to one thread for each connection, and take it. Returns each thread's calls in order."""
    together = threading.Barrier(len(ledgers))

    def one(number: int) -> list[Call]:
        calls = []
        together.wait(60)
        for step in plan[number :: len(ledgers)]:
            began = time.monotonic()
            answer = example.perform(ledgers[number], step)
            calls.append(Call(step, began, time.monotonic(), answer))
        return calls

    with ThreadPoolExecutor(len(ledgers)) as threads:
        return list(threads.map(one, range(len(ledgers))))


class Search:
    """For an order of the calls that explains all answers and what is stored."""

    def __init__(self, example: Example, threads: Sequence[Sequence[Call]]) -> None:
        self._threads = threads
        self._stored = example.stored()
        self._expired = example.expired()
        self._tried: set[tuple[tuple[int, ...], str]] = set()
        self._furthest = -1
        self.why = ""

    def explain(self, model: Model) -> bool:
        """Whether there is such an order from here on; `why` tells where the longest one ends."""
        return self._go_on(model, (0,) * len(self._threads))

    def _go_on(self, model: Model, done: tuple[int, ...]) -> bool:
        waiting = [calls[taken] for calls, taken in zip(self._threads, done, strict=True) if taken < len(calls)]
        if not waiting:
            differs = difference(self._stored, expected(model))
            self._note(sum(done) + 1, f"all calls can be put into an order, but the tables have\n{differs}")
            return not differs
        if (reached := (done, state(model))) in self._tried:
            return False
        self._tried.add(reached)
        first_end = min(call.ended for call in waiting)
        whys = []
        for number in sorted(range(len(done)), key=lambda number: self._end(number, done)):
            call = self._next(number, done)
            if call is None or call.began > first_end:
                continue
            after = (*done[:number], done[number] + 1, *done[number + 1 :])
            for then, predicted in self._predictions(model, call):
                if differs := difference(comparable(call.answer), comparable(predicted)):
                    whys.append(f"{call.step} was answered otherwise:\n{differs}")
                elif then == model:  # it changes nothing, so it stands in nobody's way here
                    return self._go_on(then, after)
                elif self._go_on(then, after):
                    return True
        self._note(sum(done), "none of these can have been next:\n" + "\n".join(whys))
        return False

    def _next(self, number: int, done: tuple[int, ...]) -> Call | None:
        calls = self._threads[number]
        return calls[done[number]] if done[number] < len(calls) else None

    def _end(self, number: int, done: tuple[int, ...]) -> float:
        call = self._next(number, done)
        return call.ended if call else float("inf")

    def _predictions(self, model: Model, call: Call) -> Iterator[tuple[Model, Answer]]:
        """What the call does; a sweep leaves out what others touch: any holds of whom it changed may have ended."""
        choices: list[dict[str, object]] = [{}]
        if call.step.action == "sweep":
            known = [model.transfers[name] for name in self._expired if name in model.transfers]
            theirs = [t.name for t in known if not t.code and {t.payer, t.payee} <= call.answer["changed"].keys()]
            choices = [{"releasing": names} for names in combinations(theirs, call.answer["released"])]
        for choice in choices:
            then = model.copy()
            yield then, call.step.predict(then, **choice)

    def _note(self, placed: int, why: str) -> None:
        if placed > self._furthest:
            self._furthest, self.why = placed, f"After {placed} calls, {why}"


def comparable(answer: Answer) -> Answer:
    """An answer without what need not be of the same moment as the rest: what a look at a receiving wallet says of it. What
    has arrived while a payment of its owner is under way can be seen, and is not in the balance that the payment goes by.
    """
    unlocked = {"changed"} if answer["outcome"] in UNLOCKED else {"wallet"} if answer.get("keep") is False else set()
    return {name: value for name, value in answer.items() if name not in unlocked}


def state(model: Model) -> str:
    """What a model has, however it came about: only what banks say of the same thing has an order."""
    told: dict[object, list[str]] = {}
    for message, event in model.events.items():
        told.setdefault(event.reference, []).append(message)
        told.setdefault(event.bank_reference, []).append(message)
    parts = [value for value in vars(model).values() if isinstance(value, dict)]
    return repr([sorted(map(repr, part.items())) for part in [*parts, told]])
