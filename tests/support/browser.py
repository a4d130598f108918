"""A small browser for signing in by a provider: it keeps cookies, follows redirects, reads the provider's form and posts it."""

from html.parser import HTMLParser
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from tests.support.contract import CheckedApi
from tests.support.networks import from_address

COOKIE = "okane-google"


class Arrival(NamedTuple):
    """Where the callback sent the browser, and what it said there: a code or an error, the other is empty."""

    url: str
    code: str
    error: str


class _Forms(HTMLParser):
    """The forms of a page: for each the names of its inputs and buttons, with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, set[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            assert found.get("method") == "post"
            assert "action" not in found  # it goes to the page's own address
            self.forms.append({})
        elif tag in ("input", "button") and self.forms and found.get("name"):
            self.forms[-1].setdefault(found["name"] or "", set()).add(found.get("value") or "")


class Browser:
    """One browser, which nobody else's cookies are in. address: where it connects from, as the API sees it. seconds: how
    long it waits for anything.
    """

    def __init__(self, api: CheckedApi, address: str = "127.0.0.1", seconds: float = 30) -> None:
        self._contract = api.contract
        self._here = api.endpoints.api
        self._http = httpx.Client(
            timeout=seconds,
            trust_env=False,
            transport=from_address(address),
            headers={"User-Agent": "B"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def cookie(self) -> str | None:
        """What our API has left in it."""
        return self._http.cookies.get(COOKIE)

    @cookie.setter
    def cookie(self, value: str | None) -> None:
        self._http.cookies.clear()
        if value is not None:
            self._http.cookies.set(COOKIE, value, domain="127.0.0.1", path="/")

    def get(self, path: str, **details: Any) -> httpx.Response:
        """One answer of our API, as the contract has it unless it is a 503; no redirect is followed."""
        answer = self._http.get(urljoin(self._here, path), **details)
        if answer.status_code != 503:
            self._contract.check(answer)
        return answer

    def start(self, **query: str) -> str:
        """Go out to the provider; its address."""
        answer = self.get("/v1/auth/google", params=query)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def choose(self, address: str, sub: str | None) -> str:
        """Be somebody on the provider's page, or nobody (None); the address that it sends the browser back to."""
        page = self._http.get(address)
        assert page.status_code == 200, page.text
        reader = _Forms()
        reader.feed(page.text)
        wanted, sent = ("sub", {"sub": sub}) if sub is not None else ("action", {"action": "deny"})
        assert any(wanted in form for form in reader.forms), page.text
        answer = self._http.post(address, data=sent)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def come_back(self, url: str) -> Arrival:
        """Follow the provider to our callback, and from there to the front end."""
        answer = self.get(url)
        assert answer.status_code == 302, answer.text
        return arrival(answer.headers["location"])

    def sign_in(self, sub: str | None, **query: str) -> Arrival:
        """The whole round."""
        return self.come_back(self.choose(self.start(**query), sub))


def arrival(url: str) -> Arrival:
    """Reads a front end's address."""
    parts = urlsplit(url)
    said = parse_qs(parts.query, strict_parsing=True)
    assert set(said) in ({"code"}, {"error"}), url
    return Arrival(parts._replace(query="").geturl(), said.get("code", [""])[0], said.get("error", [""])[0])


def queried(url: str) -> dict[str, str]:
    """An address's query, of which nothing comes twice."""
    found = parse_qs(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)
    assert all(len(values) == 1 for values in found.values()), url
    return {name: values[0] for name, values in found.items()}


def redeem(api: CheckedApi, code: str, verifier: str | None = None) -> httpx.Response:
    """Exchange the code of an arrival."""
    body = {"code": code} if verifier is None else {"code": code, "code_verifier": verifier}
    return api.call("POST", "/v1/auth/google/token", json=body)
