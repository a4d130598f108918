"""An OpenID provider, Google unless another is configured: its addresses, its keys, and whom it vouches for.

The authorization code flow with PKCE by Authlib's client; the ID token is checked as OpenID Connect Core 1.0, 3.1.3.7 says.
Authlib and joserfc are imported inside the calls: only these routes need them.
"""

import base64
import contextlib
import functools
import http.client
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from pydantic import TypeAdapter, ValidationError

from okane_common import models, outside, settings

PROVIDER_SECONDS = 2.0  # for everything that one request asks of the provider
REFRESH_SECONDS = 60.0  # at most so often are its keys fetched again because one is unknown
KEEP_SECONDS = 3600.0  # how long its keys and addresses are kept
LEEWAY_SECONDS = 60  # between its clock and ours
AGE_SECONDS = 10 * 60  # of an ID token, at most
MAX_BYTES = 256 * 1024  # of an answer
MAX_KEYS = 20
ALGORITHMS = ["RS256", "PS256", "ES256"]  # signatures by a public key only
LOOPBACK = ("127.0.0.1", "localhost", "::1")

ISSUER = settings.text("OPENID_ISSUER", "https://accounts.google.com")
CLIENT_ID = settings.text("OPENID_CLIENT_ID", "")
CLIENT_SECRET = settings.Secret(settings.text("OPENID_CLIENT_SECRET", ""))


class Failed(Exception):
    """The provider does not vouch for anybody, or cannot be reached. The reason is what the front end is told (docs/front-end.md
    lists them); `said` is for the event log, in words of ours.
    """

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.said = said


class Vouched(NamedTuple):
    """Whom the provider has vouched for: its own name for them, and what they are called. The e-mail is verified there."""

    subject: str
    email: str
    name: str


