"""The cache as its readers meet it: what is a hit, what a write does to it, and that nothing goes back in time."""

import ast
import json
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tests.support.platform import ROOT, Database, Services

VALUE_MS = (96_000, 144_000)  # two minutes, give or take a fifth
FILLS = 20  # at most, until one is in time
SIGN_MS = 600_000  # as long as an access token
LIVE, ENDED = "1.", "2."


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


@pytest.mark.parametrize("path", PATHS)
def test_the_second_read_is_a_hit(stand: Stand, asha: Person, path: str) -> None:
    stand.redis("DEL", key_of(asha, path))
    stand.reads(asha, path, "miss")
    stand.reads(asha, path, "hit")


def test_a_transfer_publishes_both_balances_and_outdates_both_histories(
    stand: Stand, asha: Person, ravi: Person
) -> None:
    for _ in range(3):
        stand.warm(asha)
        stand.warm(ravi)
        stand.pay(asha, ravi)
        for person in (asha, ravi):
            stand.reads(person, WALLET, "hit")
            stand.reads(person, HISTORY, "miss")
            stand.reads(person, HISTORY, "hit")


def test_a_transfer_that_fails_outdates_the_history_of_its_sender(stand: Stand, asha: Person, ravi: Person) -> None:
    stand.warm(asha)
    body = {"to": f"@{ravi.handle}", "amount": 10**14, "currency": "INR"}
    key = f"pay-{secrets.token_hex(12)}"
    assert stand.api.call("POST", "/v1/transfers", json=body, token=asha.token, key=key).status_code == 422
    stand.reads(asha, WALLET, "hit")
    stand.reads(asha, HISTORY, "miss")


def test_a_deposit_publishes_when_it_opens_and_when_the_bank_pays(stand: Stand, ravi: Person) -> None:
    stand.warm(ravi)
    intent = stand.api.intend(ravi, 700)
    stand.reads(ravi, WALLET, "hit")
    stand.reads(ravi, HISTORY, "miss")
    told = event(intent["id"], 700)
    for _ in range(2):  # what a bank says twice is published twice, should the first have been lost
        stand.warm(ravi)
        Bank(stand.api).tell(told)
        stand.reads(ravi, WALLET, "hit")
        stand.reads(ravi, HISTORY, "miss")


def test_a_change_of_the_profile_is_published(stand: Stand) -> None:
    person = stand.api.sign_up()
    stand.warm(person, PROFILE)
    changed = stand.api.call("PATCH", "/v1/me", json={"name": "Asha K"}, token=person.token)
    assert changed.status_code == 200, changed.text
    stand.reads(person, PROFILE, "hit")


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 24},
        {"limit": 26},
        {"limit": 1},
        {"kind": "transfer"},
        {"status": "Success"},
        {"from": "2020-01-01T00:00:00Z"},
        {"to": "2090-01-01T00:00:00Z"},
    ],
)
def test_only_the_plain_first_page_is_kept(stand: Stand, asha: Person, query: dict[str, Any]) -> None:
    stand.warm(asha, HISTORY)
    for _ in range(2):
        answer = stand.api.call("GET", f"{HISTORY}?{urlencode(query)}", token=asha.token)
        assert (answer.status_code, answer.headers["OKANE-Cache"]) == (200, "bypass"), answer.text
    stand.reads(asha, HISTORY, "hit")
    assert stand.api.call("GET", f"{HISTORY}?limit=25", token=asha.token).headers["OKANE-Cache"] == "hit"


def test_a_page_after_the_first_is_not_kept(stand: Stand, asha: Person) -> None:
    first = stand.api.call("GET", f"{HISTORY}?limit=1", token=asha.token).json()
    later = stand.api.call("GET", f"{HISTORY}?{urlencode({'cursor': first['next_cursor']})}", token=asha.token)
    assert (later.status_code, later.headers["OKANE-Cache"]) == (200, "bypass"), later.text
    assert later.json()["data"] == stand.truth(asha, HISTORY)[1:]


