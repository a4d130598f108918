"""Sessions over HTTP: listed, ended one by one and all together, with Redis and without; and what is left of refresh families.

Redis stands behind a counter here and can be stopped. tests/test_tokens.py has the rotation of refresh tokens.
"""

import secrets
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.api import Person
from tests.support.cached import PATHS, WALLET, Stand, cached_platform, wallet_key
from tests.support.contract import CheckedApi, refused
from tests.support.platform import Database, Services
from tests.support.sign_in import age, log_in, profile, refresh, signed_in, until_waiting

SESSIONS = "/v1/auth/sessions"
DAYS_30 = 30 * 24 * 3600
TRIES = 10  # of a count: a busy machine may let a request go without the cache

type Tokens = dict[str, Any]


@pytest.fixture(scope="module")
def stand(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with cached_platform(services, database, tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def api(stand: Stand) -> Iterator[CheckedApi]:
    """A client that checks every reply."""
    client = CheckedApi(stand.api.endpoints)
    yield client
    client.close()


def sessions(api: CheckedApi, token: str) -> list[dict[str, Any]]:
    answer = api.call("GET", SESSIONS, token=token)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def end(api: CheckedApi, token: str, session: object = None) -> httpx.Response:
    """End one session, or all of them."""
    return api.call("DELETE", SESSIONS if session is None else f"{SESSIONS}/{session}", token=token)


def again(api: CheckedApi, person: Person, device: str = "") -> Tokens:
    """One more session of the person's."""
    who = {"email": person.email, "password": person.password}
    headers = {"User-Agent": device} if device else {}
    tokens: Tokens = api.call("POST", "/v1/auth/login", json=who, headers=headers).json()
    return tokens


def warm(api: CheckedApi, stand: Stand, token: str) -> None:
    """Answers for this token come from Redis from now on."""

    def is_hit(path: str) -> bool:
        return api.call("GET", path, token=token).headers["okane-cache"] == "hit"

    for path in PATHS:
        stand.until(partial(is_hit, path))


def over(api: CheckedApi, tokens: Tokens) -> None:
    """The session opens nothing: cached reads, reads of the database, money, itself, and its refresh token."""
    token = tokens["access_token"]
    for path in (*PATHS, "/v1/wallets", "/v1/recipients/nobody", SESSIONS):
        refused(api.call("GET", path, token=token), 401, "session_ended")
    money = {"to": "@nobody", "amount": 1, "currency": "INR"}
    refused(api.call("POST", "/v1/transfers", json=money, token=token, key=f"key-{uuid.uuid4()}"), 401, "session_ended")
    opened = {"amount": 5, "bank": "hdfc"}
    path = "/v1/wallets/INR/deposits"
    refused(api.call("POST", path, json=opened, token=token, key=f"key-{uuid.uuid4()}"), 401, "session_ended")
    refused(api.call("PATCH", "/v1/me", json={"name": "Thief"}, token=token), 401, "session_ended")
    refused(end(api, token), 401, "session_ended")
    refused(refresh(api, tokens["refresh_token"]), 401, "session_ended")


def alive(api: CheckedApi, token: str) -> None:
    for path in (*PATHS, "/v1/wallets"):
        assert api.call("GET", path, token=token).status_code == 200


# The list


def test_the_list_shows_where_somebody_is_signed_in(api: CheckedApi) -> None:
    person = api.sign_up("Asha")
    first = again(api, person, "Firefox on Linux")
    second = again(api, person, "OKANE/1.0 (another)")
    shown = sessions(api, first["access_token"])
    assert [one["current"] for one in shown] == [True, False, False]
    assert [one["id"] for one in shown[:2]] == [first["session_id"], second["session_id"]], "then the latest used"
    assert shown[0]["device"] == "Firefox on Linux"
    assert len({one["id"] for one in shown}) == 3
    for one in shown:
        made, used, ends = (datetime.fromisoformat(one[name]) for name in ("created_at", "last_used_at", "expires_at"))
        assert 0 <= (used - made).total_seconds() < 1
        assert abs((ends - made).total_seconds() - DAYS_30) < 1
    # Another one asks, and is the first.
    assert sessions(api, second["access_token"])[0]["id"] == second["session_id"]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("", None),
        ("a" * 500, "a" * 200),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("'; --", "'; --"),
    ],
)
def test_the_device_is_what_was_sent_and_short(api: CheckedApi, sent: str, shown: str | None) -> None:
    person = api.sign_up("Asha")
    who = {"email": person.email, "password": person.password}
    tokens = api.call("POST", "/v1/auth/login", json=who, headers={"User-Agent": sent}).json()
    assert sessions(api, tokens["access_token"])[0]["device"] == (sent if shown is None else shown)


