"""Attacks on signing in with Google, by browsers and on the way to the provider; nobody gains anything by any of them."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import psycopg
import pytest

from tests.support.browser import COOKIE, Arrival, Browser, arrival, queried, redeem
from tests.support.contract import refused
from tests.support.meddler import TOKENS, Json, Reply, Scene, encoded, scene
from tests.support.platform import Database, Services
from tests.support.sign_in import address, password, profile, register, verify


@pytest.fixture(scope="module")
def shared(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(services, database, tmp_path_factory.mktemp("provider")) as started:
        yield started


@pytest.fixture
def stage(shared: Scene) -> Scene:
    """The module's platform, with a provider that behaves."""
    shared.meddler.end.set()
    shared.meddler.behave()
    return shared


@pytest.fixture
def mine(stage: Scene) -> Iterator[Browser]:
    with Browser(stage.api) as browser:
        yield browser


@pytest.fixture
def theirs(stage: Scene) -> Iterator[Browser]:
    with Browser(stage.api, "127.0.0.2") as browser:
        yield browser


def changed(url: str, **query: str | None) -> str:
    """An address with another query; None takes one away."""
    kept = {name: value for name, value in (queried(url) | query).items() if value is not None}
    return urlsplit(url)._replace(query=urlencode(kept)).geturl()


def way_back(stage: Scene, browser: Browser, **query: str) -> str:
    """The address by which the provider sends back somebody new."""
    return browser.choose(browser.start(**query), stage.person())


def test_without_an_attack_there_is_a_person(stage: Scene, mine: Browser) -> None:
    with stage.gains(people=1, identities=1, sessions=1):
        assert redeem(stage.api, mine.come_back(way_back(stage, mine)).code).status_code == 200
    assert stage.meddler.refused == 0


# The state

STATES: dict[str, Callable[[str, str], str]] = {
    "missing": lambda mine, theirs: changed(mine, state=None),
    "empty": lambda mine, theirs: changed(mine, state=""),
    "another browser's": lambda mine, theirs: theirs,
    "another browser's, with my code": lambda mine, theirs: changed(mine, state=queried(theirs)["state"]),
    "a character less": lambda mine, theirs: changed(mine, state=queried(mine)["state"][:-1]),
    "a character more": lambda mine, theirs: changed(mine, state=queried(mine)["state"] + "A"),
    "in other letters": lambda mine, theirs: changed(mine, state=queried(mine)["state"].swapcase()),
    "long": lambda mine, theirs: changed(mine, state="x" * 4000),
    "no text": lambda mine, theirs: changed(mine, state=None) + "&state=%00%ED%A0%80%FF",
}


@pytest.mark.parametrize("attack", STATES)
def test_a_state_that_is_not_this_browsers_ends_nothing(
    stage: Scene, mine: Browser, theirs: Browser, attack: str
) -> None:
    urls = way_back(stage, mine), way_back(stage, theirs)
    asked = stage.meddler.asked[TOKENS]
    with stage.gains():
        assert mine.come_back(STATES[attack](*urls)).error == "state_invalid"
    assert stage.meddler.asked[TOKENS] == asked  # the provider was not even asked
    assert mine.cookie is None


def test_a_state_that_comes_twice_in_an_address_is_refused(stage: Scene, mine: Browser) -> None:
    url = way_back(stage, mine)
    with stage.gains():
        refused(mine.get(f"{url}&state={queried(url)['state']}"), 422, "validation_failed")


@pytest.mark.parametrize("first", ["success", "failure"])
def test_a_state_comes_back_once(stage: Scene, mine: Browser, first: str) -> None:
    """The second code is as good as the first for the provider, and the browser has kept its cookie against the rules."""
    away = mine.start()
    urls, cookie = [mine.choose(away, stage.person()) for _ in range(2)], mine.cookie
    if first == "success":
        assert mine.come_back(urls[0]).code
    else:
        assert mine.come_back(changed(urls[0], code=None, error="access_denied")).error == "access_denied"
    mine.cookie = cookie
    with stage.gains():
        assert mine.come_back(urls[1]).error == "state_invalid"


