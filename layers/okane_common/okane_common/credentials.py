"""Signing in with a password, changing it, and setting a new one by mail.

What a stranger can ask takes the same steps for a known and an unknown address, so that neither words nor time tell.
"""

from typing import Any

from okane_common import codes, database, mail, passwords
from okane_common.caller import Caller, Visitor
from okane_common.errors import Refusal, accept, refuse
from okane_common.observability import event, hint
from okane_common.sessions import Session, ended, start

_CODES = codes.Purpose("password")


def log_in(email: str, password: str, visitor: Visitor) -> Session:
    """Start a session. Raises Refusal: credentials_invalid, rate_limited; email_unverified, only for a right password."""

    def prove(*session: Any) -> dict[str, Any]:
        known = accept(database.call("find_credentials", email, visitor.source))
        if not passwords.matches(password, known["password_hash"]):
            # Whether or not somebody has the address, and in the same time: else a sign-up with it would tell.
            _match(password, known["sign_up_hash"])
            raise Refusal("email_unverified", "Enter the code that was mailed to you, or sign up again for a new one.")
        return known | accept(database.call("sign_in", known["person_id"], known["password_hash"], *session))

    try:
        return start("password", visitor, prove)
    except Refusal as refusal:
        event("sign_in_refused", email=hint(email), code=refusal.code)
        raise


def change_password(caller: Caller, current: str, new: str, visitor: Visitor) -> tuple[str, list[Caller]]:
    """Put a new password in the place of the current one. -> the person's e-mail, and the other sessions, which have ended.

    Raises Refusal: credentials_invalid (also where there is no password yet), validation_failed, rate_limited, session_ended.
    """
    try:
        known = accept(database.call("find_own_credentials", *caller, visitor.source))
        _match(current, known["password_hash"])
        new_hash = passwords.hash_new(new, "/new_password", known["email"], known["name"])
        changed = accept(database.call("change_password", *caller, known["password_hash"], new_hash, visitor.source))
    except Refusal as refusal:
        event("password_change_refused", person_id=caller.person_id, session_id=caller.session_id, code=refusal.code)
        raise
    event("password_changed", person_id=caller.person_id, session_id=caller.session_id, ended=len(changed["ended"]))
    return known["email"], ended(caller.person_id, changed["ended"])


def _match(password: str, password_hash: str | None) -> None:
    if not passwords.matches(password, password_hash):
        raise refuse("credentials_invalid")


def forgot(email: str, visitor: Visitor) -> None:
    """Mail a code for a new password, or, if the address has no account, a note that it has none.

    Raises Refusal(rate_limited); database.Unavailable, aws.AwsError when the mail could not be sent.
    """
    code = codes.new()
    mark = _CODES.mark(email, code)
    recorded = accept(database.call("ask_for_reset", email, mark, codes.CODE_SECONDS, visitor.source))
    event("reset_asked", email=hint(email))
    if recorded["known"]:
        mail.send_reset_code(email, code, codes.CODE_SECONDS // 60)
    else:
        mail.send_no_account(email)


def reset(email: str, code: str, new: str, visitor: Visitor) -> list[Caller]:
    """Set a new password by a mailed code. -> the sessions, which have all ended.

    Raises Refusal: code_invalid, validation_failed (the code is still good then), rate_limited.
    """
    new_hash = passwords.hash_new(new, "/new_password", email)
    try:
        done = accept(database.call("reset_password", email, _CODES.mark(email, code), new_hash, visitor.source))
    except Refusal as refusal:
        event("reset_refused", email=hint(email), code=refusal.code)
        raise
    event("password_reset", person_id=done["person_id"], ended=len(done["ended"]))
    return ended(done["person_id"], done["ended"])
