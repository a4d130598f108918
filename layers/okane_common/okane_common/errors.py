"""Every refusal that a client can meet, as RFC 9457 problems. docs/errors.md explains each; a test keeps it complete.

    Refusal                     what handlers and the layer raise: a code of CODES, and what to say about it
    database.Unavailable        Postgres cannot be reached in time  -> 503 unavailable
    aws.AwsError                SES or Lambda cannot be reached     -> 503 unavailable

The code is the contract. The detail is for people and never carries a secret, a query or anybody's data but the caller's.
"""

from typing import Any, NamedTuple


class Code(NamedTuple):
    """What is the same for every problem with this code."""

    status: int
    title: str
    retryable: bool = False


CODES = {
    "json_invalid": Code(400, "The body is not acceptable JSON"),
    "idempotency_key_missing": Code(400, "The Idempotency-Key header is missing"),
    "idempotency_key_invalid": Code(400, "The Idempotency-Key header is malformed"),
    "cursor_invalid": Code(400, "The cursor is not one of ours for this list"),
    "token_missing": Code(401, "An access token is required"),
    "token_invalid": Code(401, "The token is not valid"),
    "token_expired": Code(401, "The token has expired"),
    "session_ended": Code(401, "The session has ended"),
    "credentials_invalid": Code(401, "E-mail or password is wrong"),
    "code_invalid": Code(401, "The code is wrong, used or expired"),
    "signature_invalid": Code(401, "The webhook's signature is not valid"),
    "email_unverified": Code(403, "The e-mail address is not verified"),
    "forbidden": Code(403, "This is not allowed"),
    "not_found": Code(404, "There is no such thing"),
    "recipient_not_found": Code(404, "Nobody has this handle"),
    "idempotency_in_progress": Code(409, "A request with this key is still running", retryable=True),
    "state_conflict": Code(409, "The current state does not allow this"),
    "handle_taken": Code(409, "The handle belongs to somebody else"),
    "event_conflict": Code(409, "This webhook id came before with another body"),
    "body_too_large": Code(413, "The body is larger than 64 KiB"),
    "media_type_unsupported": Code(415, "The body is not application/json"),
    "validation_failed": Code(422, "The request does not fit the contract"),
    "idempotency_key_reused": Code(422, "The key belongs to another request"),
    "insufficient_funds": Code(422, "The available balance is too low"),
    "limit_exceeded": Code(422, "The payment would exceed a limit"),
    "currency_mismatch": Code(422, "One of the two has no wallet in this currency"),
    "self_transfer": Code(422, "Sender and recipient are the same person"),
    "wallet_frozen": Code(422, "The wallet is frozen"),
    "refund_exceeds_original": Code(422, "The refunds would exceed the original"),
    "rate_limited": Code(429, "Too many requests", retryable=True),
    "unavailable": Code(503, "The service is unavailable for a moment", retryable=True),
}


class Refusal(Exception):
    """A request that is refused, with the code that says why.

    detail: one sentence for people. errors: for validation, `[{"pointer", "code", "detail"}]`. retry_after: seconds.
    transaction_id: the recorded transfer, when the refusal was recorded. replayed: it was recorded by an earlier request.
    limit: with limit_exceeded, `{"name", "used", "cap", "resets_at"}`; amounts in minor units.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_after: int | None = None,
        transaction_id: str | None = None,
        replayed: bool = False,
        limit: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.transaction_id = transaction_id
        self.replayed = replayed
        self.limit = limit


def refuse(outcome: str) -> Refusal:
    """The refusal for a database function's outcome that has nothing more to say than its code."""
    return Refusal(outcome, DETAILS[outcome])


def accept(result: dict[str, Any]) -> dict[str, Any]:
    """What a database function returned, unless its outcome is a code: then raises that Refusal."""
    outcome = result["outcome"]
    if outcome == "rate_limited":
        raise Refusal(outcome, "Wait before the next request.", retry_after=int(result["retry_after"]))
    if outcome in CODES:
        raise Refusal(outcome, DETAILS[outcome], limit=result.get("limit"))
    return result


DETAILS = {
    "session_ended": "Sign in again: this session was ended.",
    "not_found": "It does not exist, or it is not yours.",
    "recipient_not_found": "Nobody has this handle. Check its spelling.",
    "self_transfer": "You cannot send money to yourself.",
    "currency_mismatch": "You and the recipient both need a wallet in this currency.",
    "idempotency_key_reused": "This key was used for a different request. Take a new key for a new request.",
    "handle_taken": "Choose another handle.",
    "forbidden": "Only the recipient may do this.",
    "wallet_frozen": "One of the two wallets is frozen.",
    "limit_exceeded": "The payment would have exceeded a limit.",
    "insufficient_funds": "The available balance was lower than the amount.",
    "code_invalid": "Check the code, or ask for a new one.",
    "credentials_invalid": "Check the password, and the e-mail where one is asked for.",
    "token_invalid": "The token is malformed, unknown or not meant for this.",
    "event_conflict": "This webhook id was used for a different body.",
}
