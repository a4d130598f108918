"""Twenty at the same moment: threads of one client, or of a connection each, and what their answers come to."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.books import Ledger

CROWD = 20
ROUNDS = 15  # in the database, where a round takes milliseconds


@contextmanager
def crowd_of_ledgers(app_url: str) -> Iterator[list[Ledger]]:
    """Twenty connections of the application."""
    ledgers = [Ledger(app_url) for _ in range(CROWD)]
    yield ledgers
    for ledger in ledgers:
        ledger.connection.close()


def at_once[Found](action: Callable[[int], Found]) -> list[Found]:
    """Run it twenty times at the same moment, with the numbers 0 to 19."""
    together = threading.Barrier(CROWD)

    def one(number: int) -> Found:
        together.wait(60)
        return action(number)

    with ThreadPoolExecutor(CROWD) as threads:
        return list(threads.map(one, range(CROWD)))


def in_rounds(crowd: list[Ledger], action: Callable[[Ledger, int, int], Any], rounds: int = ROUNDS) -> list[list[Any]]:
    """Run it twenty times at the same moment, on a connection each, round after round; the answers by round."""
    together = threading.Barrier(CROWD)

    def one(number: int) -> list[Any]:
        found = []
        try:
            for turn in range(rounds):
                together.wait(60)
                found.append(action(crowd[number], number, turn))
        except BaseException:
            together.abort()  # the others would wait for this one
            raise
        return found

    with ThreadPoolExecutor(CROWD) as threads:
        return [list(answers) for answers in zip(*threads.map(one, range(CROWD)), strict=True)]


def fates(answers: list[dict[str, Any]]) -> Counter[str]:
    """How many were made, replayed, refused; a recorded refusal by its code."""
    found: Counter[str] = Counter()
    for answer in answers:
        failure = answer["transaction"]["failure"] if "transaction" in answer else None
        found[failure["code"] if failure and answer["outcome"] == "made" else answer["outcome"]] += 1
    return found


def outcome(answer: httpx.Response) -> tuple[int, str]:
    """The status, with the code of a problem and "replayed" where it is one."""
    replayed = " replayed" if "idempotent-replayed" in answer.headers else ""
    problem = answer.json()["code"] if "problem" in answer.headers["content-type"] else ""
    return answer.status_code, f"{problem}{replayed}".strip()
