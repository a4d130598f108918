"""Signing in with Google, or any other OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, 3.1;
RFC 7636; RFC 9700).

    the way out    start()      a cookie that only this browser has, and the provider's address with what is derived from it
    the way back   come_back()  the provider's code becomes an ID token, that a person, and they a code for the front end
    at the end     redeem()     that code, once, becomes a session

Nothing is kept of the way out: state, nonce and PKCE verifier are all made from the random value in the cookie, under a key of
ours. On the way back the state is spent in Postgres, so it cannot come again.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from okane_common import database, money, people, provider, sessions, settings
from okane_common.caller import Visitor
from okane_common.errors import Refusal, accept
from okane_common.observability import event, hint
from okane_common.seals import Seal, fingerprint

ROUND_SECONDS = 10 * 60  # from the way out to the way back
CODE_SECONDS = 120  # from the way back to the tokens
OUR_URL = settings.text("TOKEN_ISSUER")
REDIRECT_URI = f"{OUR_URL}/v1/auth/google/callback"

_SEALS = {what: Seal(f"openid {what}") for what in ("cookie", "state", "nonce", "verifier")}


def _front_ends() -> tuple[str, ...]:
    """The addresses that a browser may be sent back to: to each of them a query is added."""
    found = settings.words("FRONT_END_URLS")
    for url in found:
        if not re.fullmatch(r"https?://[^\s?#/]+(/[^\s?#]*)?", url) or not (
            url[:8] == "https://" or provider.is_local(url)
        ):
            raise settings.SettingError(
                "FRONT_END_URLS has an address that is none, is not https, or has a query or a fragment"
            )
    return found


FRONT_ENDS = _front_ends() if provider.CLIENT_ID else ()


class Round(NamedTuple):
    """What a browser's cookie holds. issued_at: Unix seconds. challenge: the front end's own, empty if it has none."""

    random: str
    issued_at: int
    return_to: str
    challenge: str

    def derived(self, what: str) -> str:
        """The round's state, nonce or verifier: 43 characters that only this cookie and our key give."""
        return _base64url(_SEALS[what].mark(self.random))


class Way(NamedTuple):
    """Where to send the browser, with which cookie: its name and value, empty to take it away. linked: a person who can now be
    signed in to by the provider and could not before, by e-mail.
    """

    url: str
    cookie: tuple[str, str]
    linked: str | None = None


def cookie_name() -> str:
    """`__Host-` binds a cookie to this host over TLS (RFC 6265bis, 4.1.3.2); plain http on one machine has no such thing."""
    return "okane-google" if provider.is_local(OUR_URL) else "__Host-okane-google"


def start(return_to: str | None, challenge: str | None) -> Way:
    """The way out. return_to: one of FRONT_END_URLS, exactly; the first if None.

    Raises Refusal: not_found (no provider is configured), validation_failed, unavailable (the provider cannot be reached).
    """
    if not provider.CLIENT_ID:
        raise Refusal("not_found", "Signing in by a provider is not configured.")
    if return_to is not None and return_to not in FRONT_ENDS:
        fault = {
            "pointer": "?return_to",
            "code": "return_to_unknown",
            "detail": "It is not one of the configured addresses.",
        }
        raise Refusal("validation_failed", "return_to must be one of the configured addresses.", errors=[fault])
    round_ = Round(secrets.token_urlsafe(32), int(time.time()), return_to or FRONT_ENDS[0], challenge or "")
    try:
        url = provider.authorization_url(
            REDIRECT_URI, round_.derived("state"), round_.derived("nonce"), round_.derived("verifier")
        )
    except provider.Failed as failed:
        event("provider_failed", reason=failed.reason, said=failed.said)
        raise Refusal("unavailable", "The provider cannot be reached.", retry_after=1) from failed
    return Way(url, (cookie_name(), _sealed(round_)))


def come_back(cookies: list[str], query: Mapping[str, str | None]) -> Way:
    """The way back: always to the front end, with `code` or with `error`. cookies: `name=value` of each. query: what the provider
    sent: code, state, error, iss. Raises Refusal(not_found), database.Unavailable.
    """
    if not provider.CLIENT_ID:
        raise Refusal("not_found", "Signing in by a provider is not configured.")
    away = (cookie_name(), "")
    return_to, linked = FRONT_ENDS[0], None
    try:
        round_ = _opened(cookies, query.get("state") or "")
        return_to = round_.return_to
        code = secrets.token_urlsafe(32)
        linked = _end(round_, _vouched(round_, query), code)
        answer = {"code": code}
    except provider.Failed as failed:
        event("provider_refused", reason=failed.reason, said=failed.said)
        answer = {"error": failed.reason}
    return Way(f"{return_to}?{urlencode(answer)}", away, linked)