def test_being_used_moves_with_a_refresh_and_being_made_does_not(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    [before, _] = sessions(api, tokens["access_token"])
    renewed = refresh(api, tokens["refresh_token"]).json()
    [after, _] = sessions(api, renewed["access_token"])
    assert after["last_used_at"] > before["last_used_at"]
    unmoved = {name: value for name, value in after.items() if name != "last_used_at"}
    assert unmoved == {name: before[name] for name in unmoved}


def test_what_has_ended_and_what_is_somebody_elses_is_not_listed(api: CheckedApi) -> None:
    person, other = api.sign_up("Asha"), api.sign_up("Ravi")
    kept, ended, expired, reused = (again(api, person) for _ in range(4))
    end(api, kept["access_token"], ended["session_id"])
    age(api, "UPDATE sessions SET expires_at = clock_timestamp() WHERE id = %s", expired["session_id"])
    second = refresh(api, reused["refresh_token"]).json()
    refresh(api, second["refresh_token"])
    refused(refresh(api, reused["refresh_token"]), 401, "session_ended")
    shown = {one["id"] for one in sessions(api, kept["access_token"])}
    assert kept["session_id"] in shown
    assert len(shown) == 2, "that of the sign-up, too"
    assert not shown & {one["id"] for one in sessions(api, other.token)}


def test_a_hundred_sessions_are_listed_at_most(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    age(api, "INSERT INTO sessions (id, person_id, device, last_used_at, expires_at) SELECT gen_random_uuid(), %s, 'x',"
             " clock_timestamp() + interval '1 hour', clock_timestamp() + interval '1 day' FROM generate_series(1, 120)",
        person.id)  # fmt: skip
    shown = sessions(api, tokens["access_token"])
    assert (len(shown), shown[0]["id"]) == (100, tokens["session_id"])
    assert end(api, tokens["access_token"]).status_code == 204
    with psycopg.connect(api.endpoints.database_url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM okane.sessions WHERE person_id = %s AND ended_at IS NULL", [person.id]
        ).fetchone()
    assert left == (0,), "all end, whether they were listed or not"


# Ending


def test_one_session_is_ended_and_is_over_everywhere(api: CheckedApi, stand: Stand) -> None:
    person, tokens = signed_in(api)
    warm(api, stand, tokens["access_token"])
    assert end(api, person.token, tokens["session_id"]).status_code == 204
    over(api, tokens)
    alive(api, person.token)
    refused(end(api, person.token, tokens["session_id"]), 404, "not_found")


def test_ending_ones_own_session_is_logging_out(api: CheckedApi, stand: Stand) -> None:
    person, tokens = signed_in(api)
    warm(api, stand, tokens["access_token"])
    assert end(api, tokens["access_token"], tokens["session_id"].upper()).status_code == 204
    over(api, tokens)
    refused(end(api, tokens["access_token"], tokens["session_id"]), 401, "session_ended")
    alive(api, person.token)
    assert api.call("POST", "/v1/auth/logout", token=person.token).status_code == 204
    refused(end(api, person.token, tokens["session_id"]), 401, "session_ended")


@pytest.mark.parametrize("there", [True, False])
def test_what_is_not_a_live_session_of_mine_is_not_found(api: CheckedApi, there: bool) -> None:
    person, tokens = signed_in(api)
    other = api.sign_up("Ravi")
    theirs = sessions(api, other.token)[0]["id"]
    if there:
        refused(end(api, person.token, theirs), 404, "not_found")
        alive(api, other.token)
        age(api, "UPDATE sessions SET expires_at = clock_timestamp() WHERE id = %s", tokens["session_id"])
        refused(end(api, person.token, tokens["session_id"]), 404, "not_found")
        return
    for nobody in (uuid.uuid4(), "0", "current", theirs.replace("-", ""), f"{{{theirs}}}", f"{theirs}%20", "%00", "a" * 500,
                   f"urn:uuid:{theirs}", f"{person.id}' OR '1'='1"):  # fmt: skip
        refused(end(api, person.token, nobody), 404, "not_found")


def test_all_end_and_this_one_too(api: CheckedApi, stand: Stand) -> None:
    person = api.sign_up("Asha")
    stranger = api.sign_up("Ravi")
    several = [again(api, person) for _ in range(3)]
    for tokens in several:
        warm(api, stand, tokens["access_token"])
    assert end(api, several[0]["access_token"]).status_code == 204
    for tokens in several:
        over(api, tokens)
    refused(api.call("GET", WALLET, token=person.token), 401, "session_ended")
    alive(api, stranger.token)
    assert profile(api, again(api, person)).status_code == 200, "and may come in again"


@pytest.mark.parametrize("own", [True, False])
def test_twenty_at_once_end_one_session_once(api: CheckedApi, own: bool) -> None:
    person, tokens = signed_in(api)
    token = tokens["access_token"] if own else person.token
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: end(api, token, tokens["session_id"]), range(20)))
    assert sorted(answer.status_code for answer in answers) == [204] + 19 * [401 if own else 404]
    over(api, tokens)