# The cookie


def sealed(stage: Scene, issued_at: int, return_to: str = "") -> tuple[str, str]:
    """A cookie under the platform's key, and its state."""
    root = base64.b64decode(json.loads((stage.platform.state / "secrets.json").read_text())["okane_secret"])

    def mark(what: str, text: str) -> str:
        key = hmac.digest(root, f"openid {what}".encode(), "sha256")
        return encoded(hmac.digest(key, len(text).to_bytes(4) + text.encode(), "sha256"))

    random = encoded(hashlib.sha256(str(time.monotonic_ns()).encode()).digest())
    front_end = return_to or f"{stage.api.endpoints.mailbox}/signed-in"
    content = encoded(json.dumps([random, issued_at, front_end, ""]).encode())
    return f"{content}.{mark('cookie', content)}", mark("state", random)


COOKIES: dict[str, Callable[[str, str], str | None]] = {
    "missing": lambda mine, theirs: None,
    "empty": lambda mine, theirs: "",
    "another browser's": lambda mine, theirs: theirs,
    "my content, their mark": lambda mine, theirs: f"{mine.split('.')[0]}.{theirs.split('.')[1]}",
    "no mark": lambda mine, theirs: mine.split(".")[0],
    "an empty mark": lambda mine, theirs: f"{mine.split('.')[0]}.",
    "a short mark": lambda mine, theirs: mine[:-30],
    "another content": lambda mine, theirs: ("B" if mine[0] == "A" else "A") + mine[1:],
    "no base64": lambda mine, theirs: "!.!",
    "an odd length": lambda mine, theirs: "A.A",
    "signed by nobody": lambda mine, theirs: f"{mine.split('.')[0]}.{encoded(bytes(32))}",
    "long": lambda mine, theirs: "A" * 4000,
    "many points": lambda mine, theirs: "." * 100,
    "another letter": lambda mine, theirs: mine + "A",
}


@pytest.mark.parametrize("attack", COOKIES)
def test_a_cookie_that_is_not_this_rounds_ends_nothing(
    stage: Scene, mine: Browser, theirs: Browser, attack: str
) -> None:
    url, _ = way_back(stage, mine), way_back(stage, theirs)
    assert mine.cookie
    assert theirs.cookie
    given = COOKIES[attack](mine.cookie, theirs.cookie)
    mine.cookie = given
    with stage.gains():
        assert mine.come_back(url).error == "state_invalid"


def test_two_cookies_end_nothing(stage: Scene, mine: Browser) -> None:
    url, cookie = way_back(stage, mine), mine.cookie
    with stage.gains():
        for header in (
            f"{COOKIE}={cookie}; {COOKIE}={cookie}",
            f"{COOKIE}=x; {COOKIE}={cookie}",
            f"{COOKIE}={cookie}\xff",
        ):
            answer = httpx.get(url, headers=[(b"Cookie", header.encode("latin-1"))])
            assert arrival(answer.headers["location"]).error == "state_invalid"


@pytest.mark.parametrize(("age", "error"), [(590, "access_denied"), (602, "state_invalid")])
def test_a_round_ends_after_ten_minutes(stage: Scene, mine: Browser, age: int, error: str) -> None:
    mine.cookie, state = sealed(stage, int(time.time()) - age)
    with stage.gains():
        assert mine.come_back(f"/v1/auth/google/callback?error=access_denied&state={state}").error == error


def test_a_round_to_an_address_that_is_configured_no_more_goes_to_the_first(stage: Scene, mine: Browser) -> None:
    mine.cookie, state = sealed(stage, int(time.time()), "https://old.example.com/in")
    arrived = mine.come_back(f"/v1/auth/google/callback?error=access_denied&state={state}")
    assert arrived == Arrival(f"{stage.api.endpoints.mailbox}/signed-in", "", "state_invalid")


