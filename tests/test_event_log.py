"""The event log: who signed in, what was refused or changed, each once, under the id of the reply; and never a secret."""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import pytest

from okane_common.observability import hint
from tests.support.api import Person
from tests.support.browser import COOKIE, Browser, queried, redeem
from tests.support.contract import CheckedApi
from tests.support.platform import ROOT, Platform
from tests.support.sign_in import address, age, log_in, password, refresh, register, signed_in, verify, wrong

LOG_SECONDS = 10.0  # how long a line may take from the answer to the file, which another process writes
ALWAYS = {"level", "location", "message", "timestamp", "service", "correlation_id", "event"}
MAY = {"xray_trace_id", "function_request_id"}
# It takes a provider that is away.
ELSEWHERE = {"provider_failed"}


@dataclass
class Stage:
    """A client, the log, and every secret that was used."""

    api: CheckedApi
    platform: Platform
    secrets: set[str] = field(default_factory=set)

    def keep(self, *secrets: str) -> None:
        """None of these may be in any log."""
        self.secrets.update(secrets)

    def person(self) -> tuple[Person, dict[str, Any]]:
        person, tokens = signed_in(self.api)
        self.keep(person.email, person.password, person.token, person.refresh_token)
        return person, self.tokens(tokens)

    def tokens(self, tokens: dict[str, Any]) -> dict[str, Any]:
        self.keep(tokens["access_token"], tokens["refresh_token"])
        return tokens

    def secret(self) -> str:
        made = password()
        self.keep(made)
        return made

    def address(self) -> str:
        made = address()
        self.keep(made)
        return made

    def code(self, email: str) -> str:
        """A mailed code for a new password."""
        before = len(self.api.mails(email))
        self.api.call("POST", "/v1/auth/password/forgot", json={"email": email})
        code = self.api.code(email, after=before)
        self.keep(code)
        return code

    def lines(self, answer: httpx.Response) -> list[dict[str, Any]]:
        """What the log says of one reply, up to its line `request`, which comes last."""
        wanted = answer.headers["x-request-id"]
        deadline = time.monotonic() + LOG_SECONDS
        while True:
            log = (self.platform.state / "logs" / "functions.log").read_text(errors="replace")
            said = [
                line.partition(": ")[2]
                for line in log.splitlines(keepends=True)
                if wanted in line and line.endswith("\n")
            ]
            found = [json.loads(text) for text in said if text.startswith("{")]
            if any(line["message"] == "request" for line in found):
                assert all(line["correlation_id"] == wanted for line in found)
                return found
            assert time.monotonic() < deadline, f"no line of the request {wanted}"
            time.sleep(0.02)


class Row(NamedTuple):
    """What somebody does, and the event that tells of it. `act` gives the answer and what the event must say."""

    event: str
    act: Callable[[Stage], tuple[httpx.Response, dict[str, object]]]
    name: str = ""


@pytest.fixture(scope="module")
def stage(platform: Platform) -> Iterator[Stage]:
    api = CheckedApi(platform.endpoints)
    yield Stage(api, platform)
    api.close()


def of(person: Person, tokens: dict[str, Any], **more: object) -> dict[str, object]:
    return {"person_id": person.id, "session_id": tokens["session_id"]} | more