def test_two_log_outs_at_once(api: CheckedApi) -> None:
    """Both find the session alive, and one has ended it when the other comes to it."""
    _, tokens = signed_in(api)
    with psycopg.connect(api.endpoints.database_url) as holder, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: profile(api, tokens), range(4)))
        holder.execute("SELECT FROM okane.sessions WHERE id = %s FOR UPDATE", [tokens["session_id"]])
        answers = [
            pool.submit(api.call, "POST", "/v1/auth/logout", token=tokens["access_token"]),
            pool.submit(end, api, tokens["access_token"], tokens["session_id"]),
        ]
        until_waiting(api, 2, answers)
        holder.rollback()
        first, second = sorted((answer.result() for answer in answers), key=lambda answer: answer.status_code)
    assert first.status_code == 204
    refused(second, 401, "session_ended")


def test_a_session_ends_while_it_is_refreshed(api: CheckedApi) -> None:
    """Whichever comes first, no token of the session opens anything afterwards."""
    for _ in range(5):
        person, tokens = signed_in(api)
        with ThreadPoolExecutor(6) as pool:
            renewals = [pool.submit(refresh, api, tokens["refresh_token"]) for _ in range(5)]
            ended = pool.submit(end, api, person.token, tokens["session_id"])
            assert ended.result().status_code == 204
            answers = [renewal.result() for renewal in renewals]
        for answer in answers:
            if answer.status_code == 200:
                over(api, answer.json())
            else:
                refused(answer, 401, "session_ended")
        over(api, tokens)


def test_a_refresh_does_not_wait_for_a_change_of_the_password(api: CheckedApi) -> None:
    """Which has the person's row and wants the sessions': the two would wait for one another."""
    person, tokens = signed_in(api)
    with psycopg.connect(api.endpoints.database_url) as holder:
        holder.execute("SELECT FROM okane.people WHERE id = %s FOR UPDATE", [person.id])
        assert refresh(api, tokens["refresh_token"]).status_code == 200


