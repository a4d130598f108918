"""Access tokens: RS256 JWTs (RFC 9068, RFC 8725) that only the auth function signs and every function checks alone.

One algorithm, one type, keys by `kid` from our own set: no header of a token chooses how it is checked.
"""

import functools
import json
import time
import uuid
from typing import Any

import jwt

from okane_common import settings
from okane_common.caller import ACCESS_SECONDS, Caller
from okane_common.errors import Refusal, refuse

ISSUER = settings.text("TOKEN_ISSUER")
AUDIENCE = settings.text("TOKEN_AUDIENCE")
ALGORITHM = "RS256"
TYPE = "at+jwt"
MAX_CHARACTERS = 4096
CLAIMS = ("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid")

PUBLIC_JWKS = settings.json_object("TOKEN_PUBLIC_KEYS")


def _load_public_keys() -> dict[str, jwt.PyJWK]:
    return {key.key_id: key for key in jwt.PyJWKSet.from_dict(PUBLIC_JWKS).keys if key.key_id is not None}


_PUBLIC_KEYS = _load_public_keys()


@functools.cache
def _signing_key() -> jwt.PyJWK:
    keys = json.loads(settings.secret("TOKEN_SIGNING_KEYS").reveal())["keys"]
    return jwt.PyJWK.from_dict(keys[0], algorithm=ALGORITHM)


def can_sign() -> None:
    """Fail now, at start, if this function has no key to sign with. Raises settings.SettingError."""
    _signing_key()


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
        key = _PUBLIC_KEYS.get(str(header.get("kid")))
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
