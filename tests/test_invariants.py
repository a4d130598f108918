"""Random traffic from sixteen threads through HTTP, and a model in plain Python that listens to the answers.

Everybody pays everybody, deposits come in through webhooks that a real signer signs, and everything is said twice: at the
same moment, later, with another meaning. What the answers come to is compared with the tables and with what the API
then says, and the audit adds the books up again. OKANE_SEED repeats a run's choices (its timing is its own).
"""

import json
import os
import random
import secrets
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from standardwebhooks import Webhook

from okane_common import ids
from tests.support.api import Api, Person
from tests.support.books import DEPOSIT, check_books
from tests.support.platform import Database

THREADS = 16
PEOPLE = 5
STEPS = 12  # of each thread; a step is one to six requests
START_AMOUNT = 2000
MOST_AMOUNT = 900  # so that some transfers cannot be paid
BANKS = ("hdfc", "axis", "icici")
RETRIES = 5  # of a request that was told to come again


class Move(NamedTuple):
    """A transaction as its answers told of it; people by id."""

    kind: str
    payer: str  # empty for a bank
    payee: str
    amount: int
    status: str


class Request(NamedTuple):
    """A POST that moves money, and what it must come to."""

    person: Person
    path: str
    key: str
    body: dict[str, Any]


@dataclass
class Model:
    """What all answers so far come to."""

    people: list[Person]
    balances: Counter[str] = field(default_factory=Counter)
    moves: dict[str, Move] = field(default_factory=dict)
    answered: list[tuple[Request, str]] = field(default_factory=list)  # with the transaction's id
    delivered: list[tuple[str, dict[str, str], str]] = field(default_factory=list)  # bank, headers, body
    reads: list[tuple[str, int, int]] = field(default_factory=list)  # person, version, available
    lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, name: str, move: Move) -> None:
        """Count a transaction that an answer told of; the same again changes nothing, and an end stays."""
        with self.lock:
            known = self.moves.get(name)
            if known is None or known.status == "Processing":
                assert known is None or known == move._replace(status="Processing")
                self.moves[name] = move
                if move.status == "Success":
                    self.balances[move.payer] -= move.amount
                    self.balances[move.payee] += move.amount
            else:
                assert move in (known, known._replace(status="Processing")), (known, move)

    def of(self, person: Person) -> dict[str, Move]:
        """What this person's history must list: all but what others could not pay them."""
        return {
            name: move
            for name, move in self.moves.items()
            if move.payer == person.id or (move.payee == person.id and not (move.payer and move.status == "Failure"))
        }


