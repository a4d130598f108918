"""People and their sessions: signing up, in, on and out.

A refresh token is 256 random bits, kept as its SHA-256. When one is used it is replaced; the database then keeps the successor
sealed with the token it replaces, so that the same successor can be given again for a few seconds to a client whose
answer was lost, without a usable token at rest (RFC 9700, 4.14.2: rotation with reuse detection).
"""

import hashlib
import re
import secrets
import unicodedata
import uuid
from typing import Any, NamedTuple

from okane_common import database, mail, money, passwords, tokens
from okane_common.caller import ACCESS_SECONDS, Caller
from okane_common.errors import DETAILS, Refusal, accept, refuse
from okane_common.seals import Seal, fingerprint

CODE_SECONDS = 10 * 60
REFRESH_IDLE_SECONDS = 7 * 24 * 3600
REFRESH_ABSOLUTE_SECONDS = 30 * 24 * 3600
REFRESH_GRACE_SECONDS = 10
REFRESH_BYTES = 32
HANDLE_TRIES = 6

_CODE_SEAL = Seal("e-mail code")


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
    """A spent refresh token came again, so somebody has a copy: this request has ended the session of `caller`."""

    def __init__(self, caller: Caller) -> None:
        super().__init__("session_ended", DETAILS["session_ended"])
        self.caller = caller


def sign_up(email: str, password: str, name: str) -> None:
    """Record the attempt and mail a code to the address, or, if it has an account, a note that it has.

    Both take the same steps, so that nobody learns from the answer who is here. Raises Refusal: validation_failed for a
    password that is too common, rate_limited; database.Unavailable, aws.AwsError when the mail could not be sent.
    """
    _refuse_common(password)
    code = f"{secrets.randbelow(1_000_000):06}"
    password_hash = passwords.hash_password(password)
    recorded = accept(
        database.call("sign_up", email, name, _handles(name), password_hash, _code_hash(email, code), CODE_SECONDS)
    )
    if recorded["known"]:
        mail.send_already_registered(email)
    else:
        mail.send_code(email, code, CODE_SECONDS // 60)


def verify(email: str, code: str, device: str) -> Session:
    """Turn a sign-up into a person with a wallet and a first session. Raises Refusal: code_invalid, rate_limited."""
    session_id, refresh = uuid.uuid4(), secrets.token_bytes(REFRESH_BYTES)
    result = accept(
        database.call(
            "verify_email",
            email,
            _code_hash(email, code),
            money.DEFAULT_CURRENCY,
            session_id,
            device,
            fingerprint(refresh),
            REFRESH_IDLE_SECONDS,
            REFRESH_ABSOLUTE_SECONDS,
        )
    )
    return Session(Caller(uuid.UUID(result["person_id"]), session_id), _token(refresh), REFRESH_IDLE_SECONDS)


def log_in(email: str, password: str, device: str) -> Session:
    """Start a session. Raises Refusal: credentials_invalid, rate_limited; email_unverified, only for a right password."""
    known = accept(database.call("find_credentials", email))
    if not passwords.matches(password, known["password_hash"]):
        raise refuse("credentials_invalid")
    if known["person_id"] is None:
        raise Refusal("email_unverified", "Enter the code that was mailed to you, or sign up again for a new one.")
    caller = Caller(uuid.UUID(known["person_id"]), uuid.uuid4())
    refresh = secrets.token_bytes(REFRESH_BYTES)
    accept(
        database.call(
            "sign_in",
            caller.person_id,
            known["password_hash"],
            caller.session_id,
            device,
            fingerprint(refresh),
            REFRESH_IDLE_SECONDS,
            REFRESH_ABSOLUTE_SECONDS,
        )
    )
    return Session(caller, _token(refresh), REFRESH_IDLE_SECONDS)


def refresh(token: str) -> Session:
    """Exchange a refresh token for its successor.

    Raises Refusal: token_invalid (unknown or too old), session_ended; Reused when a spent token came again.
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
        )
    )
    caller = Caller(uuid.UUID(result["person_id"]), uuid.UUID(result["session_id"]))
    if result["outcome"] == "session_reused":
        raise Reused(caller)
    successor = _masked(bytes.fromhex(result["sealed"]), old)
    return Session(caller, _token(successor), result["expires_in"])


def log_out(caller: Caller) -> None:
    """End this session. Raises Refusal(session_ended) if it had ended already."""
    accept(database.call("end_session", *caller))


def read_profile(caller: Caller) -> dict[str, Any]:
    """-> `{"version", "profile"}`. Raises Refusal(session_ended)."""
    return accept(database.call("read_profile", *caller))


def change_profile(caller: Caller, name: str | None, handle: str | None) -> dict[str, Any]:
    """Change what is not None. -> `{"version", "profile"}`. Raises Refusal: session_ended, handle_taken."""
    return accept(database.call("change_profile", *caller, name, handle))


def _refuse_common(password: str) -> None:
    if passwords.too_common(password):
        raise Refusal(
            "validation_failed",
            "The password is one of the most used ones.",
            errors=[{"pointer": "/password", "code": "password_common", "detail": "Choose a less common password."}],
        )


def _code_hash(email: str, code: str) -> bytes:
    """Keyed, since six digits alone could be tried out against a stolen hash."""
    return _CODE_SEAL.mark(email, code)


def _handles(name: str) -> list[str]:
    """Handles to try, the plainest first, the last one certain to be free."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:20]
    if not re.match("[a-z]", base):
        base = f"user_{base}".rstrip("_")
    first = [base] if len(base) >= 3 else []
    return [
        *first,
        *(f"{base}_{secrets.randbelow(10**4):04}" for _ in range(HANDLE_TRIES)),
        f"user_{uuid.uuid4().hex[:24]}",
    ]


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