# What it costs


def costs(stand: Stand, ask: Callable[[], httpx.Response], status: int, postgres: int, redis: int) -> None:
    """One request's round trips; asked again while its function leaves Redis alone."""
    for _ in range(TRIES):
        before = (stand.between.postgres.round_trips, stand.between.redis.requests)
        answer = ask()
        found = (stand.between.postgres.round_trips - before[0], stand.between.redis.requests - before[1])
        assert answer.status_code == status, answer.text
        assert found[0] == postgres, found
        if found[1] == redis:
            return
        assert found[1] == 0, found
    pytest.fail(f"Redis was left alone {TRIES} times")


def test_each_costs_one_round_trip(api: CheckedApi, stand: Stand) -> None:
    person = api.sign_up("Asha")
    several = [again(api, person) for _ in range(2 * TRIES)]
    costs(stand, lambda: api.call("GET", SESSIONS, token=person.token), 200, 1, 0)
    costs(stand, lambda: end(api, person.token, several.pop()["session_id"]), 204, 1, 1)
    costs(stand, lambda: end(api, person.token, uuid.uuid4()), 404, 1, 0)
    costs(stand, lambda: end(api, person.token, "no-uuid"), 404, 0, 0)
    people = [api.sign_up("Asha") for _ in range(3)]
    costs(stand, lambda: end(api, people.pop().token), 204, 1, 1)
    family = again(api, person)

    def rotate() -> httpx.Response:
        answer = refresh(api, family["refresh_token"])
        family.update(answer.json())
        return answer

    costs(stand, rotate, 200, 1, 1)


# Families of refresh tokens


def reuse(api: CheckedApi, tokens: Tokens) -> None:
    """Show a token again whose grace is over."""
    age(
        api, "UPDATE refresh_tokens SET used_at = used_at - interval '11 s' WHERE session_id = %s"
        " AND used_at IS NOT NULL", tokens["session_id"]
    )  # fmt: skip
    refused(refresh(api, tokens["refresh_token"]), 401, "session_ended")


def test_reuse_is_mailed_to_the_owner_once(api: CheckedApi, stand: Stand) -> None:
    person, tokens = signed_in(api)
    renewed = refresh(api, tokens["refresh_token"]).json()
    warm(api, stand, renewed["access_token"])
    before = len(api.mails(person.email))
    reuse(api, tokens)
    [mail, *_] = told = api.mails(person.email)
    assert len(told) == before + 1
    assert "was ended" in mail["subject"]
    assert not any(character.isdigit() for character in mail["text"]), "neither a code nor an address"
    for token in (tokens["refresh_token"], renewed["refresh_token"]):
        for _ in range(3):
            refused(refresh(api, token), 401, "session_ended")
    over(api, renewed)
    assert len(api.mails(person.email)) == before + 1
    alive(api, person.token)


def test_twenty_reuses_at_once_are_one_mail(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    refresh(api, tokens["refresh_token"])
    age(api, "UPDATE refresh_tokens SET used_at = used_at - interval '11 s' WHERE session_id = %s"
             " AND used_at IS NOT NULL", tokens["session_id"])  # fmt: skip
    before = len(api.mails(person.email))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: refresh(api, tokens["refresh_token"]), range(20)))
    for answer in answers:
        refused(answer, 401, "session_ended")
    assert len(api.mails(person.email)) == before + 1


def test_an_older_one_is_not_repeated_within_its_ten_seconds(api: CheckedApi) -> None:
    """Three rotations in a moment: only the last but one may come again."""
    _, tokens = signed_in(api)
    family = [tokens]
    for _ in range(3):
        family.append(refresh(api, family[-1]["refresh_token"]).json())
    assert refresh(api, family[2]["refresh_token"]).json()["refresh_token"] == family[3]["refresh_token"]
    refused(refresh(api, family[1]["refresh_token"]), 401, "session_ended")
    refused(refresh(api, family[3]["refresh_token"]), 401, "session_ended")