class Walker:
    """One thread's random walk."""

    def __init__(self, api: Api, model: Model, twins: ThreadPoolExecutor, seed: int) -> None:
        self.api = api
        self.model = model
        self.twins = twins
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()  # newest version of each wallet that this walker was told of

    def walk(self, steps: int) -> None:
        """Take random steps."""
        choices: list[tuple[Callable[[], None], int]] = [
            (self.pay, 6),
            (self.deposit, 4),
            (self.repeat, 4),
            (self.repeat_event, 2),
            (self.reuse_key, 1),
            (self.read, 2),
        ]
        for _ in range(steps):
            [step] = self.random.choices([step for step, _ in choices], [weight for _, weight in choices])
            step()

    def pay(self) -> None:
        """A transfer, once or twice at the same moment; it is paid or recorded as refused."""
        payer, payee = self.random.sample(self.model.people, 2)
        amount = self.random.randint(1, MOST_AMOUNT)
        body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
        request = Request(payer, "/v1/transfers", f"pay-{secrets.token_hex(8)}", body)
        answers = self.send(request, self.random.choice((1, 1, 2)))
        [name] = {
            self.understand(request, answer, Move("transfer", payer.id, payee.id, amount, "")) for answer in answers
        }
        with self.model.lock:
            self.model.answered.append((request, name))

    def deposit(self) -> None:
        """An intent, and what a bank may make of it. Each story: the events in turn, and what becomes of each."""
        payee, bank = self.random.choice(self.model.people), self.random.choice(BANKS)
        amount, key = self.random.randint(1, MOST_AMOUNT), f"deposit-{secrets.token_hex(8)}"
        request = Request(payee, "/v1/wallets/INR/deposits", key, {"amount": amount, "bank": bank})
        name = str(ids.transfer_id(uuid.UUID(payee.id), DEPOSIT, key))
        stories = [
            ["paid", "twins", "said again", "declined late"],
            ["paid", "said again", "paid again"],
            ["declined", "paid late"],
            ["wrong amount", "wrong currency", "paid"],
            ["early", "twins", "said again"],
            ["paid", "other body"],
            [],
        ]
        story = self.random.choice(stories)
        teller = Teller(self, bank, name, amount)
        if "early" in story:
            teller.tell("early")
        [opened, *_] = answers = self.send(request, self.random.choice((1, 1, 2)))
        move = Move("deposit", "", payee.id, amount, "")
        assert {self.understand(request, answer, move) for answer in answers} == {name}
        assert opened.json()["status"] == ("Success" if "early" in story else "Processing")
        for event in story:
            if event != "early":
                teller.tell(event)
        for ended, status in (("paid", "Success"), ("declined", "Failure")):
            if ended in story:
                self.model.learn(name, move._replace(status=status))
        with self.model.lock:
            self.model.answered.append((request, name))

    def repeat(self) -> None:
        """Any request that anybody has an answer to: the same transaction again."""
        if not (known := self.random_of(self.model.answered)):
            return
        request, name = known
        [answer] = self.send(request, 1)
        assert answer.headers.get("idempotent-replayed") == "true"
        assert name == (answer.json().get("transaction_id") or answer.json()["id"])

    def repeat_event(self) -> None:
        """Any event that was delivered: a duplicate."""
        if known := self.random_of(self.model.delivered):
            assert self.deliver(*known) == (200, "duplicate")

    def reuse_key(self) -> None:
        """A known key with another request."""
        if known := self.random_of(self.model.answered):
            request, _ = known
            other = request._replace(body=request.body | {"amount": request.body["amount"] + 1})
            [answer] = self.send(other, 1)
            assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")

    def read(self) -> None:
        """A balance, never older than what this walker was told of; looked up in the entries at the end."""
        person = self.random.choice(self.model.people)
        path = f"/v1/wallets/INR?min_version={self.seen[person.id]}"
        answer = self.api.call("GET", path, token=person.token)
        assert answer.status_code == 200, answer.text
        wallet = answer.json()
        assert wallet["version"] >= self.seen[person.id]
        assert wallet["total"] == wallet["available"]
        self.seen[person.id] = wallet["version"]
        with self.model.lock:
            self.model.reads.append((person.id, wallet["version"], wallet["available"]))

    def random_of[Known](self, known: list[Known]) -> Known | None:
        """One of what all walkers have left so far."""
        with self.model.lock:
            return self.random.choice(known) if known else None

    def send(self, request: Request, times: int) -> list[httpx.Response]:
        """The same request so many times at once. All get the same answer, and at most one is not a replay."""
        answers = list(self.twins.map(self.once, [request] * times))
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) <= 1 or times == 1
        return answers

    def once(self, request: Request) -> httpx.Response:
        """One request; told to come again, it does."""
        for _ in range(RETRIES):
            path, token = request.path, request.person.token
            answer = self.api.call("POST", path, json=request.body, token=token, key=request.key)
            if answer.status_code != 503:
                return answer
        raise AssertionError(f"five times {answer.text}")

    def understand(self, request: Request, answer: httpx.Response, move: Move) -> str:
        """Check that the answer is a plausible one to this request, tell the model, and return the transaction's id."""
        said = answer.json()
        if answer.status_code == 422 and move.kind == "transfer":
            assert said["code"] == "insufficient_funds", said
            self.model.learn(said["transaction_id"], move._replace(status="Failure"))
            return str(said["transaction_id"])
        assert answer.status_code == 201, answer.text
        assert (said["kind"], said["amount"], said["currency"]) == (move.kind, move.amount, "INR")
        assert said["direction"] == ("out" if move.payer else "in")
        assert said["status"] in (("Success",) if move.payer else ("Success", "Processing"))
        assert said["counterparty"].get("handle", said["counterparty"].get("bank")) == (
            request.body["to"].removeprefix("@") if move.payer else request.body["bank"]
        )
        assert said["balance_after"] >= 0
        self.seen[request.person.id] = max(self.seen[request.person.id], said["wallet_version"])
        self.model.learn(said["id"], move._replace(status=said["status"]))
        return str(said["id"])

    def deliver(self, bank: str, headers: dict[str, str], body: str) -> tuple[int, str]:
        """One delivery of an event: the status, and the answer's status or code."""
        for _ in range(RETRIES):
            answer = self.api.call("POST", f"/v1/webhooks/bank/{bank}", content=body, headers=headers)
            if answer.status_code != 503:
                return answer.status_code, answer.json()["status" if answer.status_code == 200 else "code"]
        raise AssertionError(f"five times {answer.text}")


