"""A provider that is wrong, slow or gone, and ID tokens that are not its own; nobody gains anything by any of them."""

import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.browser import Browser
from tests.support.contract import refused
from tests.support.meddler import (
    CLIENT,
    DISCOVERY,
    KEYS,
    SECRET,
    TOKENS,
    Json,
    Key,
    Meddler,
    Scene,
    but,
    compact,
    drop,
    encoded,
    raw,
    says,
    scene,
)
from tests.support.platform import Database, Services

FOREIGN = Key("meddler")  # of the same name as the provider's


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
def browser(stage: Scene) -> Iterator[Browser]:
    with Browser(stage.api) as new:
        yield new


# ID tokens

HEADER: Json = {"alg": "RS256", "kid": "meddler", "typ": "JWT"}
type Forger = Callable[[Meddler, Json], str]


def claiming(**changes: object) -> Forger:
    """Signed as it should be, with other claims; None leaves one out."""

    def forge(meddler: Meddler, claims: Json) -> str:
        kept = {name: value for name, value in (claims | changes).items() if value is not None}
        return compact(HEADER, kept, meddler.keys[0].sign)

    return forge


def shifted(**seconds: float) -> Forger:
    """Signed as it should be, with other times, from now."""
    return lambda meddler, claims: claiming(**{name: time.time() + by for name, by in seconds.items()})(meddler, claims)


def headed(**changes: object) -> Forger:
    """Signed as it should be, with another header."""
    return lambda meddler, claims: compact(HEADER | changes, claims, meddler.keys[0].sign)


def signed(sign: Callable[[Meddler, bytes], bytes], **header: object) -> Forger:
    """Signed otherwise."""
    return lambda meddler, claims: compact(HEADER | header, claims, lambda data: sign(meddler, data))


def public_pem(meddler: Meddler) -> bytes:
    return meddler.keys[0].private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def by_own_key(place: str) -> Forger:
    """A key that the token brings along."""
    return lambda _, claims: compact(HEADER | {place: FOREIGN.public()}, claims, FOREIGN.sign)


def written(payload: bytes) -> Forger:
    return lambda meddler, _: compact(HEADER, payload, meddler.keys[0].sign)


def spelled(change: Callable[[str], str]) -> Forger:
    """A right token, written otherwise."""
    return lambda meddler, claims: change(claiming()(meddler, claims))


ALLOWED: dict[str, Forger] = {
    "the real claims": claiming(),
    "our client as the only one of a list": claiming(aud=[CLIENT]),
    "authorised party": claiming(azp=CLIENT),
    "a clock that is slow": shifted(iat=-570, exp=-30),
    "a clock that is fast": shifted(iat=40),
    "our client": claiming(aud=CLIENT),
}

