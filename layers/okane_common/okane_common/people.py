"""People: signing up, proving an address, and the profile."""

import re
import secrets
import unicodedata
import uuid
from typing import Any

from okane_common import codes, database, mail, money, passwords
from okane_common.caller import Caller, Visitor
from okane_common.errors import Refusal, accept
from okane_common.observability import event, hint
from okane_common.sessions import Session, start

HANDLE_TRIES = 6

_CODES = codes.Purpose("e-mail")


def sign_up(email: str, password: str, name: str, visitor: Visitor) -> None:
    """Record the attempt and mail a code to the address, or, if it has an account, a note that it has.

    Both take the same steps, so that nobody learns from the answer who is here. Raises Refusal: validation_failed for a
    password that is too common, rate_limited; database.Unavailable, aws.AwsError when the mail could not be sent.
    """
    password_hash = passwords.hash_new(password, "/password", email, name)
    code = codes.new()
    recorded = accept(
        database.call(
            "sign_up",
            email,
            name,
            handles(name),
            password_hash,
            _CODES.mark(email, code),
            codes.CODE_SECONDS,
            visitor.source,
        )
    )
    event("sign_up_asked", email=hint(email))
    if recorded["known"]:
        mail.send_already_registered(email)
    else:
        mail.send_code(email, code, codes.CODE_SECONDS // 60)


def verify(email: str, code: str, visitor: Visitor) -> Session:
    """Turn a sign-up into a person with a wallet and a first session. Raises Refusal: code_invalid, rate_limited."""

    def prove(*session: Any) -> dict[str, Any]:
        proof = (email, _CODES.mark(email, code), money.DEFAULT_CURRENCY)
        return accept(database.call("verify_email", *proof, *session))

    try:
        return start("code", visitor, prove)
    except Refusal as refusal:
        event("verify_refused", email=hint(email), code=refusal.code)
        raise


def read_profile(caller: Caller) -> dict[str, Any]:
    """-> `{"version", "profile"}`. Raises Refusal(session_ended)."""
    return accept(database.call("read_profile", *caller))


def change_profile(caller: Caller, name: str | None, handle: str | None) -> dict[str, Any]:
    """Change what is not None. -> `{"version", "profile"}`. Raises Refusal: session_ended, handle_taken."""
    changed = accept(database.call("change_profile", *caller, name, handle))
    event("profile_changed", person_id=caller.person_id, session_id=caller.session_id)
    return changed


def handles(name: str) -> list[str]:
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
