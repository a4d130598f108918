"""Servers and workers that die, hang and lose answers in the middle of a request: no money is lost, made or moved twice.

This module has a Postgres and a Valkey of its own to kill, whatever DATABASE_URL and REDIS_URL say. Between the functions
and Postgres stands a door that can lose what passes it.
"""

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from standardwebhooks import Webhook

from local.postgres import Postgres
from local.valkey import Valkey
from tests.support.api import Api, Person
from tests.support.books import check_books
from tests.support.door import Door
from tests.support.platform import (
    Platform,
    descendants,
    empty_redis,
    start_platform,
    stop_platform,
    wait_for_endpoints,
)

DEADLINE_SECONDS = 10.0  # product.md: the request as a whole
PATIENCE_SECONDS = 60.0  # of a test with everything
PASSWORD = "only-for-this-module"
SENDERS = 6  # of the load; the platform has eight workers for each function
ANSWERS = 12  # of the load before and after each fault


@dataclass
class Servers:
    """The servers to hurt. Their ports stay what they are."""

    folder: Path
    postgres: Postgres
    valkey: Valkey

    @property
    def url(self) -> str:
        """The owner's, not through the door."""
        return self.postgres.url()

    def kill_postgres(self) -> None:
        """As a power cut would: every process of it, at once."""
        signal_all([self.postgres.pid, *descendants(self.postgres.pid)], signal.SIGKILL)
        self.postgres.process.wait()

    def start_postgres(self) -> None:
        """The same cluster again, with its crash recovery."""
        self.postgres = Postgres.start(self.folder / "postgres", password=PASSWORD, port=self.postgres.port)

    def kill_valkey(self) -> None:
        """And what it held."""
        self.valkey.process.kill()
        self.valkey.process.wait()

    def start_valkey(self) -> None:
        """An empty one in its place."""
        self.valkey = Valkey.start(self.folder / "valkey", password=PASSWORD, port=self.valkey.port)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A Postgres and a Valkey for this module alone."""
    folder = tmp_path_factory.mktemp("faults")
    valkey = Valkey.start(folder / "valkey", password=PASSWORD)
    try:
        running = Servers(folder, Postgres.start(folder / "postgres", password=PASSWORD), valkey)
        yield running
        running.postgres.stop()
        valkey = running.valkey
    finally:
        valkey.stop()


@pytest.fixture(scope="module")
def door(servers: Servers) -> Iterator[Door]:
    """The way to Postgres."""
    door = Door(servers.postgres.port)
    yield door
    door.close()


@pytest.fixture(scope="module")
def platform(servers: Servers, door: Door) -> Iterator[Platform]:
    """`up` with these servers, Postgres behind the door."""
    state = servers.folder / "state"
    url = servers.url.replace(f":{servers.postgres.port}/", f":{door.port}/")
    process = start_platform(state, "--no-people", "--no-schedule", DATABASE_URL=url, REDIS_URL=servers.valkey.url)
    try:
        yield Platform(wait_for_endpoints(state, process), process.pid, state)
    finally:
        stop_platform(process)


@pytest.fixture(scope="module")
def people(api: Api) -> list[Person]:
    """Four people with money."""
    with ThreadPoolExecutor(4) as threads:
        people = list(threads.map(api.sign_up, ("asha", "ravi", "asha", "ravi")))
    for person in people:
        api.deposit(person, 1_000_000)
    return people


@pytest.fixture(autouse=True)
def sound_books(servers: Servers, platform: Platform) -> Iterator[None]:
    """After every fault the books add up."""
    yield
    assert check_books(servers.url) == []


def send(api: Api, payer: Person, payee: Person, key: str, amount: int = 10) -> httpx.Response:
    """POST /v1/transfers; whatever happens, there is an answer in time."""
    body = {"to": f"@{payee.handle}", "amount": amount, "currency": "INR"}
    began = time.monotonic()
    answer = api.call("POST", "/v1/transfers", json=body, token=payer.token, key=key)
    assert time.monotonic() - began < DEADLINE_SECONDS
    return answer


def is_unavailable(answer: httpx.Response) -> bool:
    """Whether it is the contract's 503, which says when to come again."""
    if answer.status_code != 503:
        return False
    problem = answer.json()
    assert (problem.get("code"), problem.get("retryable")) == ("unavailable", True), problem
    assert int(answer.headers["retry-after"]) > 0
    return True


def available(servers: Servers, person: Person) -> int:
    """What the tables say."""
    with psycopg.connect(servers.url) as owner:
        rows = owner.execute("SELECT available FROM okane.wallets WHERE person_id = %s", [person.id]).fetchall()
    ((found,),) = rows
    return int(found)