def sign_up(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email = s.address()
    body = {"email": email, "password": s.secret(), "name": "Asha"}
    return s.api.call("POST", "/v1/auth/register", json=body), {"email": hint(email)}


def sign_up_again(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    body = {"email": person.email, "password": s.secret(), "name": "Asha"}
    return s.api.call("POST", "/v1/auth/register", json=body), {"email": hint(person.email)}


def prove(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email = s.address()
    code = register(s.api, email, s.secret())
    s.keep(code)
    answer = verify(s.api, email, code)
    tokens = s.tokens(answer.json())
    me = s.api.call("GET", "/v1/me", token=tokens["access_token"]).json()
    return answer, {"method": "code", "person_id": me["id"], "session_id": tokens["session_id"]}


def prove_wrongly(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email = s.address()
    guess = wrong(register(s.api, email, s.secret()))
    s.keep(guess)
    return verify(s.api, email, guess), {"email": hint(email), "code": "code_invalid"}


def enter(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    answer = log_in(s.api, person.email, person.password)
    return answer, of(person, s.tokens(answer.json()), method="password")


def enter_wrongly(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    return log_in(s.api, person.email, s.secret()), {"email": hint(person.email), "code": "credentials_invalid"}


def enter_as_nobody(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email = s.address()
    return log_in(s.api, email, s.secret()), {"email": hint(email), "code": "credentials_invalid"}


def enter_unproved(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email, secret = s.address(), s.secret()
    s.keep(register(s.api, email, secret))
    return log_in(s.api, email, secret), {"email": hint(email), "code": "email_unverified"}


def enter_too_often(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    log_in(s.api, person.email, s.secret())
    age(s.api, "UPDATE budgets SET spent = 10 WHERE key LIKE %s", f"log_in:{person.email}:%")
    return log_in(s.api, person.email, s.secret()), {"email": hint(person.email), "code": "rate_limited"}


def reuse(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    second = s.tokens(refresh(s.api, tokens["refresh_token"]).json())
    s.tokens(refresh(s.api, second["refresh_token"]).json())
    return refresh(s.api, tokens["refresh_token"]), of(person, tokens)


def log_out(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    answer = s.api.call("POST", "/v1/auth/logout", token=tokens["access_token"])
    return answer, of(person, tokens, by=tokens["session_id"])


def end_one(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    [mine, _] = s.api.call("GET", "/v1/auth/sessions", token=person.token).json()["data"]
    answer = s.api.call("DELETE", f"/v1/auth/sessions/{tokens['session_id']}", token=person.token)
    return answer, of(person, tokens, by=mine["id"])


def end_all(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    answer = s.api.call("DELETE", "/v1/auth/sessions", token=tokens["access_token"])
    return answer, {"person_id": person.id, "count": "2", "by": tokens["session_id"]}


def change_profile(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    return s.api.call("PATCH", "/v1/me", json={"name": "Asha K"}, token=tokens["access_token"]), of(person, tokens)


def change_password(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    body = {"current_password": person.password, "new_password": s.secret()}
    return s.api.call("PUT", "/v1/auth/password", json=body, token=tokens["access_token"]), of(
        person, tokens, ended="1"
    )


def change_password_wrongly(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    body = {"current_password": s.secret(), "new_password": s.secret()}
    answer = s.api.call("PUT", "/v1/auth/password", json=body, token=tokens["access_token"])
    return answer, of(person, tokens, code="credentials_invalid")


def change_password_badly(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, tokens = s.person()
    body = {"current_password": person.password, "new_password": "iloveyou"}
    answer = s.api.call("PUT", "/v1/auth/password", json=body, token=tokens["access_token"])
    return answer, of(person, tokens, code="validation_failed")


def forget(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    return s.api.call("POST", "/v1/auth/password/forgot", json={"email": person.email}), {"email": hint(person.email)}


def forget_as_nobody(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    email = s.address()
    return s.api.call("POST", "/v1/auth/password/forgot", json={"email": email}), {"email": hint(email)}


def reset(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    body = {"email": person.email, "code": s.code(person.email), "new_password": s.secret()}
    return s.api.call("POST", "/v1/auth/password/reset", json=body), {"person_id": person.id, "ended": "2"}


def reset_wrongly(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    guess = wrong(s.code(person.email))
    s.keep(guess)
    body = {"email": person.email, "code": guess, "new_password": s.secret()}
    return s.api.call("POST", "/v1/auth/password/reset", json=body), {
        "email": hint(person.email),
        "code": "code_invalid",
    }


# By the provider


def known_there(s: Stage, email: str) -> str:
    """Somebody's name with the provider."""
    sub = f"sub-{uuid.uuid4().hex}"
    answer = httpx.put(
        f"{s.api.endpoints.provider}/users/{sub}", json={"email": email, "email_verified": True, "name": "Mina"}
    )
    assert answer.is_success
    return sub


def come_back(s: Stage, sub: str | None) -> tuple[httpx.Response, str]:
    """The callback's answer to a whole round, and the code for the front end."""
    with Browser(s.api) as browser:
        back = browser.choose(browser.start(), sub)
        s.keep(browser.cookie or "no cookie", *([queried(back)["code"]] if sub else []))
        answer = browser.get(back)
    code = queried(answer.headers["location"]).get("code", "")
    s.keep(*([code] if code else []))
    return answer, code


def make(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    answer, code = come_back(s, known_there(s, s.address()))
    me = s.api.call("GET", "/v1/me", token=s.tokens(redeem(s.api, code).json())["access_token"]).json()
    return answer, {"person_id": me["id"], "issuer": s.api.endpoints.provider}


def link(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    answer, _ = come_back(s, known_there(s, person.email))
    return answer, {"person_id": person.id, "issuer": s.api.endpoints.provider}


def know(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    sub = known_there(s, person.email)
    come_back(s, sub)
    answer, _ = come_back(s, sub)
    return answer, {"person_id": person.id, "issuer": s.api.endpoints.provider}


def deny(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    return come_back(s, None)[0], {"reason": "access_denied", "said": "the provider said no"}


def clash(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    """A second person of the provider's with one e-mail."""
    person, _ = s.person()
    come_back(s, known_there(s, person.email))
    answer, _ = come_back(s, known_there(s, person.email))
    return answer, {"reason": "identity_conflict", "said": hint(person.email)}


def forge_state(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    cookie = f"{uuid.uuid4().hex}.{uuid.uuid4().hex}"
    s.keep(cookie)
    path = f"/v1/auth/google/callback?state={uuid.uuid4().hex}&code={uuid.uuid4().hex}"
    answer = s.api.call("GET", path, headers={"Cookie": f"{COOKIE}={cookie}"})
    return answer, {"reason": "state_invalid", "said": "not our cookie"}


def redeem_one(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    person, _ = s.person()
    answer = redeem(s.api, come_back(s, known_there(s, person.email))[1])
    return answer, of(person, s.tokens(answer.json()), method="provider")


def redeem_nothing(s: Stage) -> tuple[httpx.Response, dict[str, object]]:
    code = (uuid.uuid4().hex * 2)[:43]
    s.keep(code)
    return redeem(s.api, code), {"method": "provider", "code": "code_invalid"}


EVENTS = [
    Row("sign_up_asked", sign_up),
    Row("sign_up_asked", sign_up_again, "by somebody who is here"),
    Row("signed_in", prove, "by a code"),
    Row("verify_refused", prove_wrongly),
    Row("signed_in", enter, "by a password"),
    Row("sign_in_refused", enter_wrongly, "a wrong password"),
    Row("sign_in_refused", enter_as_nobody, "nobody"),
    Row("sign_in_refused", enter_unproved, "not proved"),
    Row("sign_in_refused", enter_too_often, "too often"),
    Row("exchange_reused", reuse),
    Row("session_ended", log_out, "by itself"),
    Row("session_ended", end_one, "by another"),
    Row("sessions_ended", end_all),
    Row("profile_changed", change_profile),
    Row("password_changed", change_password),
    Row("password_change_refused", change_password_wrongly, "a wrong one"),
    Row("password_change_refused", change_password_badly, "a common one"),
    Row("reset_asked", forget),
    Row("reset_asked", forget_as_nobody, "by nobody"),
    Row("password_reset", reset),
    Row("reset_refused", reset_wrongly),
    Row("identity_made", make),
    Row("identity_linked", link),
    Row("identity_known", know),
    Row("provider_refused", deny, "by the person"),
    Row("provider_refused", clash, "two of one address"),
    Row("provider_refused", forge_state, "a forged state"),
    Row("signed_in", redeem_one, "by the provider"),
    Row("sign_in_refused", redeem_nothing, "no code of ours"),
]


@pytest.mark.parametrize("row", EVENTS, ids=lambda row: f"{row.event} {row.name}".strip())
def test_an_event_is_logged_once_with_its_ids(stage: Stage, row: Row) -> None:
    answer, expected = row.act(stage)
    lines = stage.lines(answer)
    [event] = [line for line in lines if line["message"] == "event"]
    assert event["event"] == row.event
    assert {name: value for name, value in event.items() if name not in ALWAYS | MAY} == expected
    [request] = [line for line in lines if line["message"] == "request"]
    assert request["status"] == answer.status_code
    code = answer.json()["code"] if answer.status_code >= 400 else None
    assert request.get("code") == code
    assert ("code" in request) == (code is not None)


def test_every_event_of_the_code_is_here() -> None:
    named: set[str] = set()
    for path in [*ROOT.glob("layers/okane_common/okane_common/*.py"), *ROOT.glob("functions/*/app.py")]:
        named |= set(re.findall(r"^\s*event\(f?\"(\w+)", path.read_text(), re.MULTILINE))
    assert "identity_" in named
    named = (named - {"identity_"}) | {"identity_made", "identity_linked", "identity_known"}
    assert named == {row.event for row in EVENTS} | ELSEWHERE


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", "/v1/me", {}, "token_missing"),
        ("GET", "/v1/wallets/INR", {"Authorization": "Bearer x.y.z"}, "token_invalid"),
        ("DELETE", "/v1/auth/sessions", {"Authorization": "Bearer x.y.z"}, "token_invalid"),
        ("POST", "/v1/auth/refresh", {}, "media_type_unsupported"),
        ("POST", "/v1/webhooks/bank/hdfc", {}, "media_type_unsupported"),
    ],
)
def test_a_refused_request_is_logged_with_its_code(
    stage: Stage, method: str, path: str, headers: dict[str, str], code: str
) -> None:
    sent = {"Content-Type": "text/plain"} if method == "POST" else {}
    content = "x" if method == "POST" else None
    answer = stage.api.call(method, path, headers=headers | sent, content=content)
    lines = stage.lines(answer)
    assert [(line["message"], line.get("code"), line["status"]) for line in lines] == [
        ("request", code, answer.status_code)
    ]
    assert answer.json()["code"] == code


def test_an_event_tells_no_address(stage: Stage) -> None:
    """Not the network either: the access log has the address, by the same id."""
    log = (stage.platform.state / "logs" / "functions.log").read_text(errors="replace")
    events = [line for line in log.splitlines() if '"message":"event"' in line]
    assert len(events) > len(EVENTS)
    assert not [line for line in events if re.search(r"[^*\"]{2}@", line)]


def test_no_secret_is_in_any_log(stage: Stage) -> None:
    """Of all that was used above. The local provider's own log is not ours: it names whom it vouches for."""
    assert len(stage.secrets) > 100
    logs = [file for file in (stage.platform.state / "logs").iterdir() if file.name != "provider.log"]
    for file in logs:
        log = file.read_text(errors="replace")
        assert log or file.name != "functions.log"
        for secret in stage.secrets:
            whole = rf"(?<![\w.,+-]){secret}(?![\w.,+-])" if len(secret) == 6 else re.escape(secret)
            assert not re.search(whole, log, re.IGNORECASE), f"{secret[:12]}... is in {file.name}"
