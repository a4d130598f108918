"""The OpenID provider of `./okane up`: a child that answers, is named when its port is taken, and goes when it is told to."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local import provider
from local.provider import PEOPLE, Provider, ProviderError


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    started = Provider(0, tmp_path_factory.mktemp("provider"))
    started.wait_until_ready()
    yield started
    started.stop()


def test_it_says_where_everything_is_under_its_own_name(running: Provider) -> None:
    found = httpx.get(f"{running.url}/.well-known/openid-configuration").json()
    assert found["issuer"] == running.url
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        assert found[name].startswith(f"{running.url}/")
    [key] = httpx.get(found["jwks_uri"]).json()["keys"]
    assert (key["kty"], "d" in key) == ("RSA", False)


def test_its_page_offers_people(running: Provider) -> None:
    query = {"client_id": provider.CLIENT_ID, "redirect_uri": "http://127.0.0.1/", "response_type": "code"}
    page = httpx.get(f"{running.url}/oauth2/authorize", params=query | {"scope": "openid"})
    assert page.status_code == 200
    for person in PEOPLE:
        assert f'value="{person["sub"]}"' in page.text


def test_programs_tell_it_of_more(running: Provider) -> None:
    more = httpx.put(f"{running.url}/users/ravi", json={"email": "ravi@example.com", "email_verified": True})
    assert more.status_code == 204


def test_it_listens_on_this_machine_only(running: Provider) -> None:
    assert running.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Provider(taken.getsockname()[1], tmp_path)


def test_one_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "PEOPLE", ({"no": "sub"},))
    broken = Provider(0, tmp_path)
    with pytest.raises(ProviderError, match=r"(?s)did not start on http://127\.0\.0\.1:\d+:.*sub"):
        broken.wait_until_ready()
    assert broken.poll() is not None


def test_it_ends_when_it_is_told_to_and_again(tmp_path: Path) -> None:
    started = Provider(0, tmp_path)
    started.wait_until_ready()
    assert started.poll() is None
    started.stop()
    started.stop()
    assert started.poll() is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(started.url)
