"""The keys that sign access tokens: a private JWKS, of which the public one is published, and how one key follows another.

A key's member `nbf` says from when it signs (Unix seconds). Until then it is only published, so that everybody who checks tokens
has it in time; afterwards the one before stays published until the last token that it signed, and every copy of the set that was
made while it signed, is past.
"""

import base64
import hashlib
import json
from typing import Any

type Jwk = dict[str, Any]

# The functions read the keys again every half hour; API Gateway keeps a copy for two hours; a token lives for ten minutes.
OVERLAP_SECONDS = 2 * 3600 + 30 * 60 + 10 * 60
PUBLIC = ("kty", "kid", "use", "alg", "n", "e", "nbf")


class KeysError(Exception):
    """The keys cannot be read, or not be rotated now; the message says why."""


def new_key(not_before: int = 0) -> Jwk:
    """A new private RSA key for RS256, named by its thumbprint (RFC 7638), that signs from `not_before` (Unix seconds) on."""
    # Imported here: it takes longer than everything else, and is needed once.
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from jwt.algorithms import RSAAlgorithm

    jwk: Jwk = RSAAlgorithm.to_jwk(generate_private_key(65537, 2048), as_dict=True)
    jwk.pop("key_ops")
    named = json.dumps({name: jwk[name] for name in ("e", "kty", "n")}, separators=(",", ":"))
    thumbprint = hashlib.sha256(named.encode()).digest()
    kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
    return {**jwk, "kid": kid, "use": "sig", "alg": "RS256", **({"nbf": not_before} if not_before else {})}


def public(keys: list[Jwk]) -> list[Jwk]:
    """What anybody may see of them."""
    return [{name: key[name] for name in PUBLIC if name in key} for key in keys]


def private(text: str) -> list[Jwk]:
    """The keys of a private JWKS. Raises KeysError, with nothing of the text in it, if it is none."""
    try:
        found: list[Jwk] = json.loads(text)["keys"]
        fits = all(isinstance(key["kid"], str) and isinstance(key["d"], str) and signs_from(key) >= 0 for key in found)
    except (ValueError, LookupError, TypeError):
        fits = False
    if not fits:
        raise KeysError("not a private JWKS")
    return found


def signs_from(key: Jwk) -> int:
    """From when a key signs (Unix seconds)."""
    return int(key.get("nbf", 0))


def rotate(keys: list[Jwk], now: int, overlap: int) -> list[Jwk]:
    """The keys after a rotation at `now`: a new one that signs `overlap` seconds from now, and the others without those whose
    successor has signed for that long. With no overlap the new key is the only one, at once, as the first of all keys is.

    Raises KeysError while a key is waiting for its time already.
    """
    if not keys or not overlap:
        return [new_key()]  # without a time of its own: the clock of whoever signs may be behind ours
    ordered = sorted(keys, key=signs_from)
    kept = [
        key
        for key, successor in zip(ordered, [*ordered[1:], None], strict=True)
        if successor is None or signs_from(successor) + overlap > now
    ]
    waiting = [key for key in kept if signs_from(key) > now]
    if waiting:
        raise KeysError(f"the key {waiting[0]['kid']} is published and has not begun to sign; rotate after it has")
    return [*kept, new_key(now + overlap)]