# Codes


def test_a_code_of_another_browsers_round_is_refused(stage: Scene, mine: Browser, theirs: Browser) -> None:
    """The attacker's code in the victim's round, or a stolen one in the attacker's: PKCE knows whose it is."""
    victim, attacker = way_back(stage, mine), way_back(stage, theirs)
    with stage.gains():
        injected = changed(victim, code=queried(attacker)["code"])
        assert mine.come_back(injected).error == "provider_refused"
    assert stage.meddler.refused


def test_the_nonce_knows_it_too(stage: Scene, mine: Browser, theirs: Browser) -> None:
    stage.meddler.strict = False
    victim, attacker = way_back(stage, mine), way_back(stage, theirs)
    with stage.gains():
        assert mine.come_back(changed(victim, code=queried(attacker)["code"])).error == "token_invalid"


@pytest.mark.parametrize("attack", ["stripped", "plain", "the attacker's own"])
def test_a_downgraded_challenge_gives_nothing(stage: Scene, mine: Browser, attack: str) -> None:
    """Somebody on the way to the provider takes the challenge away."""
    away = mine.start()
    challenge = queried(away)["code_challenge"]
    changes: dict[str, dict[str, str | None]] = {
        "stripped": {"code_challenge": None, "code_challenge_method": None},
        "plain": {"code_challenge": challenge, "code_challenge_method": "plain"},
        "the attacker's own": {"code_challenge": encoded(hashlib.sha256(b"attacker").digest())},
    }
    before = stage.meddler.refused
    with stage.gains():
        assert mine.come_back(mine.choose(changed(away, **changes[attack]), stage.person())).error == "provider_refused"
    assert stage.meddler.refused == before + 1


def test_a_providers_code_is_used_once(stage: Scene, mine: Browser, theirs: Browser) -> None:
    used = way_back(stage, mine)
    assert mine.come_back(used).code
    stage.meddler.strict = False
    with stage.gains():
        again = changed(way_back(stage, theirs), code=queried(used)["code"])
        assert theirs.come_back(again).error == "provider_refused"


def test_our_code_is_exchanged_once_and_a_copy_ends_the_session(stage: Scene, mine: Browser) -> None:
    code = mine.come_back(way_back(stage, mine)).code
    with stage.gains(sessions=1):
        tokens = redeem(stage.api, code).json()
        assert profile(stage.api, tokens).status_code == 200
        refused(redeem(stage.api, code), 401, "code_invalid")
        refused(redeem(stage.api, code), 401, "code_invalid")
    refused(profile(stage.api, tokens), 401, "session_ended")


def test_one_code_at_once_gives_one_session(stage: Scene, mine: Browser) -> None:
    code = mine.come_back(way_back(stage, mine)).code
    with stage.gains(sessions=1), ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: redeem(stage.api, code), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401, 401]