def test_a_repeated_answer_makes_no_second_token(api: CheckedApi) -> None:
    _, tokens = signed_in(api)
    first = refresh(api, tokens["refresh_token"]).json()
    second = refresh(api, tokens["refresh_token"]).json()
    assert {name: second[name] for name in ("refresh_token", "session_id")} == {
        name: first[name] for name in ("refresh_token", "session_id")
    }
    assert second["access_token"] != first["access_token"]
    third = refresh(api, second["refresh_token"]).json()
    assert refresh(api, third["refresh_token"]).status_code == 200


def test_a_hundred_refreshes_in_a_quarter_of_an_hour(api: CheckedApi) -> None:
    person, tokens = signed_in(api)
    newest = refresh(api, tokens["refresh_token"]).json()
    age(api, "UPDATE budgets SET spent = 98 WHERE key = %s AND spent = 1", f"refresh:{tokens['session_id']}")
    for _ in range(2):
        newest = refresh(api, newest["refresh_token"]).json()
    late = refresh(api, newest["refresh_token"])
    refused(late, 429, "rate_limited")
    assert 1 <= int(late.headers["retry-after"]) <= 900
    assert profile(api, newest).status_code == 200, "what is signed already goes on"
    other = again(api, person)
    assert refresh(api, other["refresh_token"]).status_code == 200, "each session for itself"
    age(api, "UPDATE budgets SET started_at = started_at - interval '15 min' WHERE key = %s",
        f"refresh:{tokens['session_id']}")  # fmt: skip
    assert refresh(api, newest["refresh_token"]).status_code == 200, "and it was not spent by the refusal"


# Without Redis


def test_sessions_end_without_redis(api: CheckedApi, stand: Stand) -> None:
    """The database knows at once, and while there is no Redis every read asks it."""
    person = api.sign_up("Asha")
    several = [again(api, person) for _ in range(3)]
    for tokens in several:
        warm(api, stand, tokens["access_token"])
    stand.valkey.stop()
    try:
        assert end(api, person.token, several[0]["session_id"]).status_code == 204
        over(api, several[0])
        alive(api, several[1]["access_token"])
        assert len(sessions(api, person.token)) == 3
        assert end(api, several[1]["access_token"]).status_code == 204
        for tokens in several:
            over(api, tokens)
        assert profile(api, again(api, person)).status_code == 200
        assert log_in(api, person.email, secrets.token_hex(8)).status_code == 401
    finally:
        stand.restart()
    for tokens in several:
        over(api, tokens)


def test_an_end_that_redis_did_not_hear_of(api: CheckedApi, stand: Stand) -> None:
    """Whatever asks the database is refused at once. A warm read may be shown until its value is two minutes old or the
    warmer has repeated the end (tests/test_warmer.py), whichever is earlier.
    """
    person, tokens = signed_in(api)
    token = tokens["access_token"]
    warm(api, stand, token)
    stand.between.redis.misbehave = lambda *_: None  # the connection is closed instead of an answer
    try:
        assert end(api, person.token, tokens["session_id"]).status_code == 204
    finally:
        stand.between.redis.misbehave = None
    for path in ("/v1/wallets", SESSIONS, f"{WALLET}/transactions?limit=3"):
        refused(api.call("GET", path, token=token), 401, "session_ended")
    opened = {"amount": 5, "bank": "hdfc"}
    path = f"{WALLET}/deposits"
    refused(api.call("POST", path, json=opened, token=token, key=f"key-{uuid.uuid4()}"), 401, "session_ended")
    refused(refresh(api, tokens["refresh_token"]), 401, "session_ended")
    assert stand.redis("GET", f"session:{tokens['session_id']}").startswith("1."), "it was not heard of"
    stand.redis("DEL", wallet_key(person))  # as time does
    refused(api.call("GET", WALLET, token=token), 401, "session_ended")
