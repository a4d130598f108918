"""Redis stopped, hung, wiped, poisoned or talking nonsense: no answer changes, and what was spoilt heals.

Every read here is compared with what the database says (Stand.read).
"""

import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import valkey

from tests.support.api import Person
from tests.support.bank import Bank, event
from tests.support.cached import (
    HISTORY,
    LOOK_SECONDS,
    PATHS,
    PATIENCE_SECONDS,
    PROFILE,
    WALLET,
    Stand,
    cached_platform,
    key_of,
    session_key,
)
from tests.support.platform import Database, Services

BOUND_SECONDS = (
    2.0  # for a request that costs 0.15 s more than it should; generous, since a busy machine takes its time
)
BREAK_SECONDS = 2.0  # for which a function leaves Redis alone after a failure


@pytest.fixture(scope="module")
def stand(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with cached_platform(services, database, tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def asha(stand: Stand) -> Person:
    person = stand.api.sign_up("Asha")
    deposit(stand, person, 1_000_000)
    return person


@pytest.fixture(scope="module")
def ravi(stand: Stand) -> Person:
    return stand.api.sign_up("Ravi")


def deposit(stand: Stand, person: Person, amount: int) -> None:
    assert Bank(stand.api).tell(event(stand.api.intend(person, amount)["id"], amount)) == "processed"


def nothing_changes(stand: Stand, asha: Person, ravi: Person) -> None:
    """Every kind of request that touches the cache, and nobody notices anything."""
    for path in PATHS:
        assert stand.read(asha, path) != "hit"
    stand.transfer(asha, ravi)
    deposit(stand, ravi, 3)
    for person in (asha, ravi):
        for path in PATHS:
            assert stand.read(person, path) != "hit"
    credentials = {"email": ravi.email, "password": ravi.password}
    tokens = stand.api.call("POST", "/v1/auth/login", json=credentials)
    assert tokens.status_code == 200, tokens.text
    token = tokens.json()["access_token"]
    assert stand.api.call("PATCH", "/v1/me", json={"name": ravi.name}, token=token).status_code == 200
    assert stand.api.call("POST", "/v1/auth/logout", token=token).status_code == 204
    left = stand.api.call("GET", WALLET, token=token)
    assert (left.status_code, left.json()["code"]) == (401, "session_ended")


def test_stopped(stand: Stand, asha: Person, ravi: Person) -> None:
    stand.warm(asha)
    stand.warm(ravi)
    stand.valkey.process.kill()
    stand.valkey.process.wait()
    nothing_changes(stand, asha, ravi)
    stand.restart()
    stand.warm(asha)
    stand.warm(ravi)


def test_hung(stand: Stand, asha: Person, ravi: Person) -> None:
    stand.warm(asha)
    stand.warm(ravi)
    stand.valkey.process.send_signal(signal.SIGSTOP)
    try:
        nothing_changes(stand, asha, ravi)
    finally:
        stand.valkey.process.send_signal(signal.SIGCONT)
    stand.warm(asha)
    stand.warm(ravi)


def test_hung_costs_one_request_its_time_and_not_every_one(stand: Stand, asha: Person) -> None:
    stand.warm(asha, WALLET)
    stand.valkey.process.send_signal(signal.SIGSTOP)
    try:
        started, asked = time.monotonic(), stand.between.redis.requests
        for _ in range(40):
            assert stand.read(asha, WALLET) == "bypass"
        tries = stand.between.redis.requests - asked
        taken = time.monotonic() - started
    finally:
        stand.valkey.process.send_signal(signal.SIGCONT)
    assert 1 <= tries <= 1 + taken / BREAK_SECONDS
    stand.warm(asha, WALLET)


def test_full(stand: Stand, asha: Person, ravi: Person) -> None:
    """A Redis that takes no write and still gives out what it has: nothing old may stay behind a write."""
    stand.warm(asha)
    stand.warm(ravi)
    login = {"email": ravi.email, "password": ravi.password}
    leaving = Person(
        **{**vars(ravi), "token": stand.api.call("POST", "/v1/auth/login", json=login).json()["access_token"]}
    )
    stand.warm(leaving)
    with valkey.Valkey.from_url(stand.valkey.url) as server:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", 1)
        stand.transfer(asha, ravi)
        for person in (asha, ravi):
            for path in (WALLET, HISTORY):
                stand.read(person, path)  # compares with the database
        assert stand.api.call("POST", "/v1/auth/logout", token=leaving.token).status_code == 204
        for path in PATHS:
            left = stand.api.call("GET", path, token=leaving.token)
            assert (left.status_code, left.json()["code"]) == (401, "session_ended")
        server.config_set("maxmemory", "64mb")
    stand.warm(asha)


def test_wiped(stand: Stand, asha: Person) -> None:
    for path in PATHS:
        stand.warm(asha)
        stand.redis("FLUSHALL")
        stand.reads(asha, path, "miss")
        stand.reads(asha, path, "hit")


def test_a_write_after_a_wipe_is_kept(stand: Stand, asha: Person, ravi: Person) -> None:
    stand.warm(asha)
    stand.redis("FLUSHALL")
    stand.pay(asha, ravi)
    stand.reads(asha, PROFILE, "miss")  # which also tells that the session lives
    stand.reads(asha, WALLET, "hit")
    stand.reads(asha, HISTORY, "miss")


def forged(version: str) -> Callable[[Stand, str, str], None]:
    """JSON that looks right, with a version and a seal made up."""

    def poison(stand: Stand, key: str, sealed: str) -> None:
        content = sealed.split(".", 2)[2].replace('"available":', '"available":9')
        stand.redis("SET", key, f"{version}.{secrets.token_urlsafe(12).replace('-', 'A').replace('_', 'B')}.{content}")

    return poison


def altered(change: Callable[[str], str]) -> Callable[[Stand, str, str], None]:
    """What is there, changed."""
    return lambda stand, key, sealed: stand.redis("SET", key, change(sealed))


def typed(*command: str) -> Callable[[Stand, str, str], None]:
    """A value that is no string."""

    def poison(stand: Stand, key: str, sealed: str) -> None:
        stand.redis("DEL", key)
        stand.redis(command[0], key, *command[1:])

    return poison


def lua(text: str) -> Callable[[Stand, str, str], None]:
    """Bytes that JSON cannot carry."""
    return lambda stand, key, sealed: stand.redis("EVAL", f"return redis.call('SET', KEYS[1], '{text}')", 1, key)


POISONS = {
    "a huge version": forged("999999999999"),
    "a version beyond numbers": forged("9" * 400),
    "the same version": altered(lambda sealed: sealed.replace(":", ": ", 1)),
    "a higher version under the old seal": altered(lambda sealed: "1" + sealed),
    "without a seal": altered(lambda sealed: sealed.split(".", 2)[2]),
    "an empty seal": altered(lambda sealed: "5..{}"),
    "a short seal": altered(lambda sealed: "5.AAAA.{}"),
    "a seal that is not base64": altered(lambda sealed: "5.*-*.{}"),
    "a seal cut short": altered(lambda sealed: ".".join([sealed.split(".")[0], "", sealed.split(".", 2)[2]])),
    "the end cut off": altered(lambda sealed: sealed[:-5]),
    "all but the start cut off": altered(lambda sealed: sealed[:6]),
    "an empty text": altered(lambda sealed: ""),
    "a line of text": altered(lambda sealed: "hello"),
    "other digits": altered(lambda sealed: "\u0663." + sealed.partition(".")[2]),
    "a negative version": altered(lambda sealed: "-" + sealed),
    "null": altered(lambda sealed: "null"),
    "bytes": lua("\\255\\254\\0\\128"),
    "bytes under a huge version": lua("999999999.\\255\\254\\0"),
    "bytes under a seal": lua("999999999.AAAAAAAAAAAAAAAAAAAAAA==.\\255\\254\\0"),
    "half a surrogate": lua("999999999.\\237\\160\\128"),
    "a list": typed("LPUSH", "a"),
    "a hash": typed("HSET", "a", "b"),
    "a set": typed("SADD", "a"),
    "a sorted set": typed("ZADD", "1", "a"),
    "a stream": typed("XADD", "*", "a", "b"),
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("path", [WALLET, HISTORY, PROFILE, "session"])
def test_poisoned(stand: Stand, asha: Person, path: str, poison: str) -> None:
    read = WALLET if path == "session" else path
    key = session_key(asha) if path == "session" else key_of(asha, path)
    stand.warm(asha, read)
    POISONS[poison](stand, key, stand.redis("GET", key))
    stand.reads(asha, read, "miss")
    stand.reads(asha, read, "hit")


@pytest.mark.parametrize("path", PATHS)
def test_what_was_sealed_for_another_key_is_not_believed(stand: Stand, asha: Person, ravi: Person, path: str) -> None:
    stand.warm(asha)
    stand.warm(ravi)
    mine = key_of(asha, path)
    others = [key_of(ravi, path), *(key_of(asha, other) for other in PATHS if other != path), session_key(asha)]
    for other in others:
        stand.warm(asha)
        stand.redis("SET", mine, stand.redis("GET", other))
        stand.reads(asha, path, "miss")
        stand.reads(asha, path, "hit")


def test_the_sign_of_another_session_is_not_believed(stand: Stand, asha: Person, ravi: Person) -> None:
    """Neither that it lives, nor that it has ended."""
    stand.warm(asha)
    stand.warm(ravi)
    ended = stand.api.sign_up()
    assert stand.api.call("POST", "/v1/auth/logout", token=ended.token).status_code == 204
    for sign in (stand.redis("GET", session_key(ravi)), stand.redis("GET", session_key(ended))):
        assert sign
        stand.redis("SET", session_key(asha), sign)
        stand.reads(asha, WALLET, "miss")
        stand.reads(asha, WALLET, "hit")
        stand.redis("SET", session_key(ended), sign if sign.startswith("1.") else "")
        refused = stand.api.call("GET", WALLET, token=ended.token)
        assert (refused.status_code, refused.json()["code"]) == (401, "session_ended")


def test_a_value_larger_than_any_of_ours(stand: Stand, asha: Person) -> None:
    stand.warm(asha)
    stand.redis("SET", key_of(asha, WALLET), "7." + "x" * 4_000_000)
    for _ in range(3):
        assert stand.read(asha, WALLET) != "hit"
    stand.redis("DEL", key_of(asha, WALLET))
    stand.warm(asha)


def drip(client: socket.socket, body: bytes) -> None:
    for byte in b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"result":[' + b" " * 1000:
        client.sendall(bytes([byte]))
        time.sleep(0.02)


def flood(client: socket.socket, body: bytes) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    while True:
        client.sendall(b"x" * 65536)


def silence(client: socket.socket, body: bytes) -> None:
    client.recv(1)


def says(status: str, content: bytes) -> Callable[[socket.socket, bytes], None]:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    return lambda client, body: client.sendall(head + content)


NONSENSE = {
    "an error": says("500 Internal Server Error", b'{"error":"ERR"}'),
    "HTML": says("200 OK", b"<html>Welcome</html>"),
    "another answer": says("200 OK", b'{"result":"OK"}'),
    "too short a list": says("200 OK", b'{"result":[null]}'),
    "a list of lists": says("200 OK", b'{"result":[[1],{"a":2}]}'),
    "a drip": drip,
    "a flood": flood,
    "silence": silence,
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense(stand: Stand, asha: Person, ravi: Person, kind: str) -> None:
    """What the client makes of an answer is in test_upstash.py; here, that a request does not notice."""
    stand.between.redis.misbehave = NONSENSE[kind]
    try:
        deadline, asked = time.monotonic() + PATIENCE_SECONDS, stand.between.redis.requests
        while stand.between.redis.requests == asked:  # until the functions no longer leave Redis alone
            assert time.monotonic() < deadline
            for path in PATHS:
                started = time.monotonic()
                assert stand.read(asha, path) != "hit"
                assert time.monotonic() - started < BOUND_SECONDS
            time.sleep(LOOK_SECONDS)
        started = time.monotonic()
        stand.transfer(asha, ravi)
        assert time.monotonic() - started < BOUND_SECONDS
        for path in PATHS:
            assert stand.read(asha, path) != "hit"
    finally:
        stand.between.redis.misbehave = None