def test_a_code_of_nobodys_is_refused(stage: Scene) -> None:
    with stage.gains():
        refused(redeem(stage.api, "A" * 43), 401, "code_invalid")
        for unfit in ("", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\x00"):
            refused(redeem(stage.api, unfit), 422, "validation_failed")


def test_two_callbacks_at_once_give_one_code(stage: Scene, mine: Browser, theirs: Browser) -> None:
    """From a provider that takes a code twice, and answers both at the same moment."""
    url = way_back(stage, mine)
    theirs.cookie = mine.cookie
    both = Barrier(2)
    first: list[Reply] = []

    def generous(reply: Reply) -> Reply:
        first.extend([reply] if reply.status == 200 else [])
        both.wait(10)
        return first[0]

    stage.meddler.changes[TOKENS] = generous
    with stage.gains(people=1, identities=1), ThreadPoolExecutor(2) as pool:
        arrived = list(pool.map(lambda browser: browser.come_back(url), (mine, theirs)))
    assert sorted(one.error for one in arrived) == ["", "state_invalid"]


def end_round(connection: "psycopg.Connection[Any]", subject: str, email: str) -> Json:
    """What the way back does in Postgres."""
    code, handles = secrets.token_bytes(32), [f"mina_{secrets.token_hex(8)}"]
    given = (secrets.token_bytes(32), "https://id.example.com", subject, email, "Mina", handles, "INR", code, "")
    statement = f"SELECT okane.end_round({', '.join(['%s'] * len(given))})"
    [(answer,)] = connection.execute(statement.encode(), given).fetchall()
    found: Json = answer
    return found


@pytest.mark.parametrize("known", [False, True])
def test_two_accounts_with_one_address_at_once_are_one_person(stage: Scene, database: Database, known: bool) -> None:
    """The second waits for the first, whose commit decides whose the address is."""
    email = stage.api.sign_up("Asha").email if known else address()
    with (
        stage.gains(people=int(not known), identities=1),
        psycopg.connect(database.app_url) as one,
        psycopg.connect(database.app_url, autocommit=True) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        first = end_round(one, f"one-{email}", email)
        coming = pool.submit(end_round, other, f"other-{email}", email)
        until_one_waits(database)
        assert not coming.done()
        one.commit()
        assert first["outcome"] == ("linked" if known else "made")
        assert coming.result(10) == {"outcome": "identity_conflict"}


def test_a_code_and_a_provider_prove_one_address_at_once(stage: Scene, database: Database) -> None:
    """Whoever comes first is the person; neither stands in the other's way for ever."""
    email = address()
    code = register(stage.api, email, password())
    with (
        stage.gains(people=1, sessions=1, identities=1),
        psycopg.connect(database.url) as holder,
        psycopg.connect(database.app_url, autocommit=True) as provider,
        ThreadPoolExecutor(2) as pool,
    ):
        # Both are stopped at the sign-up.
        holder.execute("SELECT FROM okane.sign_ups WHERE email = %s FOR UPDATE", [email])
        by_code = pool.submit(verify, stage.api, email, code)
        until_one_waits(database)
        by_provider = pool.submit(end_round, provider, f"sub-{email}", email)
        until_one_waits(database, 2)
        holder.rollback()
        assert by_provider.result(10)["outcome"] in ("made", "linked")
        assert by_code.result(10).status_code == 200


def until_one_waits(database: Database, count: int = 1) -> None:
    """Return once so many wait for a lock; fail after ten seconds."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 10
    with psycopg.connect(database.url, autocommit=True) as watcher:
        while watcher.execute(asked).fetchall() != [(count,)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# What the provider sends along

ANSWERS: dict[str, tuple[dict[str, str | None], str]] = {
    "no": ({"error": "access_denied", "code": None}, "access_denied"),
    "no, and a code": ({"error": "access_denied"}, "access_denied"),
    "another no": ({"error": "server_error", "code": None}, "provider_refused"),
    "markup": ({"error": "<script>alert(1)</script>\r\nX: y", "code": None}, "provider_refused"),
    "nothing": ({"code": None}, "provider_refused"),
    "an empty code": ({"code": ""}, "provider_refused"),
    "a code of nobody's": ({"code": "x"}, "provider_refused"),
    "a code that is no text": ({"code": "\x00\ud800\xff"}, "provider_refused"),
    "a code with more parameters": ({"code": "x&client_id=other"}, "provider_refused"),
    "a long code": ({"code": "x" * 4000}, "provider_refused"),
    "another provider's answer": ({"iss": "https://evil.example.com"}, "provider_refused"),
    "an empty issuer": ({"iss": ""}, "provider_refused"),
}


@pytest.mark.parametrize("attack", ANSWERS)
def test_an_answer_that_is_no_yes_gives_nothing(stage: Scene, mine: Browser, attack: str) -> None:
    query, error = ANSWERS[attack]
    url = way_back(stage, mine, return_to="http://localhost:5173/signed-in")
    kept = {name: value for name, value in (queried(url) | query).items() if value is not None}
    target = urlsplit(url)._replace(query=urlencode(kept, errors="surrogatepass")).geturl()
    with stage.gains():
        assert mine.come_back(target) == Arrival("http://localhost:5173/signed-in", "", error)


def test_the_providers_own_name_may_come_along(stage: Scene, mine: Browser) -> None:
    assert mine.come_back(changed(way_back(stage, mine), iss=stage.meddler.url)).code


UNVERIFIED: dict[str, Json] = {
    "unverified": {"email_verified": False},
    "the text true": {"email_verified": "true"},
    "one": {"email_verified": 1},
    "nothing said": {"email_verified": None},
    "a list": {"email_verified": [True]},
    "no address": {"email": None},
    "no text": {"email": ["victim@example.com"]},
    "no domain": {"email": "victim"},
    "with a name": {"email": "Mina <victim@example.com>"},
    "two": {"email": "a@example.com,victim@example.com"},
    "not ASCII": {"email": "victim@ex\u00e4mple.com"},
    "with a null": {"email": "victim@example.com\x00"},
    "with a line": {"email": "victim@example.com\n"},
    "long": {"email": f"{'x' * 64}@{'y' * 60}.{'z' * 60}.{'z' * 60}.{'z' * 60}"},
}


@pytest.mark.parametrize("attack", UNVERIFIED)
def test_an_address_that_the_provider_does_not_vouch_for_is_nobodys(stage: Scene, mine: Browser, attack: str) -> None:
    sub = stage.person(**UNVERIFIED[attack])
    with stage.gains():
        assert mine.sign_in(sub).error == "email_unverified"


LOOK_ALIKE: dict[str, Callable[[str], str]] = {
    "empty": lambda url: "",
    "elsewhere": lambda url: "https://evil.example.com/signed-in",
    "longer": lambda url: f"{url}/more",
    "a slash more": lambda url: f"{url}/",
    "a query": lambda url: f"{url}?next=evil",
    "a fragment": lambda url: f"{url}#",
    "shorter": lambda url: url[:-1],
    "only the origin": lambda url: url.removesuffix("/signed-in"),
    "as user": lambda url: f"{url.replace('//', '//127.0.0.1@evil.example.com')}",
    "as subdomain": lambda url: url.replace("127.0.0.1", "127.0.0.1.example.com"),
    "another port": lambda url: f"http://127.0.0.1:{(urlsplit(url).port or 0) - 1}/signed-in",
    "another scheme": lambda url: url.replace("http:", "https:"),
    "no scheme": lambda url: url.removeprefix("http:"),
    "a script": lambda url: "javascript:alert(1)",
    "capitals": lambda url: url.replace("signed-in", "Signed-In"),
    "capital scheme": lambda url: url.replace("http", "HTTP"),
    "encoded": lambda url: url.replace("signed", "%73igned"),
    "dots": lambda url: url.replace("/signed-in", "/./signed-in"),
    "backslash": lambda url: url.replace("/signed-in", "\\signed-in"),
    "a space": lambda url: f" {url}",
    "a line": lambda url: f"{url}\r\nSet-Cookie: x=y",
    "a null": lambda url: f"{url}\x00",
    "both": lambda url: f"{url},http://localhost:5173/signed-in",
    "localhost": lambda url: url.replace("127.0.0.1", "localhost"),
}


@pytest.mark.parametrize("attack", LOOK_ALIKE)
def test_return_to_is_an_exact_address(stage: Scene, mine: Browser, attack: str) -> None:
    url = LOOK_ALIKE[attack](f"{stage.api.endpoints.mailbox}/signed-in")
    problem = refused(mine.get(f"/v1/auth/google?return_to={quote(url, safe='')}"), 422, "validation_failed")
    assert [fault["pointer"] for fault in problem["errors"]] == ["?return_to"]
    assert mine.cookie is None
