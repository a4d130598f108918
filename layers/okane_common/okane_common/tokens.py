"""Access tokens: RS256 JWTs (RFC 9068, RFC 8725) that only the auth function signs and every function checks alone.

One algorithm, one type, keys by `kid` from our own set: no header of a token chooses how it is checked.
"""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import jwt

from okane_common import settings
from okane_common.caller import ACCESS_SECONDS, Caller
from okane_common.errors import Refusal, refuse
from okane_common.observability import logger

ISSUER = settings.text("TOKEN_ISSUER")
AUDIENCE = settings.text("TOKEN_AUDIENCE")
ALGORITHM = "RS256"
TYPE = "at+jwt"
MAX_CHARACTERS = 4096
CLAIMS = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid")

# How long keys are used before they are read again: so long does a rotation take to be known everywhere.
REREAD_SECONDS = float(settings.text("TOKEN_KEYS_SECONDS", "1800"))


class _Keys[Value]:
    """Keys from a setting, read again by age alone: no token, whatever its `kid`, makes anybody fetch anything."""

    def __init__(self, load: Callable[[], Value]) -> None:
        self._load = load
        self._value = load()
        self._read_at = time.monotonic(), time.time()

    def current(self) -> Value:
        # By both clocks: one that was set back, or that slept with a snapshot (SnapStart), must not make the keys look young.
        ages = time.monotonic() - self._read_at[0], abs(time.time() - self._read_at[1])
        if max(ages) > REREAD_SECONDS:
            self._read_at = time.monotonic(), time.time()
            try:
                self._value = self._load()
            except settings.SettingError as error:  # the old ones are good for hours; the next reading is the retry
                logger.error("keys not read", extra={"said": str(error)})
        return self._value


def _load_public() -> tuple[dict[str, Any], dict[str, jwt.PyJWK]]:
    """The public JWKS as it is published, and its keys by `kid`."""
    document = settings.json_object("TOKEN_PUBLIC_KEYS")
    try:
        keys = jwt.PyJWKSet.from_dict(document).keys
    except (jwt.PyJWTError, AttributeError, TypeError, ValueError) as error:
        raise settings.SettingError(f"TOKEN_PUBLIC_KEYS is no JWKS: {type(error).__name__}") from None
    return document, {key.key_id: key for key in keys if key.key_id is not None}


def _load_signing() -> list[tuple[int, jwt.PyJWK]]:
    """The private keys with the Unix time from which each signs (its member `nbf`), the newest first."""
    try:
        found: Any = settings.json_object("TOKEN_SIGNING_KEYS")["keys"]
        keys = [(int(key.get("nbf", 0)), jwt.PyJWK.from_dict(key, algorithm=ALGORITHM)) for key in found if key["d"]]
    except (jwt.PyJWTError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise settings.SettingError(f"TOKEN_SIGNING_KEYS is no private JWKS: {type(error).__name__}") from None
    if not keys:
        raise settings.SettingError("TOKEN_SIGNING_KEYS has no key")
    return sorted(keys, key=lambda key: key[0])[::-1]  # of equal ones the last is the newest, as local/keys.py has it


_public = _Keys(_load_public)
_signing: _Keys[list[tuple[int, jwt.PyJWK]]] | None = None


def can_sign() -> None:
    """Take the keys to sign with; fails now, at start, if there are none. Raises settings.SettingError."""
    global _signing
    _signing = _Keys(_load_signing)
    _signing_key()


def _signing_key() -> jwt.PyJWK:
    """The newest key whose time has come: a key is published for hours before it signs. The oldest while no time has: then it
    is the clock that is wrong.
    """
    if _signing is None:
        raise settings.SettingError("TOKEN_SIGNING_KEYS was not asked for")
    now, keys = time.time(), _signing.current()
    return next((key for not_before, key in keys if not_before <= now), keys[-1][1])


def public_jwks() -> dict[str, Any]:
    """The public keys as they are published: the one that signs, the next one, and the one before."""
    return _public.current()[0]


def sign(caller: Caller) -> str:
    """An access token for this person and session, valid for ACCESS_SECONDS from now."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": str(caller.person_id),
        "aud": AUDIENCE,
        "exp": now + ACCESS_SECONDS,
        "iat": now,
        "nbf": now,
        "jti": str(uuid.uuid4()),
        "sid": str(caller.session_id),
    }
    key = _signing_key()
    return jwt.encode(claims, key.key, algorithm=ALGORITHM, headers={"kid": key.key_id, "typ": TYPE})


def verify(token: str) -> Caller:
    """Who the token was made for. Raises Refusal: token_expired, or token_invalid for every other fault."""
    try:
        if len(token) > MAX_CHARACTERS:
            raise refuse("token_invalid")
        # Only chooses the key; jwt.decode reads it again, strictly. Its get_unverified_header reads all of the token to
        # give the header, character by character in Python: a tenth of a warm request.
        header = json.loads(jwt.utils.base64url_decode(token.partition(".")[0]))
        key = _public.current()[1].get(str(header.get("kid")))
        if key is None or header.get("typ") != TYPE or header.get("alg") != ALGORITHM:
            raise refuse("token_invalid")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": list(CLAIMS), "strict_aud": True},
        )
        # PyJWT also takes numbers in text. None of ours lives longer than we say, whatever it was signed for.
        if claims["exp"] - claims["iat"] > ACCESS_SECONDS or not isinstance(claims["nbf"], int):
            raise refuse("token_invalid")
        return Caller(uuid.UUID(claims["sub"]), uuid.UUID(claims["sid"]))
    except jwt.ExpiredSignatureError:
        raise Refusal("token_expired", "Take a new access token with the refresh token.") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, RecursionError):
        # ValueError to AttributeError: a time that is no number, a sub or sid that is no UUID in text
        raise refuse("token_invalid") from None


def authenticate(event: dict[str, Any]) -> None:
    """Leave in `event["caller"]` who sent an HTTP API event. Raises Refusal: token_missing, token_invalid, token_expired."""
    scheme, _, token = event["headers"].get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal("token_missing", "Send the header Authorization: Bearer <access token>.")
    event["caller"] = verify(token.strip())