class Teller:
    """A bank that has something to say about one deposit."""

    def __init__(self, walker: Walker, bank: str, name: str, amount: int) -> None:
        self.walker = walker
        self.bank = bank
        self.name = name
        self.amount = amount
        self.bank_reference = f"ref-{secrets.token_hex(8)}"
        self.last: tuple[str, dict[str, str], str] | None = None
        self.signer = Webhook(walker.api.endpoints.bank_secrets[bank][0])

    def tell(self, event: str) -> None:
        """Deliver the event of a story, and check what becomes of it."""
        fresh = f"ref-{secrets.token_hex(8)}"
        match event:
            case "paid":
                self.say("deposit.succeeded", {"processed": 1})
            case "early":
                self.say("deposit.succeeded", {"parked": 1})
            case "declined":
                self.say("deposit.failed", {"processed": 1})
            case "twins":  # what was said before, twice at once
                assert self.last
                answers = self.walker.twins.map(self.walker.deliver, *zip(*[self.last] * 2, strict=True))
                assert list(answers) == [(200, "duplicate")] * 2
            case "said again":
                self.say("deposit.succeeded", {"duplicate": 1})
            case "paid again":
                self.say("deposit.succeeded", {"quarantined": 1}, bank_reference=fresh)
            case "paid late":
                self.say("deposit.succeeded", {"quarantined": 1})
            case "declined late":
                self.say("deposit.failed", {"duplicate": 1}, bank_reference=fresh)
            case "wrong amount":
                self.say("deposit.succeeded", {"quarantined": 1}, bank_reference=fresh, amount=self.amount + 1)
            case "wrong currency":
                self.say("deposit.succeeded", {"quarantined": 1}, bank_reference=fresh, currency="USD")
            case "other body":
                assert self.last
                bank, headers, body = self.last
                other = body.replace('"INR"', '"INR" ')
                signed = self.headers(headers["webhook-id"], other)
                assert self.walker.deliver(bank, signed, other) == (409, "event_conflict")

    def say(self, kind: str, expected: dict[str, int], **data: object) -> None:
        """A new event, delivered once, or twice at the same moment: then one of the two is a duplicate."""
        about = {
            "reference": self.name,
            "bank_reference": self.bank_reference,
            "amount": self.amount,
            "currency": "INR",
        }
        body = json.dumps({"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": about | data})
        self.last = (self.bank, self.headers(f"msg_{secrets.token_hex(12)}", body), body)
        times = self.walker.random.choice((1, 1, 2))
        answers = Counter(self.walker.twins.map(self.walker.deliver, *zip(*[self.last] * times, strict=True)))
        assert answers == Counter({(200, status): 1 for status in expected}) + Counter({(200, "duplicate"): times - 1})
        with self.walker.model.lock:
            self.walker.model.delivered.append(self.last)

    def headers(self, name: str, body: str) -> dict[str, str]:
        """The signed headers of an event."""
        now = datetime.now(UTC)
        signature = self.signer.sign(name, now, body)
        stamp = str(int(now.timestamp()))
        return {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}