def test_a_kept_first_page_leads_to_the_next(stand: Stand, asha: Person, ravi: Person) -> None:
    for _ in range(26):
        stand.transfer(asha, ravi)
    stand.warm(asha, HISTORY)
    first = stand.api.call("GET", HISTORY, token=asha.token).json()
    assert first["has_more"]
    later = stand.api.call("GET", f"{HISTORY}?{urlencode({'cursor': first['next_cursor']})}", token=asha.token)
    assert later.status_code == 200, later.text
    known = [line["id"] for line in first["data"] + later.json()["data"]]
    everything = stand.api.call("GET", f"{HISTORY}?limit=100", token=asha.token).json()["data"]
    assert known == [line["id"] for line in everything][: len(known)]


@pytest.mark.parametrize("path", [WALLET, HISTORY])
def test_a_reader_never_sees_less_than_it_asks_for(stand: Stand, asha: Person, ravi: Person, path: str) -> None:
    """Even where Redis gives back what it once held, with the seal of that time."""
    stand.warm(asha, path)
    old = stand.redis("GET", key_of(asha, path))
    version = stand.pay(asha, ravi)["wallet_version"]
    stand.redis("SET", key_of(asha, path), old)
    answer = stand.api.call("GET", f"{path}?min_version={version}", token=asha.token)
    assert (answer.status_code, answer.headers["ETag"]) == (200, f'"{version}"'), answer.text
    assert answer.headers["OKANE-Cache"] != "hit"
    content = answer.json()
    assert (content["data"] if path == HISTORY else content) == stand.truth(asha, path)
    stand.reads(asha, path, "hit")
    answer = stand.api.call("GET", f"{path}?min_version={version}", token=asha.token)
    assert (answer.status_code, answer.headers["ETag"]) == (200, f'"{version}"')


@pytest.mark.parametrize("path", [WALLET, HISTORY])
def test_a_version_that_does_not_exist_yet_is_a_conflict(stand: Stand, asha: Person, path: str) -> None:
    stand.warm(asha, path)
    version = stand.truth(asha, WALLET)["version"] + 1
    answer = stand.api.call("GET", f"{path}?min_version={version}", token=asha.token)
    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")


def test_everything_ends_by_itself_and_not_together(stand: Stand) -> None:
    people = [stand.api.sign_up() for _ in range(4)]
    for person in people:
        stand.warm(person)
    keys = [key_of(person, path) for person in people for path in PATHS]
    left = [stand.redis("PTTL", key) for key in keys]
    low, high = VALUE_MS
    assert all(low - PATIENCE_SECONDS * 1000 < ms <= high for ms in left), left
    assert max(left) - min(left) > 2000, left
    for person in people:
        assert SIGN_MS - PATIENCE_SECONDS * 1000 < stand.redis("PTTL", session_key(person)) <= SIGN_MS


def log_out(stand: Stand, person: Person) -> None:
    assert stand.api.call("POST", "/v1/auth/logout", token=person.token).status_code == 204


def ended(stand: Stand, person: Person, path: str) -> bool:
    """The read must be refused; whether it was Redis alone that said so."""
    before = stand.between.postgres.round_trips
    answer = stand.api.call("GET", path, token=person.token)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_ended"), answer.text
    return stand.between.postgres.round_trips == before


def test_an_ended_session_is_refused_at_once_on_warm_reads(stand: Stand) -> None:
    person = stand.api.sign_up()
    stand.warm(person)
    log_out(stand, person)
    deadline = time.monotonic() + PATIENCE_SECONDS
    for path in PATHS:
        while not ended(stand, person, path):
            assert time.monotonic() < deadline, "Redis does not know"


def test_a_late_fill_does_not_bring_a_session_back(stand: Stand) -> None:
    """A read misses; before it fills, its person logs out; then its fill arrives."""
    person = stand.api.sign_up()
    stand.warm(person)
    held: list[bytes] = []

    def hold_writes(client: socket.socket, body: bytes) -> None:
        if b"'SET'" in body:
            held.append(body)
        else:
            content = stand.rest(body)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    for _ in range(FILLS):  # a miss that took long has no time left for its fill
        stand.redis("DEL", session_key(person), key_of(person, WALLET))
        stand.between.redis.misbehave = hold_writes
        stand.reads(person, WALLET, "miss")
        stand.between.redis.misbehave = None
        if any(session_key(person).encode() in body for body in held):
            break
        stand.warm(person)  # Redis is asked again
    else:
        pytest.fail("no fill was held back")
    log_out(stand, person)
    for body in held:
        stand.rest(body)
    assert stand.redis("GET", session_key(person)).startswith(ENDED)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ended(stand, person, WALLET):  # the function that read leaves Redis alone after what was done to it
        assert time.monotonic() < deadline, "Redis is not asked again"
        time.sleep(LOOK_SECONDS)


