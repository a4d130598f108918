"""The two people that are ready when `./okane up` is: made through the API itself, as anybody would be.

Running it again finds them as they are: whoever can sign in has signed up before, and asha's first money has a
fixed idempotency key, so that it comes once.
"""

import http.client
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlsplit

from local.bank_page import money
from local.state import Endpoints

FIRST_MONEY = {"amount": 500000, "bank": "hdfc"}  # INR 5,000.00
FIRST_MONEY_KEY = "first-money-of-the-demo"
CALL_SECONDS = 30.0
MAIL_SECONDS = 10.0


class PeopleError(Exception):
    """The people could not be made ready; the message says at which call."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who can sign in."""

    name: str
    email: str
    password: str
    handle: str
    balance: str  # in words, e.g. "INR 5,000.00"


def make_ready(endpoints: Endpoints, passwords: Mapping[str, str], report: Callable[[str], None]) -> list[Person]:
    """Sign up who is missing and give asha her first money.

    PeopleError if the API does not play along; people without money are good enough to look around, so that is only
    reported.
    """
    people = []
    for name, password in passwords.items():
        email = f"{name}@example.com"
        token = _sign_in(endpoints, name, email, password)
        if name == "asha":
            try:
                _bring_in_money(endpoints, token)
            except PeopleError as error:
                report(f"no money for asha: {error}")
        _, profile = _call((200,), "GET", f"{endpoints.api}/v1/me", token=token)
        _, wallet = _call((200,), "GET", f"{endpoints.api}/v1/wallets/INR", token=token)
        available = cast(int, wallet["available"])
        people.append(Person(name, email, password, str(profile["handle"]), money(available, "INR")))
    return people


def _sign_in(endpoints: Endpoints, name: str, email: str, password: str) -> str:
    """An access token, after signing up if need be."""
    credentials = {"email": email, "password": password}
    login = f"{endpoints.api}/v1/auth/login"
    status, tokens = _call((200, 401, 403), "POST", login, credentials)
    if status != 200:
        mails_before = len(_mails(endpoints, email))
        _call((202,), "POST", f"{endpoints.api}/v1/auth/register", credentials | {"name": name.capitalize()})
        code = _code(endpoints, email, mails_before)
        _, tokens = _call((200,), "POST", f"{endpoints.api}/v1/auth/verify", {"email": email, "code": code})
    return str(tokens["access_token"])


def _mails(endpoints: Endpoints, email: str) -> list[dict[str, str]]:
    _, answer = _call((200,), "GET", f"{endpoints.mailbox}/messages?to={quote(email)}")
    return cast(list[dict[str, str]], answer["data"])


def _code(endpoints: Endpoints, email: str, mails_before: int) -> str:
    deadline = time.monotonic() + MAIL_SECONDS
    while time.monotonic() < deadline:
        mails = _mails(endpoints, email)
        if len(mails) > mails_before:
            found = re.search(r"(?<!\d)\d{6}(?!\d)", mails[0]["text"])
            if found is None:
                raise PeopleError(f"{email} exists in this database with another password than in secrets.json")
            return found.group()
        time.sleep(0.02)
    raise PeopleError(f"no mail to {email} arrived")


def _bring_in_money(endpoints: Endpoints, token: str) -> None:
    deposits = f"{endpoints.api}/v1/wallets/INR/deposits"
    _, intent = _call((200, 201), "POST", deposits, FIRST_MONEY, token=token, key=FIRST_MONEY_KEY)
    if intent["status"] == "Processing":
        # Where the bank is now: the intent may be from an earlier start with other ports.
        page = urlsplit(str(intent["payment_url"]))._replace(netloc=urlsplit(endpoints.bank).netloc).geturl()
        _, outcome = _call((200,), "POST", page, {"action": "approve"})
        [delivery] = cast(list[dict[str, object]], outcome["deliveries"])
        if delivery["status"] != 200:
            raise PeopleError(f"the bank's webhook: {delivery['status']} {delivery['answer']}")


def _call(
    expected: tuple[int, ...],
    method: str,
    url: str,
    body: Mapping[str, object] | None = None,
    *,
    token: str = "",
    key: str = "",
) -> tuple[int, dict[str, object]]:
    """One request and its JSON answer. PeopleError unless its status is one of the expected."""
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    headers |= {"Idempotency-Key": key} if key else {}
    what = f"{method} {parts.path}"
    connection = http.client.HTTPConnection(parts.netloc, timeout=CALL_SECONDS)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        content = json.loads(text)
    except (OSError, http.client.HTTPException) as error:
        raise PeopleError(f"{what}: {type(error).__name__}: {error}") from error
    except ValueError:
        raise PeopleError(f"{what}: {answer.status}, not JSON") from None
    finally:
        connection.close()
    if not isinstance(content, dict) or answer.status not in expected:
        code = content.get("code", content) if isinstance(content, dict) else content
        raise PeopleError(f"{what}: {answer.status} {code}")
    return answer.status, content
