"""Known against unknown addresses at the doors that strangers may try: the same status and words, and how long each takes.

A known and an unknown address take turns, each first as often as the other. The client is in a network that nobody has signed in
from, and the budgets are emptied between rounds. Beside the ratio of the medians stand those of two halves of the same kind:
what the machine makes of two things that are the same.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.people import sign_up
from bench.stand import Stand

STRANGER = "127.0.0.2"  # the people have signed up from 127.0.0.1
ADDRESSES = 10  # of each kind
TURNS = 3  # of each address in a round
KINDS = ("known", "unknown")
# Of each door its route, what a try says beside the e-mail, and a letter for its unknown addresses. forgot and reset share
# theirs: whoever looks for people can ask for a code for either kind of address before trying one.
DOORS = {
    "login": ("/v1/auth/login", {"password": "not the password"}, "l"),
    "register": ("/v1/auth/register", {"password": "some-pass-1", "name": "Asha"}, "r"),
    "forgot": ("/v1/auth/password/forgot", {}, "f"),
    "reset": ("/v1/auth/password/reset", {"code": "000000", "new_password": "some-pass-1"}, "f"),
}

type Samples = dict[str, list[float]]  # seconds, by kind


class Client:
    """One keep-alive connection out of the stranger's network."""

    def __init__(self, stand: Stand) -> None:
        host = urlsplit(stand.api).netloc
        self._connection = http.client.HTTPConnection(host, timeout=30, source_address=(STRANGER, 0))

    def close(self) -> None:
        self._connection.close()

    def tried(self, path: str, body: dict[str, str]) -> tuple[float, tuple[int, list[str], Any]]:
        """The seconds that a try took, and what was said: the status, the names of the headers, and the body."""
        content = json.dumps(body).encode()
        started = time.perf_counter()
        self._connection.request("POST", path, content, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        said = answer.read()
        taken = time.perf_counter() - started
        names = sorted(name.lower() for name in answer.headers)
        return taken, (answer.status, names, json.loads(said) | {"request_id": ""})


def measure(stand: Stand, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each door. RuntimeError where an answer tells a known address from an unknown one, or is no answer to a try."""
    known = people(stand)
    found: dict[str, Samples] = {door: {kind: [] for kind in KINDS} for door in DOORS}
    with closing(Client(stand)) as client:
        for door in DOORS:  # starts the workers, and imports what they import late
            _round(stand, client, door, known)
        for number in range(rounds):
            for door, samples in found.items():
                for kind, taken in _round(stand, client, door, known).items():
                    samples[kind] += taken
            say(f"doors: round {number + 1} of {rounds}")
    return [_row(door, samples) for door, samples in found.items()]


def people(stand: Stand) -> list[str]:
    """The e-mail addresses of people who have just signed up."""
    for _ in range(ADDRESSES):
        sign_up(stand)
    with psycopg.connect(stand.database_url) as owner:
        rows = owner.execute("SELECT email FROM okane.people ORDER BY created_at DESC LIMIT %s", [ADDRESSES])
        return [row[0] for row in rows]


def _round(stand: Stand, client: Client, door: str, known: list[str]) -> Samples:
    with psycopg.connect(stand.database_url) as owner:
        owner.execute("DELETE FROM okane.budgets")
    path, proof, letter = DOORS[door]
    samples: Samples = {kind: [] for kind in KINDS}
    for number, email in enumerate(known * TURNS):
        pair = (("known", email), ("unknown", letter + email[1:]))
        said = []
        for kind, tried in pair if number % 2 else reversed(pair):
            taken, answer = client.tried(path, {"email": tried} | proof)
            samples[kind].append(taken)
            said.append(answer)
        if said[0] != said[1] or said[0][0] not in (202, 401):
            raise RuntimeError(f"{door}: {said[0]} and {said[1]}")
    return samples


def _row(door: str, samples: Samples) -> dict[str, Any]:
    medians = {kind: statistics.median(taken) for kind, taken in samples.items()}
    return {
        "door": door,
        "known_ms": round(medians["known"] * 1000, 3),
        "unknown_ms": round(medians["unknown"] * 1000, 3),
        "ratio": round(medians["known"] / medians["unknown"], 4),
        "noise": {kind: round(_halves(taken), 4) for kind, taken in samples.items()},
        "tries": len(samples["known"]),
    }


def _halves(taken: list[float]) -> float:
    """The ratio of the medians of every other two, so that in both halves each kind has been first as often."""
    halves = [[seconds for at, seconds in enumerate(taken) if at // 2 % 2 == half] for half in (0, 1)]
    return statistics.median(halves[0]) / statistics.median(halves[1])
