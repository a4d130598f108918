"""How often one may try at the doors: by address, by network and by both, for known and unknown addresses alike.

Everything is run twice, with Redis and without: what bounds guessing is in Postgres. A test that would have to try for long
moves a budget near its end, through the owner's connection, after it has seen what one try costs.
"""

import importlib
import secrets
from collections import Counter
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from tests.support.api import Person
from tests.support.cached import Stand, cached_platform
from tests.support.contract import CheckedApi, refused
from tests.support.doors import DOORS, OF, Door, alike, each_door, leave, limited, people, spent
from tests.support.networks import Guess, Networks, guess_all
from tests.support.platform import Database, Services
from tests.support.sign_in import (
    address,
    age,
    forget_tries,
    forgotten,
    log_in,
    password,
    refresh,
    register,
    reset,
    signed_in,
    verify,
    wrong,
)

RUNNING, STOPPED = "Redis runs", "Redis is stopped"
GUESSES = 1000
THREADS = 8


@pytest.fixture(scope="module")
def stand(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with cached_platform(services, database, tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module", params=[RUNNING, STOPPED])
def api(request: pytest.FixtureRequest, stand: Stand) -> Iterator[CheckedApi]:
    """A client at 127.0.0.1 that checks every reply."""
    if request.param == STOPPED:
        stand.valkey.process.kill()
        stand.valkey.process.wait()
    client = CheckedApi(stand.api.endpoints)
    yield client
    client.close()
    if request.param == STOPPED:
        stand.restart()


@pytest.fixture(scope="module")
def networks(api: CheckedApi) -> Iterator[Networks]:
    found = Networks(api)
    yield found
    found.close()


@pytest.fixture(scope="module")
def asha(api: CheckedApi) -> Person:
    """Somebody whose home is 127.0.0.1."""
    return api.sign_up("Asha")


@pytest.fixture(autouse=True)
def new(api: CheckedApi, asha: Person) -> None:
    """Every test starts with budgets of which nothing is spent."""
    forget_tries(api)


# By address and by network.


@each_door
def test_one_address_is_tried_ten_times_from_one_network(
    api: CheckedApi, networks: Networks, asha: Person, door: Door
) -> None:
    """And each answer is the same for an address that is known and for one that is not."""
    here, unknown = networks.new(), address()
    statuses = []
    for round_ in range(4):
        answers = [door.tried(here, email) for email in (asha.email, unknown)]
        assert alike(*answers), [answer.text for answer in answers]
        statuses.append(answers[0].status_code)
        if round_ == 1:
            for email in (asha.email, unknown):
                leave(api, f"{door.what}:{email}:%", before=2, now=door.pair - 1)
    assert statuses == 3 * [door.status] + [429]
    for email in (asha.email, unknown):
        door.may_not(here, email)
        door.may(networks.new(), email)
    door.may(here, address())
    age(api, "UPDATE budgets SET started_at = started_at - make_interval(secs => %s)", door.seconds)
    door.may(here, asha.email)


@each_door
def test_one_address_is_tried_so_often_from_anywhere(
    api: CheckedApi, networks: Networks, asha: Person, door: Door
) -> None:
    unknown = address()
    for email in (asha.email, unknown):
        door.may(networks.new(), email)
        leave(api, f"{door.what}:{email}", before=1, now=door.address - 1)
        door.may(networks.new(), email)
    answers = [door.tried(networks.new(), email) for email in (asha.email, unknown)]
    assert alike(*answers)
    for answer in answers:
        limited(answer, door.seconds)
    door.may(networks.new(), address())
    age(api, "UPDATE budgets SET started_at = started_at - make_interval(secs => %s)", door.seconds)
    door.may(networks.new(), asha.email)


@each_door
def test_one_network_tries_so_often(api: CheckedApi, networks: Networks, asha: Person, door: Door) -> None:
    here = networks.new()
    door.may(here, address())
    leave(api, f"{door.what}_from:%", before=1, now=door.network - 1)
    door.may(here, address())
    answers = [door.tried(here, email) for email in (asha.email, address())]
    assert alike(*answers)
    for answer in answers:
        limited(answer, door.seconds)
    door.may(networks.new(), asha.email)
    age(api, "UPDATE budgets SET started_at = started_at - make_interval(secs => %s)", door.seconds)
    door.may(here, asha.email)


@each_door
def test_no_header_makes_another_network(api: CheckedApi, networks: Networks, door: Door) -> None:
    here, email = networks.new(), address()
    door.may(here, email)
    leave(api, f"{door.what}:{email}:%", before=1, now=door.pair)
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP"):
        sent = f"for={networks.address()}" if name == "Forwarded" else networks.address()
        limited(door.tried(here, email, {name: sent}), door.seconds)
    assert len(spent(api, f"{door.what}_from:%")) == 1


def test_no_address_of_a_network_is_kept(api: CheckedApi, networks: Networks, asha: Person) -> None:
    here = networks.new()
    for door in DOORS:
        door.may(here, asha.email)
    with psycopg.connect(api.endpoints.database_url) as connection:
        keys = [row[0] for row in connection.execute("SELECT key FROM okane.budgets")]
        keys += [row[0] for row in connection.execute("SELECT source FROM okane.sessions")]
    assert len(keys) > len(DOORS)
    assert not any("127." in key for key in keys), keys


# What has no address to count by.


@pytest.mark.parametrize(
    ("path", "name", "code"),
    [("/v1/auth/refresh", "refresh_token", "token_invalid"), ("/v1/auth/google/token", "code", "code_invalid")],
)
def test_secrets_that_nobody_has_are_tried_a_hundred_times_from_one_network(
    api: CheckedApi, networks: Networks, path: str, name: str, code: str
) -> None:
    _, tokens = signed_in(api)
    here = networks.new()

    def guess(client: CheckedApi) -> httpx.Response:
        random = secrets.token_hex(32) if name == "refresh_token" else secrets.token_urlsafe(32)
        return client.call("POST", path, json={name: random})

    refused(guess(here), 401, code)
    leave(api, "missed_from:%", before=1, now=99)
    refused(guess(here), 401, code)
    limited(guess(here), 900)
    refused(guess(networks.new()), 401, code)
    assert refresh(here, tokens["refresh_token"]).status_code == 200, "what somebody has is no guess"
    age(api, "UPDATE budgets SET started_at = started_at - interval '15 min' WHERE key LIKE %s", "missed_from:%")
    refused(guess(here), 401, code)


def test_one_session_is_carried_on_a_hundred_times(api: CheckedApi, networks: Networks) -> None:
    _, tokens = signed_in(api)
    _, others = signed_in(api)
    key = f"refresh:{tokens['session_id']}"
    tokens = refresh(api, tokens["refresh_token"]).json()
    leave(api, key, before=1, now=99)
    tokens = refresh(networks.new(), tokens["refresh_token"]).json()
    limited(refresh(networks.new(), tokens["refresh_token"]), 900)
    assert refresh(api, others["refresh_token"]).status_code == 200
    age(api, "UPDATE budgets SET started_at = started_at - interval '15 min' WHERE key = %s", key)
    assert refresh(api, tokens["refresh_token"]).status_code == 200, "the refusal has not spent the token"


def look_up(api: CheckedApi, who: Person, handle: str) -> httpx.Response:
    return api.call("GET", f"/v1/recipients/{handle}", token=who.token)


def test_one_person_misses_thirty_recipients(api: CheckedApi, networks: Networks, asha: Person) -> None:
    ravi = api.sign_up("Ravi")
    assert look_up(api, ravi, asha.handle).status_code == 200
    refused(look_up(api, ravi, "nobody_of_this_name"), 404, "recipient_not_found")
    leave(api, f"recipient:{ravi.id}", before=11, now=290)
    refused(look_up(networks.new(), ravi, "nobody_of_this_name"), 404, "recipient_not_found")
    for handle in ("nobody_of_this_name", asha.handle):
        limited(look_up(networks.new(), ravi, handle), 300)
    assert look_up(api, asha, ravi.handle).status_code == 200, "another person has another budget"
    age(api, "UPDATE budgets SET started_at = started_at - interval '5 min'")
    assert look_up(api, ravi, asha.handle).status_code == 200


def test_many_people_of_one_network_miss_three_hundred_recipients(
    api: CheckedApi, networks: Networks, asha: Person
) -> None:
    here, ravi = networks.new(), api.sign_up("Ravi")
    assert look_up(here, ravi, asha.handle).status_code == 200
    refused(look_up(here, asha, "nobody_of_this_name"), 404, "recipient_not_found")
    leave(api, "recipient_from:%", before=11, now=2990)
    refused(look_up(here, ravi, "nobody_of_this_name"), 404, "recipient_not_found")
    for who, handle in ((ravi, asha.handle), (asha, "nobody_of_this_name")):
        limited(look_up(here, who, handle), 300)
    assert look_up(networks.new(), ravi, asha.handle).status_code == 200


# What is given back.


def test_the_right_password_costs_its_network_nothing(api: CheckedApi, networks: Networks, asha: Person) -> None:
    here = networks.new()
    refused(log_in(here, address(), "not the password"), 401, "credentials_invalid")
    for _ in range(3):
        assert log_in(here, asha.email, asha.password).status_code == 200
    assert spent(api, "log_in_from:%") == [1]
    assert spent(api, f"log_in:{asha.email}%") == []


def test_a_sign_up_that_is_proved_costs_its_network_nothing(api: CheckedApi, networks: Networks) -> None:
    """It is given back to the network that asked, wherever the code is entered."""
    here, there, email = networks.new(), networks.new(), address()
    register(here, address(), password())
    register(here, email, password())
    code = register(there, email, password())
    assert sorted(spent(api, "sign_up_from:%")) == [1, 2]
    assert verify(here, email, code).status_code == 200
    assert sorted(spent(api, "sign_up_from:%")) == [0, 2]
    assert spent(api, "verify_from:%") == [0]


def test_a_reset_costs_its_network_nothing_and_gives_it_no_guesses(api: CheckedApi, networks: Networks) -> None:
    """Else whoever has one account could guess at all the others without end, with a reset of their own in between."""
    mine = api.sign_up("Thief")
    here, there = networks.new(), networks.new()
    for _ in range(2):
        refused(log_in(here, address(), "not the password"), 401, "credentials_invalid")
        assert here.call("POST", "/v1/auth/password/forgot", json={"email": address()}).status_code == 202
    assert reset(here, mine.email, forgotten(here, mine.email)).status_code == 204
    assert spent(api, "log_in_from:%") == [2]
    assert spent(api, "forgot_from:%") == [2]
    assert spent(api, "reset_from:%") == [0]
    assert reset(here, mine.email, forgotten(there, mine.email)).status_code == 204
    assert sorted(spent(api, "forgot_from:%")) == [0, 2], "asked for there, so given back there"


def test_a_reset_lets_its_owner_sign_in(api: CheckedApi, networks: Networks) -> None:
    """Who has tried too many passwords has a new one mailed, and may try it."""
    ravi, here = api.sign_up("Ravi"), networks.new()
    OF["log_in"].may(here, ravi.email)
    leave(api, f"log_in:{ravi.email}:%", before=1, now=10)
    OF["log_in"].may_not(here, ravi.email)
    assert reset(here, ravi.email, forgotten(here, ravi.email)).status_code == 204
    OF["log_in"].may(here, ravi.email)


# Owners and strangers.


def used_up(api: CheckedApi, networks: Networks, door: Door, email: str) -> None:
    """Strangers in many networks have tried all there is to try."""
    door.may(networks.new(), email)
    leave(api, f"{door.what}:{email}", before=1, now=door.address)
    door.may_not(networks.new(), email)


def test_strangers_do_not_keep_an_owner_out(api: CheckedApi, networks: Networks) -> None:
    """Nor from a new password; from a network that they have not signed in from, owners wait like anybody."""
    ravi, abroad = api.sign_up("Ravi"), networks.new()
    for what in ("log_in", "forgot", "reset"):
        used_up(api, networks, OF[what], ravi.email)
    limited(log_in(abroad, ravi.email, ravi.password), 900)
    assert log_in(api, ravi.email, ravi.password).status_code == 200
    used_up(api, networks, OF["log_in"], ravi.email)
    limited(log_in(abroad, ravi.email, ravi.password), 900)
    assert reset(api, ravi.email, forgotten(api, ravi.email)).status_code == 204


def test_where_an_owner_was_long_ago_is_no_home(api: CheckedApi, networks: Networks) -> None:
    ravi = api.sign_up("Ravi")
    used_up(api, networks, OF["log_in"], ravi.email)
    age(api, "UPDATE sessions SET created_at = created_at - interval '90 days' WHERE person_id = %s", ravi.id)
    limited(log_in(api, ravi.email, ravi.password), 900)


def test_at_home_there_are_ten_tries_too(api: CheckedApi, asha: Person) -> None:
    OF["log_in"].may(api, asha.email)
    leave(api, f"log_in:{asha.email}:%", before=1, now=10)
    OF["log_in"].may_not(api, asha.email)


def test_another_persons_home_opens_nothing(api: CheckedApi, networks: Networks, asha: Person) -> None:
    """Who has signed in somewhere with an account of their own is a stranger to others' all the same."""
    ravi, here = api.sign_up("Ravi"), networks.new()
    assert log_in(here, ravi.email, ravi.password).status_code == 200
    used_up(api, networks, OF["log_in"], asha.email)
    OF["log_in"].may_not(here, asha.email)


@pytest.mark.parametrize("what", ["verify", "reset"])
def test_strangers_guesses_do_not_use_up_an_owners_code(api: CheckedApi, networks: Networks, what: str) -> None:
    email = api.sign_up("Ravi").email if what == "reset" else address()
    strangers = [networks.new(), networks.new()]
    code = forgotten(api, email) if what == "reset" else register(api, email, password())
    for stranger in strangers:  # each with wishes of their own, and more of them together than are good at a time
        for _ in range(2):
            forgotten(stranger, email) if what == "reset" else register(stranger, email, password())
        for _ in range(4):
            answer = reset(stranger, email, wrong(code)) if what == "reset" else verify(stranger, email, wrong(code))
            refused(answer, 401, "code_invalid")
    for _ in range(4):
        refused(
            reset(api, email, wrong(code)) if what == "reset" else verify(api, email, wrong(code)), 401, "code_invalid"
        )
    assert (reset if what == "reset" else verify)(api, email, code).status_code in (200, 204)


# Networks.


def test_what_one_network_is(monkeypatch: pytest.MonkeyPatch, services: Services) -> None:
    monkeypatch.setenv("OKANE_SECRET", services.secrets.okane_secret)
    visitor = importlib.import_module("okane_common.caller").visitor

    def source(ip: str, **headers: str) -> str:
        return str(visitor({"requestContext": {"http": {"sourceIp": ip}}, "headers": headers}).source)

    assert source("2001:db8:1:2::1") == source("2001:db8:1:2:ffff:ffff:ffff:ffff") == source("2001:0DB8:1:2::")
    assert source("2001:db8:1:2::1") != source("2001:db8:1:3::1")
    assert source("::ffff:1.2.3.4") == source("1.2.3.4") == source("::ffff:102:304")
    assert source("1.2.3.4") != source("1.2.3.5")
    assert source("::ffff:1.2.3.4") != source("::ffff:1.2.3.5")
    assert source("1.2.3.4", **{"x-forwarded-for": "1.2.3.5"}) == source("1.2.3.4")
    assert len({source(ip) for ip in ("1.2.3.4", "::1", "::", "::1.2.3.4", "64:ff9b::1.2.3.4")}) == 3


# Guessing in earnest.


def test_a_thousand_guesses(api: CheckedApi, networks: Networks, request: pytest.FixtureRequest) -> None:
    """Prints how many got through."""
    here, there = networks.address(), networks.address()
    abroad = [networks.address() for _ in range(30)]
    one, other = people(api, 2)
    plans = {
        "a thousand at one account from one network": ([Guess(here, one)] * GUESSES, 10),
        "one at each of a thousand accounts from one network": ([Guess(there, who) for who in people(api, GUESSES)], 100),
        "ten at one account from each of thirty networks": ([Guess(source, other) for source in abroad for _ in range(10)], 100),
    }  # fmt: skip
    with_redis = request.node.callspec.params["api"]
    for name, (guesses, cap) in plans.items():
        found = guess_all(api.endpoints.api, guesses, THREADS)
        print(f"guesses that got through: {found[401]} of {len(guesses)}, {name}; {with_redis}")
        assert found == Counter({401: cap, 429: len(guesses) - cap}), name


@pytest.mark.parametrize("by", ["address from one network", "address", "network"])
def test_fifty_guesses_at_once_are_counted_one_by_one(api: CheckedApi, networks: Networks, by: str) -> None:
    here, one, *many = networks.new(), *people(api, 51)
    source = networks.latest
    OF["log_in"].may(here, one)
    guesses = {
        "address from one network": [Guess(source, one)] * 50,
        "address": [Guess(networks.address(), one) for _ in many],
        "network": [Guess(source, who) for who in many],
    }[by]
    if by == "address":
        leave(api, f"log_in:{one}", before=1, now=91)
    elif by == "network":
        leave(api, "log_in_from:%", before=1, now=91)
    assert guess_all(api.endpoints.api, guesses, 50) == Counter({401: 9, 429: 41})
