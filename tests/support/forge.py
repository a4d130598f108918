"""Forged access tokens: right but for one thing."""

import base64
import json
from typing import Any

import jwt
from jwt.algorithms import RSAAlgorithm


class Forge:
    """Makes tokens with the platform's own key or another, right but for what a test changes."""

    def __init__(self, jwk: dict[str, str], good: str) -> None:
        self.jwk = jwk
        self.private: Any = RSAAlgorithm.from_jwk(jwk)
        self.claims: dict[str, Any] = jwt.decode(good, options={"verify_signature": False})
        self.header: dict[str, Any] = jwt.get_unverified_header(good)

    def token(self, claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, key: Any = None) -> str:
        """Signed with RSA-SHA256, whatever the header says. None in `claims` or `header` takes a name out."""
        head = _without_none(self.header | (header or {}))
        body = _without_none(self.claims | (claims or {}))
        return self.sealed(head, body, lambda said: RSAAlgorithm(RSAAlgorithm.SHA256).sign(said, key or self.private))

    def sealed(self, header: dict[str, Any], claims: dict[str, Any], sign: Any) -> str:
        """`header.claims.sign(header.claims)`."""
        return self.raw(json.dumps(header), json.dumps(claims), sign)

    def raw(self, header: str, claims: str, sign: Any = None) -> str:
        """The same of any text; without `sign` with the platform's own key."""
        said = b".".join(base64url(part.encode()) for part in (header, claims))
        sign = sign or (lambda said: RSAAlgorithm(RSAAlgorithm.SHA256).sign(said, self.private))
        return (said + b"." + base64url(sign(said))).decode()


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def base64url(data: bytes) -> bytes:
    """Without the padding, as a JWT has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")