# One request


def test_worker_killed_in_mid_request(api: Api, platform: Platform, servers: Servers, people: list[Person]) -> None:
    asha, ravi, *_ = people
    before = available(servers, asha)
    with ThreadPoolExecutor(1) as threads, psycopg.connect(servers.url) as owner:
        owner.execute("SELECT FROM okane.wallets WHERE person_id = %s FOR UPDATE", [asha.id])
        answer = threads.submit(send, api, asha, ravi, "key-killed")
        wait_until(lambda: waiting(servers), answer)
        signal_all(workers(platform, "transfer"), signal.SIGKILL)
        assert (answer.result().status_code, answer.result().json()) == (500, {"message": "Internal Server Error"})
        owner.rollback()
    # Whether the statement outlived its worker or not, the same key tells.
    assert send(api, asha, ravi, "key-killed").status_code == 201
    assert send(api, asha, ravi, "key-killed").headers["idempotent-replayed"] == "true"
    assert available(servers, asha) == before - 10


def waiting(servers: Servers) -> bool:
    """Whether one of the functions' statements waits for a lock."""
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'okane' AND wait_event_type = 'Lock'"
    with psycopg.connect(servers.url) as owner:
        rows = owner.execute(question.encode()).fetchall()
    return rows != [(0,)]


def workers(platform: Platform, function: str) -> list[int]:
    """The processes of a function, by where they work."""
    found = []
    for pid in descendants(platform.pid):
        try:
            folder = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            continue  # it has just ended
        if folder.name == function:
            found.append(pid)
    assert found
    return found