def _script() -> str:
    """The script that the module sends, from its source."""
    tree = ast.parse((ROOT / "layers/okane_common/okane_common/cache.py").read_text(encoding="utf-8"))
    [found] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_COMPARE_AND_SET"
    ]
    return str(found)


SCRIPT = _script()


def pipeline(stand: Stand, commands: list[list[Any]]) -> list[Any]:
    """Many commands in one request."""
    return [answer["result"] for answer in json.loads(stand.rest(json.dumps(commands).encode(), "/pipeline"))]


def setting(keys: list[str], version: int, value: str, claim: str = "") -> list[Any]:
    """The command that sets the keys to `<version>.<value>` if nothing newer is there."""
    each = [str(version), f"{version}.{value}", "60000", claim]
    return ["EVAL", SCRIPT, len(keys), *keys, *each * len(keys)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_an_older_value_never_replaces_a_newer_one(stand: Stand, data: st.DataObject) -> None:
    """Random orders of random writes, each beside the simplest model there is: the highest version, last writer wins ties."""
    writes = data.draw(st.lists(st.tuples(st.integers(0, 12), st.text("ab", max_size=2)), min_size=1, max_size=12))
    keys = ["race:a", "race:b"][: data.draw(st.integers(1, 2))]
    commands: list[list[Any]] = [["DEL", *keys]]
    for version, value in writes:
        commands += [setting(keys, version, value), ["MGET", *keys]]
    seen = pipeline(stand, commands)[2::2]
    newest = (-1, "")
    for (version, value), found in zip(writes, seen, strict=True):
        newest = (version, value) if version >= newest[0] else newest
        assert found == [f"{newest[0]}.{newest[1]}"] * len(keys)


POISONS = {  # what may be found in Redis -> version and seal that it claims
    "999999999.": "999999999.",
    "9" * 400 + ".AAAA.{}": "9" * 400 + ".AAAA",
    "77.x+/=.{}": "77.x+/=",
    "7.AAAA\ufffd.{}": "7.AAAA",
    "": "",
    "null": "",
    "-1.A": "",
    "0x9.A": "",
    ".5.A": "",
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("version", [0, 7, 88])
def test_what_was_not_believed_is_replaced_and_nothing_else(stand: Stand, poison: str, version: int) -> None:
    claim = POISONS[poison]
    newer = bool(claim) and float(claim.partition(".")[0]) > version
    for told, replaced in ((claim, True), ("88.other", not newer), ("", not newer)):
        stand.redis("SET", "k", poison)
        stand.redis(*setting(["k"], version, "new", told))
        assert stand.redis("GET", "k") == (f"{version}.new" if replaced else poison)


def test_what_is_no_text_is_replaced(stand: Stand) -> None:
    for command in (["LPUSH", "k", "a"], ["HSET", "k", "a", "b"], ["SADD", "k", "a"], ["ZADD", "k", 1, "a"]):
        stand.redis("DEL", "k")
        stand.redis(*command)
        assert pipeline(stand, [setting(["k"], 3, "new"), ["GET", "k"]])[1] == "3.new"


def test_two_writers_and_a_reader_at_once(stand: Stand) -> None:
    """Each writer sends its own shuffled versions; the reader must never see one go back."""
    top = 400
    stand.redis("DEL", "race:c")
    versions = [list(range(first, top, 2)) for first in (0, 1)]
    faults: list[str] = []

    def write(mine: list[int]) -> None:
        random.shuffle(mine)
        for start in range(0, len(mine), 10):
            pipeline(stand, [setting(["race:c"], version, "x") for version in mine[start : start + 10]])

    writers = [threading.Thread(target=write, args=(mine,)) for mine in versions]
    for writer in writers:
        writer.start()
    last = -1
    while any(writer.is_alive() for writer in writers):
        now = int((stand.redis("GET", "race:c") or "-1.").partition(".")[0])
        if now < last:
            faults.append(f"{last} -> {now}")
        last = now
    for writer in writers:
        writer.join()
    assert not faults
    assert stand.redis("GET", "race:c") == f"{top - 1}.x"