def authorization_url(redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
    """Where the browser goes to sign in. Raises Failed."""
    address = _provider.metadata(time.monotonic() + PROVIDER_SECONDS)["authorization_endpoint"]
    client = _client(redirect_uri, None)
    url, _ = client.create_authorization_url(
        address, state=state, nonce=nonce, code_verifier=verifier, prompt="select_account"
    )
    return str(url)


def vouch(redirect_uri: str, code: str, verifier: str, nonce: str) -> Vouched:
    """Exchange the code that came back for an ID token, and read it. Raises Failed."""
    deadline = time.monotonic() + PROVIDER_SECONDS
    id_token = _exchange(_client(redirect_uri, deadline), code, verifier, deadline)
    return _person(_claims(id_token, nonce, deadline))


def is_local(url: str) -> bool:
    """Whether this is plain http on one machine, where there is no TLS to ask for."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def _exchange(client: Any, code: str, verifier: str, deadline: float) -> str:
    """The ID token for a code. Raises Failed."""
    address = _provider.metadata(deadline)["token_endpoint"]
    try:
        answer = client.fetch_token(address, grant_type="authorization_code", code=code, code_verifier=verifier)
    except ValueError as error:  # a code that no form can carry
        raise Failed("provider_refused", type(error).__name__) from error
    return str(answer["id_token"])


def _claims(id_token: str, nonce: str, deadline: float) -> dict[str, Any]:
    """The checked claims of an ID token (OpenID Connect Core 1.0, 3.1.3.7). Raises Failed."""
    from authlib.oidc.core import CodeIDToken
    from joserfc import jwt
    from joserfc.errors import JoseError

    try:
        header = json.loads(base64.urlsafe_b64decode(id_token.partition(".")[0] + "=="))
        token = jwt.decode(id_token, _provider.key(str(header.get("kid")), deadline), algorithms=ALGORITHMS)
        claims = CodeIDToken(token.claims, token.header, params={"nonce": nonce, "client_id": CLIENT_ID})
        claims.validate(leeway=LEEWAY_SECONDS)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Failed("token_invalid", type(error).__name__) from error
    for name in ("exp", "iat"):
        if type(claims[name]) not in (int, float):
            raise Failed("token_invalid", name)
    for name, right in (
        ("iss", claims["iss"] == ISSUER),
        ("aud", claims["aud"] in (CLIENT_ID, [CLIENT_ID])),
        ("nonce", claims.get("nonce") == nonce),
        ("iat", claims["iat"] > time.time() - AGE_SECONDS - LEEWAY_SECONDS),
    ):
        if not right:
            raise Failed("token_invalid", name)
    return dict(claims)


def _person(claims: dict[str, Any]) -> Vouched:
    """Raises Failed, unless the provider says that the e-mail is verified, in so many words."""
    subject = claims["sub"]
    if (
        not isinstance(subject, str)
        or not 0 < len(subject) <= 255
        or not subject.isascii()
        or not subject.isprintable()
    ):
        raise Failed("token_invalid", "sub")
    if claims.get("email_verified") is not True:
        raise Failed("email_unverified", "email_verified")
    try:
        email = TypeAdapter(models.Email).validate_python(claims.get("email"), strict=True)
    except ValidationError:
        raise Failed("email_unverified", "email") from None
    name = email.partition("@")[0]
    with contextlib.suppress(ValidationError):
        name = TypeAdapter(models.Name).validate_python(claims.get("name"), strict=True)
    return Vouched(subject, email, name)


class _Provider:
    """What is known of the provider, for the life of an environment: its addresses and its keys, within bounds."""

    def __init__(self) -> None:
        self._metadata: dict[str, Any] = {}
        self._metadata_at = float("-inf")
        self._keys: dict[str, dict[str, Any]] = {}
        self._keys_at = float("-inf")
        self._sought_at = float("-inf")  # when an unknown key was looked for

    def metadata(self, deadline: float) -> dict[str, Any]:
        """Its discovery document. Raises Failed."""
        if time.monotonic() - self._metadata_at > KEEP_SECONDS:
            found = _fetch(f"{ISSUER.rstrip('/')}/.well-known/openid-configuration", deadline)
            addresses = [found.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
            if found.get("issuer") != ISSUER or not all(_is_safe(address) for address in addresses):
                raise Failed("provider_unavailable", "discovery")
            self._metadata, self._metadata_at = found, time.monotonic()
        return self._metadata

    def key(self, kid: str, deadline: float) -> Any:
        """Its public key of this name. The set is fetched anew when it has been kept for long, and at once for an unknown name,
        but once a minute at most. Raises Failed.
        """
        from joserfc.jwk import import_key

        now = time.monotonic()
        old, unknown = now - self._keys_at > KEEP_SECONDS, kid not in self._keys
        if old or (unknown and now - self._sought_at > REFRESH_SECONDS):
            self._sought_at = now if unknown and not old else self._sought_at
            found = _fetch(self.metadata(deadline)["jwks_uri"], deadline).get("keys")
            if not isinstance(found, list):
                raise Failed("provider_unavailable", "keys")
            self._keys = {str(key.get("kid")): key for key in found[:MAX_KEYS] if isinstance(key, dict)}
            self._keys_at = time.monotonic()
        if kid not in self._keys or self._keys[kid].get("kty") not in ("RSA", "EC"):
            raise Failed("token_invalid", "kid")
        return import_key(self._keys[kid])


_provider = _Provider()


class _Transport:
    """The HTTP session that Authlib's client asks for: one POST of a form, within our deadline."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def post(self, url: str, data: dict[str, str], headers: dict[str, str], auth: Any) -> "_Answer":
        url, headers, body = auth.prepare("POST", url, dict(headers), urlencode(data))
        return _Answer(_exchanged("POST", url, self._deadline, body.encode(), headers))


class _Answer:
    """An answer as Authlib's client reads it."""

    def __init__(self, answer: outside.Answer) -> None:
        self._content = answer.content
        self.status_code = answer.status

    def raise_for_status(self) -> None:
        if self.status_code >= http.client.BAD_REQUEST:
            raise Failed("provider_unavailable", f"HTTP {self.status_code}")

    def json(self) -> dict[str, str]:
        """What we ask for and nothing else: Authlib trusts the types of the rest. Raises Failed."""
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(self._content) if self.status_code == http.client.OK else None
            if isinstance(found, dict) and isinstance(found.get("id_token"), str):
                return {"id_token": found["id_token"]}
        raise Failed("provider_refused", f"HTTP {self.status_code} without an ID token")


def _client(redirect_uri: str, deadline: float | None) -> Any:
    """Authlib's client; without a deadline it can only write addresses."""
    from authlib.oauth2.client import OAuth2Client

    return OAuth2Client(
        session=_Transport(deadline) if deadline is not None else None,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET.reveal(),
        token_endpoint_auth_method="client_secret_post",  # noqa: S106 - how it is sent, not what
        scope="openid email profile",
        redirect_uri=redirect_uri,
        code_challenge_method="S256",
    )


def _fetch(url: str, deadline: float) -> dict[str, Any]:
    """A JSON object of the provider's. Raises Failed(provider_unavailable)."""
    answer = _exchanged("GET", url, deadline, None, {"Accept": "application/json"})
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(answer.content)
        if answer.status == http.client.OK and answer.whole and isinstance(found, dict):
            return found
    raise Failed("provider_unavailable", f"HTTP {answer.status}")


def _exchanged(
    method: str, url: str, deadline: float, body: bytes | None, headers: Mapping[str, str]
) -> outside.Answer:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection = _server(f"{parts.scheme}://{parts.netloc}").connect(deadline)
        try:
            return outside.exchange(connection, deadline, MAX_BYTES, method, target or "/", body, headers)
        finally:
            connection.close()
    except (*outside.FAULTS, ValueError) as error:  # ValueError: an address or a length that is none
        raise Failed("provider_unavailable", type(error).__name__) from error


@functools.lru_cache(maxsize=8)
def _server(origin: str) -> outside.Server:
    return outside.Server(origin)


def _is_safe(url: object) -> bool:
    """Whether secrets may go there: over TLS, or to this machine from a provider on it."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable():
        return False
    try:
        over_tls = urlsplit(url).scheme == "https" and urlsplit(url).hostname
        return bool(over_tls) or (is_local(url) and is_local(ISSUER))
    except ValueError:
        return False