def wait_until(true: Callable[[], bool], unless: "Future[Any] | None" = None) -> None:
    """Ask until it is true; fails when `unless` is over before, or after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert unless is None or not unless.done(), unless and unless.result()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("committed", [True, False])
def test_transfer_whose_connection_breaks(
    api: Api, servers: Servers, door: Door, people: list[Person], committed: bool
) -> None:
    """Between commit and answer, or before the statement arrives: 503, and the same key tells which it was."""
    asha, ravi, *_ = people
    before, key = available(servers, asha), f"key-{secrets.token_hex(8)}"
    send(api, asha, ravi, f"{key}-warm", 1)
    door.lose("make_transfer", question=not committed)
    assert is_unavailable(send(api, asha, ravi, key))
    assert door.lost()
    assert available(servers, asha) == before - 1 - (10 if committed else 0)
    again = send(api, asha, ravi, key)
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (201, "true" if committed else None)
    assert available(servers, asha) == before - 11


@pytest.mark.parametrize("committed", [True, False])
def test_deposit_whose_connections_break(
    api: Api, servers: Servers, door: Door, people: list[Person], committed: bool
) -> None:
    """The intent's, then the event's: the bank, told 503, says it again and is heard once."""
    asha, *_ = people
    before = available(servers, asha)
    key = f"key-{secrets.token_hex(8)}"

    def ask() -> httpx.Response:
        body = {"amount": 70, "bank": "hdfc"}
        return api.call("POST", "/v1/wallets/INR/deposits", json=body, token=asha.token, key=key)

    door.lose("open_deposit", question=not committed)
    assert is_unavailable(ask())
    assert door.lost()
    opened = ask()
    assert (opened.status_code, opened.headers.get("idempotent-replayed")) == (201, "true" if committed else None)

    about = {"reference": opened.json()["id"], "bank_reference": secrets.token_hex(8), "amount": 70, "currency": "INR"}
    now, name = datetime.now(UTC), f"msg_{secrets.token_hex(8)}"
    body = json.dumps({"type": "deposit.succeeded", "timestamp": now.isoformat(), "data": about})
    signature = Webhook(api.endpoints.bank_secrets["hdfc"][0]).sign(name, now, body)
    headers = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    door.lose("receive_bank_event", question=not committed)
    assert is_unavailable(api.call("POST", "/v1/webhooks/bank/hdfc", content=body, headers=headers))
    assert door.lost()
    again = api.call("POST", "/v1/webhooks/bank/hdfc", content=body, headers=headers)
    assert (again.status_code, again.json()) == (200, {"status": "duplicate" if committed else "processed"})
    assert available(servers, asha) == before + 70


# Under load


class Sent(NamedTuple):
    """A transfer that was sent until it was answered."""

    payer: Person
    payee: Person
    key: str
    amount: int
    unavailable: int  # how often it was told to come again
    answer: dict[str, Any]  # the transaction


@dataclass
class Load:
    """Transfers that go on around everybody, each sent with its key until it is answered."""

    api: Api
    people: list[Person]
    done: list[Sent] = field(default_factory=list)
    refused: int = 0  # answers so far that said to come again
    over: bool = False
    senders: "list[Future[None]]" = field(default_factory=list)

    def run(self, number: int) -> None:
        """One sender's work, until it is over."""
        turn = 0
        while not self.over:
            payer, payee = (self.people[(number + turn + step) % len(self.people)] for step in (0, 1 + turn % 3))
            key, amount, told = f"load-{secrets.token_hex(8)}", 1 + turn % 7, 0
            deadline = time.monotonic() + PATIENCE_SECONDS
            while is_unavailable(answer := send(self.api, payer, payee, key, amount)):
                told += 1
                self.refused += 1
                assert time.monotonic() < deadline, "it has not come back"
                time.sleep(0.1)
            assert answer.status_code == 201, answer.text
            self.done.append(Sent(payer, payee, key, amount, told, answer.json()))
            turn += 1

    def more(self) -> None:
        """Wait for some more transfers."""
        enough = len(self.done) + ANSWERS
        self._wait(lambda: len(self.done) >= enough)

    def more_refusals(self) -> None:
        """Wait until about every sender was told to come again."""
        enough = self.refused + SENDERS
        self._wait(lambda: self.refused >= enough)

    def newest(self, person: Person) -> int:
        """The newest version of their wallet that this person was told of."""
        return max((sent.answer["wallet_version"] for sent in self.done if sent.payer is person), default=0)

    def _wait(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            for sender in self.senders:
                assert not sender.done(), sender.result()
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def load(api: Api, servers: Servers, people: list[Person]) -> Iterator[Load]:
    """Send all the while; afterwards every answer is in the books, once, and nothing else is."""
    before = {person.id: available(servers, person) for person in people}
    going = Load(api, people)
    with ThreadPoolExecutor(SENDERS) as threads:
        going.senders += [threads.submit(going.run, number) for number in range(SENDERS)]
        try:
            going.more()
            yield going
            going.more()
        finally:
            going.over = True
    for sender in going.senders:
        sender.result()
    names = [sent.answer["id"] for sent in going.done]
    assert len(set(names)) == len(names)
    for sent in going.done:
        before[sent.payer.id] -= sent.amount
        before[sent.payee.id] += sent.amount
        read = api.call("GET", f"/v1/transfers/{sent.answer['id']}", token=sent.payer.token)
        assert (read.status_code, read.json()) == (200, sent.answer)
    assert {person.id: available(servers, person) for person in people} == before
    for person in people:
        path = f"/v1/wallets/INR?min_version={going.newest(person)}"
        assert api.call("GET", path, token=person.token).json()["version"] >= going.newest(person)


def test_postgres_killed_under_load(api: Api, servers: Servers, people: list[Person]) -> None:
    with load(api, servers, people) as going:
        for _ in range(2):
            servers.kill_postgres()
            going.more_refusals()
            servers.start_postgres()
            going.more()
    assert any(sent.unavailable for sent in going.done)


def test_postgres_hung(api: Api, servers: Servers, people: list[Person]) -> None:
    """Its time-outs hang with it, so ours must do: 503 in time, on old and new connections; then all is well again."""
    asha, ravi, *_ = people
    before, keys = available(servers, asha), ["key-hung-0", "key-hung-1", "key-hung-2"]
    family = [servers.postgres.pid, *descendants(servers.postgres.pid)]
    signal_all(family, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(send, api, asha, ravi, key) for key in keys[:2]]
            asked.append(threads.submit(api.call, "GET", "/v1/wallets", token=asha.token))
            assert all(is_unavailable(answer.result()) for answer in asked)
        assert is_unavailable(send(api, asha, ravi, keys[2]))
    finally:
        signal_all(family, signal.SIGCONT)
    for key in keys:
        assert send(api, asha, ravi, key).status_code == 201
        assert send(api, asha, ravi, key).headers["idempotent-replayed"] == "true"
    assert available(servers, asha) == before - 30


def signal_all(family: list[int], what: signal.Signals) -> None:
    """Send a signal to each of these processes."""
    for pid in family:
        with suppress(ProcessLookupError):  # a connection's may have ended a moment ago
            os.kill(pid, what)


def test_valkey_wiped_hung_and_killed_under_load(api: Api, servers: Servers, people: list[Person]) -> None:
    with load(api, servers, people) as going:
        empty_redis(servers.valkey.url)
        going.more()
        servers.valkey.process.send_signal(signal.SIGSTOP)
        try:
            going.more()
        finally:
            servers.valkey.process.send_signal(signal.SIGCONT)
        going.more()
        servers.kill_valkey()
        going.more()
        servers.start_valkey()
    assert going.refused == 0