FORGED: dict[str, Forger] = {
    "unsigned": lambda _, claims: compact(HEADER | {"alg": "none"}, claims, lambda _: b""),
    "unsigned in capitals": lambda _, claims: compact(HEADER | {"alg": "None"}, claims, lambda _: b""),
    "no signature": lambda _, claims: compact(HEADER, claims, lambda _: b""),
    "HS256 by the client's secret": signed(lambda _, data: hmac.digest(SECRET.encode(), data, "sha256"), alg="HS256"),
    "HS256 by the public key": signed(lambda m, data: hmac.digest(public_pem(m), data, "sha256"), alg="HS256"),
    "HS256 by the public JWK": signed(
        lambda m, data: hmac.digest(json.dumps(m.keys[0].public()).encode(), data, "sha256"), alg="HS256"
    ),
    "RS384": signed(lambda m, data: m.keys[0].private.sign(data, padding.PKCS1v15(), SHA384()), alg="RS384"),
    "PS256 by a key for RS256": signed(
        lambda m, data: m.keys[0].private.sign(data, padding.PSS(padding.MGF1(SHA256()), 32), SHA256()), alg="PS256"
    ),
    "ES256 in name": headed(alg="ES256"),
    "no algorithm": headed(alg=None),
    "a list of algorithms": headed(alg=["RS256"]),
    "a foreign key of the same name": lambda _, claims: compact(HEADER, claims, FOREIGN.sign),
    "a key in jwk": by_own_key("jwk"),
    "a key at jku": lambda m, claims: compact(HEADER | {"jku": f"{m.url}/evil"}, claims, FOREIGN.sign),
    "a key at x5u": lambda m, claims: compact(HEADER | {"x5u": f"{m.url}/evil"}, claims, FOREIGN.sign),
    "no key named": headed(kid=None),
    "a path as key": headed(kid="../../dev/null"),
    "an object as key": headed(kid={"kid": "meddler"}),
    "something critical": headed(crit=["exp"], exp=1),
    "a payload apart": headed(b64=False, crit=["b64"]),
    "another issuer": claiming(iss="https://accounts.google.com"),
    "the issuer with a slash": lambda m, claims: claiming(iss=claims["iss"] + "/")(m, claims),
    "a list of issuers": lambda m, claims: claiming(iss=[claims["iss"]])(m, claims),
    "no issuer": claiming(iss=None),
    "another client": claiming(aud="another-client"),
    "no client": claiming(aud=None),
    "an empty list of clients": claiming(aud=[]),
    "our client and another": claiming(aud=[CLIENT, "another"]),
    "our client and another, for ours": claiming(aud=[CLIENT, "another"], azp=CLIENT),
    "for another party": claiming(azp="another-client"),
    "expired": shifted(iat=-120, exp=-90),
    "ends at no time": claiming(exp=None),
    "ends in words": claiming(exp="tomorrow"),
    "ends in digits": claiming(exp="9999999999"),
    "ends when true": claiming(exp=True),
    "ends never": lambda m, claims: claiming(exp=float("nan"))(m, claims),
    "made long ago": shifted(iat=-700),
    "made in the future": shifted(iat=600),
    "made at no time": claiming(iat=None),
    "made in words": claiming(iat="now"),
    "made at no number": lambda m, claims: claiming(iat=float("nan"))(m, claims),
    "not valid yet": shifted(nbf=600),
    "no nonce": claiming(nonce=None),
    "another nonce": claiming(nonce="A" * 43),
    "a list of nonces": lambda m, claims: claiming(nonce=[claims["nonce"]])(m, claims),
    "an empty nonce": claiming(nonce=""),
    "nobody": claiming(sub=None),
    "an empty name": claiming(sub=""),
    "a number": claiming(sub=7),
    "a long name": claiming(sub="x" * 256),
    "a name with a line": claiming(sub="x\n"),
    "a name with a null": claiming(sub="x\x00"),
    "a name not in ASCII": claiming(sub="m\u00edna"),
    "half a character": claiming(sub="\ud800"),
    "claims that are a list": written(b"[]"),
    "claims that are no JSON": written(b"{"),
    "claims that are not UTF-8": written(b"\xff\xfe"),
    "claims within claims": written(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "a number of many digits": written(b'{"exp": ' + b"9" * 10_000 + b"}"),
    "a header that is a list": lambda m, claims: compact([], claims, m.keys[0].sign),
    "a header within headers": lambda m, claims: compact(
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000, claims, m.keys[0].sign
    ),
    "empty": spelled(lambda _: ""),
    "points": spelled(lambda _: ".."),
    "two parts": spelled(lambda token: token.rpartition(".")[0]),
    "four parts": spelled(lambda token: f"{token}.x"),
    "five parts": spelled(lambda token: f"{token}.x.y"),
    "no base64": spelled(lambda token: f"!{token[1:]}"),
    "not ASCII": spelled(lambda token: f"\u00e9{token[1:]}"),
    "as JSON": spelled(lambda token: json.dumps({"payload": token})),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_an_id_token_of_the_providers_is_taken(stage: Scene, browser: Browser, case: str) -> None:
    stage.meddler.forge = lambda claims: ALLOWED[case](stage.meddler, claims)
    with stage.gains(people=1, identities=1):
        assert browser.sign_in(stage.person()).error == ""


@pytest.mark.parametrize("attack", FORGED)
def test_an_id_token_that_is_not_gives_nothing(stage: Scene, browser: Browser, attack: str) -> None:
    stage.meddler.forge = lambda claims: FORGED[attack](stage.meddler, claims)
    with stage.gains():
        assert browser.sign_in(stage.person()).error == "token_invalid"
    assert stage.meddler.asked["/evil"] == 0


# Its keys


def signing_with(key: Key) -> Callable[[Json], str]:
    return lambda claims: compact(HEADER | {"kid": key.kid}, claims, key.sign)


def test_a_new_key_works_at_once_and_unknown_ones_are_looked_for_once(stage: Scene, browser: Browser) -> None:
    stage.forget()
    meddler = stage.meddler
    before = meddler.asked[KEYS]
    assert browser.sign_in(stage.person()).code
    assert meddler.asked[KEYS] == before + 1
    new = Key("rotated")
    meddler.keys.append(new)
    meddler.forge = signing_with(new)
    assert browser.sign_in(stage.person()).code
    assert meddler.asked[KEYS] == before + 2
    meddler.forge = signing_with(Key("unknown"))
    with stage.gains():
        for _ in range(3):
            assert browser.sign_in(stage.person()).error == "token_invalid"
    assert meddler.asked[KEYS] == before + 2


BAD_KEYS: list[Json] = [
    {"kty": "oct", "k": encoded(b"0" * 32)},
    {"kty": "RSA"},
    {"kty": "RSA", "n": "!", "e": "AQAB"},
    {"kty": "RSA", "n": 7, "e": []},
    {"kty": "RSA", "n": "AQ", "e": "AQAB"},
    {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
    {"kty": "EC", "crv": "none", "x": "AQ", "y": "AQ"},
    {"kty": ["RSA"]},
    {"kty": None},
]


def test_keys_that_are_none_give_nothing(stage: Scene, browser: Browser) -> None:
    stage.meddler.more_keys = [{"kid": f"bad-{number}", **key} for number, key in enumerate(BAD_KEYS)]
    stage.forget()
    with stage.gains():
        for number, key in enumerate(BAD_KEYS):
            header = {"alg": "RS256", "kid": f"bad-{number}"}
            stage.meddler.forge = lambda claims, header=header: compact(header, claims, FOREIGN.sign)
            assert browser.sign_in(stage.person()).error == "token_invalid", key


def test_an_answer_in_pieces_from_a_server_that_hangs_up_is_read(stage: Scene, browser: Browser) -> None:
    """`Connection: close`, and the content some time after the head."""
    stage.forget()
    keys = json.dumps({"keys": [key.public() for key in stage.meddler.keys]}).encode()

    def pieces(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(keys))
        for start in range(0, len(keys), 200):
            stage.meddler.end.wait(0.05)
            connection.sendall(keys[start : start + 200])

    stage.meddler.faults[KEYS] = pieces
    stage.meddler.forge = signing_with(stage.meddler.keys[0])
    assert browser.sign_in(stage.person()).code


# What it answers

NESTED = b"[" * 100_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN: dict[str, Any] = {
    "dropped": drop,
    "no HTTP": raw(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "a status of letters": raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half a content": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"),
    "a negative length": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{"),
    "a chunk of a negative length": raw(CHUNKED + b"-5\r\nabc\r\n"),
    "a chunk of no length": raw(CHUNKED + b"xyz\r\nabc\r\n"),
    "a long line": raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
    "many headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    "no JSON": says(b"<html>"),
    "not UTF-8": says(b"\xff\xfe\xff"),
    "null": says(None),
    "a number": says(5),
    "a list": says([]),
    "an empty object": says({}),
    "nested": says(NESTED),
    "huge": says(b'{"a": "' + b"x" * 5_000_000 + b'"}'),
    "500": says({}, 500),
    "503 as a page": says(b"<html>", 503),
    "a redirect": says({}, 302),
    "404": says({}, 404),
    "429": says({}, 429),
}


def breaks(stage: Scene, path: str, fault: Callable[..., Any]) -> None:
    """Have this instead of the right answer from here on."""
    is_reply = fault.__qualname__.startswith(("says", "but"))
    (stage.meddler.changes if is_reply else stage.meddler.faults)[path] = fault


@pytest.mark.parametrize("fault", BROKEN)
def test_an_answer_for_the_code_that_is_none_gives_nothing(stage: Scene, browser: Browser, fault: str) -> None:
    breaks(stage, TOKENS, BROKEN[fault])
    with stage.gains():
        assert browser.sign_in(stage.person()).error in ("provider_refused", "provider_unavailable")


TOKEN_ANSWERS: dict[str, Any] = {
    "no ID token": but(id_token=None),
    "a number": but(id_token=7),
    "a list": but(id_token=["x"]),
    "an object": but(id_token={"a": 1}),
    "an error": says({"error": "invalid_grant"}, 400),
    "an error of another type": says({"error": {"a": []}}, 400),
    "an error with a line": says({"error": "a\r\nb", "error_description": 5}, 400),
    "huge": lambda reply: but(id_token=json.loads(reply.content)["id_token"] * 500)(reply),
}


@pytest.mark.parametrize("fault", TOKEN_ANSWERS)
def test_an_answer_without_an_id_token_gives_nothing(stage: Scene, browser: Browser, fault: str) -> None:
    stage.meddler.changes[TOKENS] = TOKEN_ANSWERS[fault]
    with stage.gains():
        assert browser.sign_in(stage.person()).error == "provider_refused"


def test_what_else_is_in_the_answer_does_not_matter(stage: Scene, browser: Browser) -> None:
    stage.meddler.changes[TOKENS] = but(expires_in=["x"], expires_at={}, access_token=float("inf"), token_type=7)
    assert browser.sign_in(stage.person()).code


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_head"])
def test_a_provider_that_is_slow_is_not_waited_for(stage: Scene, fault: str) -> None:
    """The browser gives up long before the provider would."""
    stage.meddler.faults[TOKENS] = getattr(stage.meddler, fault)
    with stage.gains(), Browser(stage.api, seconds=8) as impatient:
        assert impatient.sign_in(stage.person()).error == "provider_unavailable"


def test_what_is_slow_in_each_step_is_slow_in_all(stage: Scene) -> None:
    """Every step takes less than the whole may."""
    stage.forget()

    def later(reply: Any) -> Any:
        stage.meddler.end.wait(0.9)
        return reply

    with stage.gains(), Browser(stage.api, seconds=8) as impatient:
        url = impatient.choose(impatient.start(), stage.person())
        stage.forget()
        stage.meddler.changes |= dict.fromkeys((DISCOVERY, KEYS, TOKENS), later)
        assert impatient.come_back(url).error == "provider_unavailable"


def test_without_its_addresses_there_is_no_way_out(stage: Scene, browser: Browser) -> None:
    stage.forget()
    for name, fault in BROKEN.items():
        stage.meddler.behave()
        breaks(stage, DISCOVERY, fault)
        unavailable(browser, name)
    elsewhere: dict[str, object] = {"issuer": "https://accounts.google.com"}
    addresses = ("http://10.0.0.1/x", "ftp://127.0.0.1/", "https://", "http://[::1", "https://[x", "", 7, ["x"], None,
                 "http://127.0.0.1@evil.example.com/", "https://a.example/\r\nX: y", "//127.0.0.1/", "/oauth2/token",
                 "http://127.0.0.1.example.com/", "https://\u00e9.example/")  # fmt: skip
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    changes = [elsewhere]
    changes += [{name: address} for name in names for address in addresses]
    for change in changes:
        stage.meddler.behave()
        stage.meddler.changes[DISCOVERY] = but(**change)
        unavailable(browser, change)
    stage.meddler.behave()
    assert browser.start()


def unavailable(browser: Browser, what: object) -> None:
    answer = browser.get("/v1/auth/google")
    refused(answer, 503, "unavailable")
    assert (answer.headers["retry-after"], answer.headers.get("set-cookie")) == ("1", None), what


def test_without_its_keys_nobody_comes_back(stage: Scene, browser: Browser) -> None:
    stage.forget()
    faults = BROKEN | {"keys that are none": says({"keys": {"a": 1}})}
    with stage.gains():
        for name, fault in faults.items():
            stage.meddler.behave()
            breaks(stage, KEYS, fault)
            assert browser.sign_in(stage.person()).error == "provider_unavailable", name


def test_a_provider_that_is_gone_is_said(stage: Scene, browser: Browser) -> None:
    url = browser.choose(browser.start(), stage.person())
    stage.forget()
    stage.meddler.close()
    try:
        with stage.gains():
            unavailable(browser, "gone")
            assert browser.come_back(url).error == "provider_unavailable"
    finally:
        stage.meddler.open()
    assert browser.sign_in(stage.person()).code