@pytest.fixture(scope="module")
def walked(api: Api) -> Model:
    """The model after everybody has walked."""
    seed = int(os.environ.get("OKANE_SEED") or random.randrange(2**32))
    model = Model([api.sign_up(name) for name in ("asha", "ravi", "asha", "ravi", "zoe")[:PEOPLE]])
    for person in model.people:
        deposited = api.deposit(person, START_AMOUNT)
        model.learn(deposited["id"], Move("deposit", "", person.id, START_AMOUNT, "Success"))
    with ThreadPoolExecutor(2 * THREADS) as twins, ThreadPoolExecutor(THREADS) as threads:
        walkers = [Walker(api, model, twins, seed + number) for number in range(THREADS)]
        try:
            list(threads.map(lambda walker: walker.walk(STEPS), walkers))
        except BaseException as error:
            error.add_note(f"OKANE_SEED={seed}")
            raise
    return model


def histories(api: Api, person: Person, version: int) -> list[dict[str, Any]]:
    """The whole history through the API, newest first."""
    path, found = f"/v1/wallets/INR/transactions?limit=100&min_version={version}", []
    page: dict[str, Any] = {"next_cursor": None, "has_more": True}
    while page["has_more"]:
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        page = api.call("GET", path + cursor, token=person.token).json()
        found += page["data"]
    return found


def test_books_are_right(walked: Model, database: Database) -> None:
    assert check_books(database.url) == []


def test_wallets_are_what_the_model_says(walked: Model, api: Api, database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        kept = owner.execute(
            "SELECT person_id, available, version FROM okane.wallets WHERE person_id IS NOT NULL"
        ).fetchall()
    assert {str(person): available for person, available, _ in kept} == {
        person.id: walked.balances[person.id] for person in walked.people
    }
    versions = {str(person): version for person, _, version in kept}
    for person in walked.people:
        read = api.call("GET", f"/v1/wallets/INR?min_version={versions[person.id]}", token=person.token).json()
        expected = walked.balances[person.id]
        assert (read["available"], read["locked"], read["version"]) == (expected, 0, versions[person.id])
        listed = histories(api, person, versions[person.id])
        ways = {one["id"]: (one["kind"], one["amount"], one["status"]) for one in listed}
        assert ways == {name: (move.kind, move.amount, move.status) for name, move in walked.of(person).items()}


def test_every_balance_follows_from_the_one_before(walked: Model, api: Api) -> None:
    """And a refusal for lack of money came when there was a lack of money."""
    for person in walked.people:
        balance = 0
        ended = [one for one in histories(api, person, 0) if one["status"] != "Processing"]
        for one in sorted(ended, key=lambda one: int(one["wallet_version"])):
            if one["status"] == "Success":
                balance += one["amount"] if one["direction"] == "in" else -one["amount"]
            elif one["kind"] == "transfer":
                assert one["amount"] > balance
            assert one["balance_after"] == balance >= 0
        assert balance == walked.balances[person.id]


def test_every_balance_that_was_shown_was_true(walked: Model, database: Database) -> None:
    question = (
        "SELECT person_id, seq, available_after FROM okane.entries JOIN okane.wallets ON id = wallet_id"
        " WHERE person_id IS NOT NULL"
    )
    with psycopg.connect(database.url) as owner:
        true = {(str(person), seq, available) for person, seq, available in owner.execute(question).fetchall()}
    assert walked.reads
    assert set(walked.reads) <= true


def test_nothing_deadlocked_and_something_happened(walked: Model, database: Database) -> None:
    with psycopg.connect(database.url) as owner:
        counted = owner.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert counted == (0,)
    kinds = Counter((move.kind, move.status) for move in walked.moves.values())
    assert kinds.keys() >= {("transfer", "Success"), ("deposit", "Success")}, kinds
