"""Money from person to person.

GET  /v1/recipients/{handle}                                200 {handle, name masked}
POST /v1/transfers   {to: "@handle", amount, currency, note?, capture?}   201 transaction; amount in minor units
GET  /v1/transfers/{id}                                     200 transaction, to the sender or the recipient
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from okane_common import api, cache, ledger, models, money, tokens
from okane_common.api import Response
from okane_common.errors import refuse

app = api.Api(tokens.authenticate)


class NewTransfer(models.Body):
    """Whom to pay, and how much."""

    to: Annotated[str, Field(pattern="^@[a-z][a-z0-9_]{2,29}$", examples=["@ravi"])]
    amount: money.Amount
    currency: money.Currency
    note: models.Note | None = None
    capture: Literal["automatic"] = "automatic"


@app.route("GET", "/v1/recipients/{handle}", "Who is behind a handle", "recipient_not_found", "rate_limited")
def find_recipient(handle: Annotated[str, api.Path(examples=["ravi"])]) -> Response[models.Recipient]:
    if not re.fullmatch("[a-z][a-z0-9_]{2,29}", handle):
        raise refuse("recipient_not_found")
    return api.answer(models.Recipient, ledger.find_recipient(app.caller, handle)["recipient"])


@app.route(
    "POST",
    "/v1/transfers",
    "Send money",
    "idempotency_key_missing",
    "idempotency_key_invalid",
    "idempotency_key_reused",
    "recipient_not_found",
    "rate_limited",
    "self_transfer",
    "currency_mismatch",
    "insufficient_funds",
    "limit_exceeded",
    status=201,
)
def make_transfer(body: Annotated[NewTransfer, api.Body()], key: api.IdempotencyKey) -> Response[models.Transaction]:
    made = ledger.make_transfer(app.caller, key, body.to.removeprefix("@"), body.amount, body.currency, body.note)
    cache.publish(made["changed"])
    return api.moved(made)


@app.route("GET", "/v1/transfers/{id}", "One transfer that I sent or received", "not_found")
def read_transfer(id: api.Id) -> Response[models.Transaction]:  # noqa: A002 - the contract's name
    return api.answer(
        models.Transaction, ledger.read_transaction(app.caller, id, ["transfer", "refund"])["transaction"]
    )


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
