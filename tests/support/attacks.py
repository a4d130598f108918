"""The rows of tests/test_attacks.py: who is attacked, and what builds a row of each kind."""

import hmac
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from local.provider import CLIENT_ID, CLIENT_SECRET
from tests.support.api import Person
from tests.support.contract import CheckedApi
from tests.support.forge import Forge
from tests.support.sign_in import address, password, refresh, register, signed_in, verify

PATHS = ("/v1/me", "/v1/wallets/INR", "/v1/wallets")  # warm reads and one that asks the database


class World(NamedTuple):
    """Who is there to be attacked."""

    api: CheckedApi
    asha: Person
    ravi: Person
    forge: Forge

    @property
    def public(self) -> Any:
        """The key that is published."""
        return self.forge.private.public_key()

    @property
    def published(self) -> dict[str, str]:
        found: dict[str, str] = self.api.call("GET", "/.well-known/jwks.json").json()["keys"][0]
        return found


class Attack(NamedTuple):
    """One row. `send` gives the answers, which must all be refused like this; no code: the gateway refuses it itself."""

    name: str
    send: Callable[[World], list[httpx.Response]]
    status: int
    code: str


def bearer(name: str, token: Callable[[World], str], code: str = "token_invalid") -> Attack:
    """An access token, on private routes."""
    return authorization(name, lambda w: f"Bearer {token(w)}", code)


def authorization(name: str, value: Callable[[World], str | bytes], code: str) -> Attack:
    """A header Authorization, on private routes."""

    def send(w: World) -> list[httpx.Response]:
        sent: Any = {"Authorization": value(w)}
        return [w.api.call("GET", path, headers=sent) for path in PATHS]

    return Attack(name, send, 401, code)


def head(name: str, **changed: Any) -> Attack:
    """A token whose header says something else."""
    return bearer(name, lambda w: w.forge.token(header=changed))


def claim(name: str, code: str = "token_invalid", **changed: Any) -> Attack:
    """A token whose claims say something else; times are seconds from now where they are given as a Moment."""

    def token(w: World) -> str:
        now = int(time.time())
        return w.forge.token(
            {key: now + value if isinstance(value, Moment) else value for key, value in changed.items()}
        )

    return bearer(name, token, code)


class Moment(int):
    """Seconds from now."""


def heads(name: str, *values: Any) -> list[Attack]:
    """One row for each value that a name in the header has instead of the right one."""
    return [head(f"{name} {value!r:.30}", **{name: value}) for value in values]


def claims(name: str, *values: Any) -> list[Attack]:
    """The same of the claims."""
    return [bearer(f"{name} {value!r:.30}", partial(_claimed, {name: value})) for value in values]


def _claimed(changed: dict[str, Any], w: World) -> str:
    return w.forge.token(changed)


def unsigned(name: str, algorithm: str, mark: bytes = b"") -> Attack:
    return bearer(name, lambda w: w.forge.sealed(w.forge.header | {"alg": algorithm}, w.forge.claims, lambda _: mark))


def confused(name: str, algorithm: str, secret: Callable[[World], bytes]) -> Attack:
    """An HMAC whose secret is the public key, in one of its forms."""
    digest = algorithm.replace("HS", "sha")

    def token(w: World) -> str:
        key = secret(w)
        header = w.forge.header | {"alg": algorithm}
        return w.forge.sealed(header, w.forge.claims, lambda said: hmac.digest(key, said, digest))

    return bearer(name, token)


def text(name: str, header: str | None = None, claims: str | None = None) -> Attack:
    """A token of this text, `{}` standing for what would be right."""

    def token(w: World) -> str:
        rights = (json.dumps(w.forge.header)[1:-1], json.dumps(w.forge.claims)[1:-1])
        said = [given.replace("{}", right) if given else f"{{{right}}}"
                for given, right in zip((header, claims), rights, strict=True)]  # fmt: skip
        return w.forge.raw(*said)

    return bearer(name, token)


def changed(name: str, change: Callable[[list[str]], str]) -> Attack:
    """A good token, taken apart at its dots and put together otherwise."""
    return bearer(name, lambda w: change(w.asha.token.split(".")))


def post(name: str, path: str, body: Callable[[World], Any], status: int, code: str) -> Attack:
    """A body for a public route, under /v1/auth/; text is sent as it is."""

    def send(w: World) -> list[httpx.Response]:
        said = body(w)
        sent: dict[str, Any] = {"content": said} if isinstance(said, str) else {"json": said}
        return [w.api.call("POST", f"/v1/auth/{path}", **sent)]

    return Attack(name, send, status, code)


def log_ins(name: str, *values: Any) -> list[Attack]:
    """One row for each value that a field of a log-in has, and that does not fit."""
    return [
        post(f"{name} {value!a:.40}", "login", partial(_logging_in, {name: value}), 422, "validation_failed")
        for value in values
    ]