def redeem(code: str, verifier: str | None, visitor: Visitor) -> sessions.Session:
    """Start a session for a front end's code. Raises Refusal: code_invalid, rate_limited; sessions.Reused when it came again."""
    challenge = _base64url(hashlib.sha256(verifier.encode()).digest()) if verifier else ""

    def prove(*session: Any) -> dict[str, Any]:
        found = accept(database.call("redeem_round", fingerprint(code.encode()), CODE_SECONDS, challenge, *session))
        if found["outcome"] == "code_reused":
            raise sessions.Reused("code_invalid", found)
        return found

    try:
        return sessions.start("provider", visitor, prove)
    except Refusal as refusal:
        event("sign_in_refused", method="provider", code=refusal.code)
        raise


# The cookie


def _sealed(round_: Round) -> str:
    content = _base64url(json.dumps(round_).encode())
    return f"{content}.{_base64url(_SEALS['cookie'].mark(content))}"


def _opened(cookies: list[str], state: str) -> Round:
    """The round of this browser, if `state` is its own. Raises provider.Failed(state_invalid)."""
    values = [
        value for name, _, value in (cookie.partition("=") for cookie in cookies) if name.strip() == cookie_name()
    ]
    if len(values) != 1:
        raise provider.Failed("state_invalid", "no cookie" if not values else "two cookies")
    content, _, mark = values[0].partition(".")
    try:
        if not _SEALS["cookie"].fits(_bytes(mark), content):
            raise provider.Failed("state_invalid", "not our cookie")
        round_ = Round(*json.loads(_bytes(content)))
    except (ValueError, binascii.Error):
        raise provider.Failed("state_invalid", "not a cookie of ours") from None
    if not hmac.compare_digest(round_.derived("state").encode(), state.encode("utf-8", "replace")):
        raise provider.Failed("state_invalid", "another browser's state")
    if time.time() - round_.issued_at > ROUND_SECONDS:
        raise provider.Failed("state_invalid", "too late")
    if round_.return_to not in FRONT_ENDS:
        raise provider.Failed("state_invalid", "the address is not configured any more")
    return round_


# The person


def _vouched(round_: Round, query: Mapping[str, str | None]) -> provider.Vouched:
    """Ask the provider who came back. Raises provider.Failed; the state is spent then: it cannot come again either."""
    try:
        _accept_answer(query)
        return provider.vouch(REDIRECT_URI, str(query["code"]), round_.derived("verifier"), round_.derived("nonce"))
    except provider.Failed:
        database.call("spend_round", fingerprint(round_.derived("state").encode()))
        raise


def _accept_answer(query: Mapping[str, str | None]) -> None:
    if query.get("iss") not in (None, provider.ISSUER):  # RFC 9207: another provider's answer
        raise provider.Failed("provider_refused", "iss")
    if query.get("error"):
        denied = query["error"] == "access_denied"
        raise provider.Failed("access_denied" if denied else "provider_refused", "the provider said no")
    if not query.get("code"):
        raise provider.Failed("provider_refused", "no code")


def _end(round_: Round, vouched: provider.Vouched, code: str) -> str | None:
    """Leave the code for the front end. Returns the e-mail of a person whose account was linked. Raises provider.Failed."""
    ended = database.call(
        "end_round",
        fingerprint(round_.derived("state").encode()),
        provider.ISSUER,
        vouched.subject,
        vouched.email,
        vouched.name,
        people.handles(vouched.name),
        money.DEFAULT_CURRENCY,
        fingerprint(code.encode()),
        round_.challenge,
    )
    match ended["outcome"]:
        case "state_used":
            raise provider.Failed("state_invalid", "used before")
        case "identity_conflict":
            raise provider.Failed("identity_conflict", hint(vouched.email))
        case outcome:
            event(f"identity_{outcome}", person_id=ended["person_id"], issuer=provider.ISSUER)
            return vouched.email if outcome == "linked" else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
