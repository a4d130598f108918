"""Sessions: started by whoever has proved who they are, carried on by refresh tokens, listed and ended by their owner.

A refresh token is 256 random bits, kept as its SHA-256. When one is used it is replaced; the database then keeps the successor
sealed with the token it replaces, so that the same successor can be given again for a few seconds to a client whose
answer was lost, without a usable token at rest (RFC 9700, 4.14.2: rotation with reuse detection).
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from okane_common import database, tokens
from okane_common.caller import ACCESS_SECONDS, Caller, Visitor
from okane_common.errors import DETAILS, Refusal, accept, refuse
from okane_common.observability import event
from okane_common.seals import fingerprint

REFRESH_IDLE_SECONDS = 7 * 24 * 3600
REFRESH_ABSOLUTE_SECONDS = 30 * 24 * 3600
REFRESH_GRACE_SECONDS = 10
REFRESH_BYTES = 32
LISTED = 100  # sessions, at most


class Session(NamedTuple):
    """A session that was started or carried on, and the refresh token that now belongs to it."""

    caller: Caller
    refresh_token: str
    refresh_seconds: int

    def tokens(self) -> dict[str, Any]:
        """The session's tokens as the API gives them, with a fresh access token."""
        return {
            "access_token": tokens.sign(self.caller),
            "token_type": "Bearer",
            "expires_in": ACCESS_SECONDS,
            "refresh_token": self.refresh_token,
            "refresh_expires_in": self.refresh_seconds,
            "session_id": str(self.caller.session_id),
        }


class Reused(Refusal):
    """What can be exchanged once came again, so somebody has a copy: this request has ended the session of `caller`, whose owner
    has the address `email`.
    """

    def __init__(self, code: str, ended: dict[str, Any]) -> None:
        super().__init__(code, DETAILS[code])
        self.caller = Caller(uuid.UUID(ended["person_id"]), uuid.UUID(ended["session_id"]))
        self.email: str = ended["email"]
        event("exchange_reused", person_id=self.caller.person_id, session_id=self.caller.session_id)


def start(method: str, visitor: Visitor, prove: Callable[..., dict[str, Any]], *proof: Any) -> Session:
    """Start a session in the call that proves who it is for. method: how, for the event log.

    prove: `prove(*proof, session, device, refresh_hash, idle_seconds, absolute_seconds, source) -> {"person_id", ...}`, one call
    of the database. Raises what it raises.
    """
    session_id, refresh = uuid.uuid4(), secrets.token_bytes(REFRESH_BYTES)
    proved = prove(
        *proof,
        session_id,
        visitor.device,
        fingerprint(refresh),
        REFRESH_IDLE_SECONDS,
        REFRESH_ABSOLUTE_SECONDS,
        visitor.source,
    )
    caller = Caller(uuid.UUID(proved["person_id"]), session_id)
    event("signed_in", method=method, person_id=caller.person_id, session_id=session_id)
    return Session(caller, _token(refresh), REFRESH_IDLE_SECONDS)


def carry_on(token: str, visitor: Visitor) -> Session:
    """Exchange a refresh token for its successor.

    Raises Refusal: token_invalid (unknown or too old), session_ended, rate_limited; Reused when a spent token came again.
    """
    old = _token_bytes(token)
    new = secrets.token_bytes(REFRESH_BYTES)
    result = accept(
        database.call(
            "rotate_refresh",
            fingerprint(old),
            fingerprint(new),
            _masked(new, old),
            REFRESH_IDLE_SECONDS,
            REFRESH_GRACE_SECONDS,
            visitor.source,
        )
    )
    if result["outcome"] == "session_reused":
        raise Reused("session_ended", result)
    caller = Caller(uuid.UUID(result["person_id"]), uuid.UUID(result["session_id"]))
    successor = _masked(bytes.fromhex(result["sealed"]), old)
    return Session(caller, _token(successor), result["expires_in"])


def read(caller: Caller) -> list[dict[str, Any]]:
    """The caller's live sessions, this one first and then the latest used. Raises Refusal(session_ended)."""
    found: list[dict[str, Any]] = accept(database.call("list_sessions", *caller, LISTED))["sessions"]
    return found


def end(caller: Caller, session_id: uuid.UUID) -> Caller:
    """End one session of the caller's. -> who may not come in any more. Raises Refusal: not_found, session_ended."""
    accept(database.call("end_session", *caller, session_id))
    event("session_ended", person_id=caller.person_id, session_id=session_id, by=caller.session_id)
    return Caller(caller.person_id, session_id)


def end_all(caller: Caller) -> list[Caller]:
    """End every session of the caller's, this one too. -> who may not come in any more. Raises Refusal(session_ended)."""
    found = ended(caller.person_id, accept(database.call("end_sessions", *caller))["sessions"])
    event("sessions_ended", person_id=caller.person_id, count=len(found), by=caller.session_id)
    return found


def ended(person_id: object, session_ids: list[str]) -> list[Caller]:
    """The sessions that a database function has ended."""
    return [Caller(uuid.UUID(str(person_id)), uuid.UUID(session_id)) for session_id in session_ids]


def _token(raw: bytes) -> str:
    return raw.hex()


def _token_bytes(token: str) -> bytes:
    if not re.fullmatch(f"[0-9a-f]{{{2 * REFRESH_BYTES}}}", token):
        raise refuse("token_invalid")
    return bytes.fromhex(token)


def _masked(value: bytes, key: bytes) -> bytes:
    """`value` XOR a pad that only the holder of the 256-bit random `key` can make. It is its own inverse, used once a key."""
    pad = hashlib.sha256(b"okane refresh successor\n" + key).digest()
    return bytes(a ^ b for a, b in zip(value, pad, strict=True))