def _logging_in(changed: dict[str, Any], w: World) -> dict[str, Any]:
    return login(w, **changed)


def codes(*values: Any) -> list[Attack]:
    """One row for each code that is none."""
    return [
        post(f"code {value!a:.30}", "verify", partial(_proving, value), 422, "validation_failed") for value in values
    ]


def _proving(code: object, w: World) -> dict[str, Any]:
    return {"email": w.asha.email, "code": code}


def ended(name: str, end: Callable[[World, Person, dict[str, Any]], Any]) -> Attack:
    """A token from before something ended its session, one that warm reads were answered to."""

    def send(w: World) -> list[httpx.Response]:
        person, tokens = signed_in(w.api)
        for path in PATHS * 2:
            w.api.call("GET", path, token=tokens["access_token"])
        assert end(w, person, tokens).status_code in (204, 401)
        read = [w.api.call("GET", path, token=tokens["access_token"]) for path in PATHS]
        return [*read, refresh(w.api, tokens["refresh_token"])]

    return Attack(name, send, 401, "session_ended")


def by_reset(w: World, person: Person, _: dict[str, Any]) -> httpx.Response:
    body = {"email": person.email, "code": reset_code(w, person), "new_password": password()}
    return w.api.call("POST", "/v1/auth/password/reset", json=body)


def by_reuse(w: World, _: Person, tokens: dict[str, Any]) -> httpx.Response:
    second = refresh(w.api, tokens["refresh_token"]).json()
    assert refresh(w.api, second["refresh_token"]).status_code == 200
    return refresh(w.api, tokens["refresh_token"])


def by_change(w: World, person: Person, _: dict[str, Any]) -> httpx.Response:
    body = {"current_password": person.password, "new_password": password()}
    return w.api.call("PUT", "/v1/auth/password", json=body, token=person.token)


def reset_code(w: World, person: Person) -> str:
    before = len(w.api.mails(person.email))
    w.api.call("POST", "/v1/auth/password/forgot", json={"email": person.email})
    return w.api.code(person.email, after=before)


def spent_code(w: World) -> dict[str, str]:
    email = address()
    code = register(w.api, email, password())
    assert verify(w.api, email, code).status_code == 200
    return {"email": email, "code": code}


def sign_up_code(w: World) -> dict[str, str]:
    email = address()
    return {"email": email, "code": register(w.api, email, password()), "new_password": password()}


def login(w: World, **changed: Any) -> dict[str, Any]:
    return {"email": w.asha.email, "password": w.asha.password} | changed


def another_key(w: World) -> tuple[Any, dict[str, Any]]:
    """A stranger's private key, and its public half under our name."""
    key = generate_private_key(65537, 2048)
    jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return key, jwk | {"kid": w.forge.header["kid"], "alg": "RS256", "use": "sig"}


def brought_along(name: str, header: Callable[[World, dict[str, Any]], dict[str, Any]]) -> Attack:
    """A token that is signed with another key, and says itself where to find that."""

    def token(w: World) -> str:
        key, jwk = another_key(w)
        return w.forge.token(header=header(w, jwk), key=key)

    return bearer(name, token)


def signed_by(name: str, algorithm: str, key: Callable[[World], Any]) -> Attack:
    """Rightly signed in another way."""
    return bearer(
        name, lambda w: jwt.encode(w.forge.claims, key(w), algorithm, headers=w.forge.header | {"alg": algorithm})
    )


def id_token(w: World) -> str:
    """What the provider says of somebody to our client."""
    at, back = w.api.endpoints.provider, f"{w.api.endpoints.api}/v1/auth/google/callback"
    asked = {
        "client_id": CLIENT_ID,
        "redirect_uri": back,
        "response_type": "code",
        "scope": "openid email",
        "nonce": "n",
    }
    with httpx.Client(base_url=at, trust_env=False) as http:
        sent = http.post("/oauth2/authorize", params=asked, data={"sub": "mina"}).headers["location"]
        [code] = parse_qs(urlsplit(sent).query)["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        answer = http.post("/oauth2/token", data=form, auth=(CLIENT_ID, CLIENT_SECRET))
        if answer.status_code != 200:
            form |= {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    token: str = answer.json()["id_token"]
    return token


def past_the_gateway(name: str, size: int) -> Attack:
    """A header that no function gets to see; the gateway may hang up before it has read all of it."""

    def send(w: World) -> list[httpx.Response]:
        long = {"Authorization": f"Bearer {'a' * size}"}
        return [w.api._http.get(w.api.endpoints.api + "/v1/me", headers=long)]

    return Attack(name, send, 431, "")


def aud(w: World) -> str:
    return str(w.forge.claims["aud"])


def pem(w: World) -> bytes:
    """The published key as a PEM."""
    data: bytes = w.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data
