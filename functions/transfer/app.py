"""Money from person to person. Amounts in minor units.

GET  /v1/recipients/{handle}                                      200 {handle, name masked}
POST /v1/transfers           {to: "@handle", amount, currency, note?, capture?, expires_in?}      201 transaction
POST /v1/transfers/batch     {currency, items: [{to, amount, note?}], all_or_nothing?}            201 {data: [item]}
GET  /v1/transfers/{id}                                           200 transaction, to the sender or the recipient
POST /v1/transfers/{id}/capture   {amount?}                       200 transaction, by the recipient
POST /v1/transfers/{id}/void      {}                              200 transaction, by the recipient
POST /v1/transfers/{id}/refunds   {amount?, note?}                201 transaction (kind refund), by the recipient
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from okane_common import api, cache, ledger, models, money, tokens
from okane_common.api import Response
from okane_common.errors import DETAILS, Refusal, refuse

app = api.Api(tokens.authenticate)

HOLD_SECONDS = 604_800  # seven days: how long a hold lasts, at most and unless the request says
NOT_ALLOWED = ("insufficient_funds", "limit_exceeded", "wallet_frozen")
NOBODY = ("recipient_not_found", "rate_limited", "self_transfer", "currency_mismatch")
NOT_MINE = ("not_found", "forbidden", "state_conflict")

To = Annotated[str, Field(pattern="^@[a-z][a-z0-9_]{2,29}$", examples=["@ravi"])]


class NewTransfer(models.Body):
    """Whom to pay, how much, and whether at once or when the recipient captures it."""

    to: To
    amount: money.Amount
    currency: money.Currency
    note: models.Note | None = None
    capture: Literal["automatic", "manual"] = "automatic"
    expires_in: Annotated[
        int | None, Field(ge=60, le=HOLD_SECONDS, description="Seconds, of a hold", examples=[3600])
    ] = None

    @field_validator("expires_in")
    @classmethod
    def _only_of_a_hold(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        if seconds is not None and info.data.get("capture") == "automatic":
            raise ValueError("only a transfer with capture manual expires")
        return seconds


class NewItem(models.Body):
    """Whom to pay, and how much."""

    to: To
    amount: money.Amount
    note: models.Note | None = None


class NewBatch(models.Body):
    """Many payments in one currency, in this order: each on its own, or all or none."""

    currency: money.Currency
    items: Annotated[list[NewItem], Field(min_length=1, max_length=100)]
    all_or_nothing: bool = False


class Capture(models.Body):
    """How much of the hold to take; all of it unless said."""

    amount: money.Amount | None = None


class Void(models.Body):
    """Nothing more to say."""


class NewRefund(models.Body):
    """How much to give back; all that is left unless said."""

    amount: money.Amount | None = None
    note: models.Note | None = None


ALL_HELD, NO_MORE, ALL_LEFT = Capture(), Void(), NewRefund()  # where no body is sent


@app.route("GET", "/v1/recipients/{handle}", "Who is behind a handle", "recipient_not_found", "rate_limited")
def find_recipient(handle: Annotated[str, api.Path(examples=["ravi"])]) -> Response[models.Recipient]:
    if not re.fullmatch("[a-z][a-z0-9_]{2,29}", handle):
        raise refuse("recipient_not_found")
    return api.answer(models.Recipient, ledger.find_recipient(app.caller, handle, app.visitor)["recipient"])


@app.route("POST", "/v1/transfers", "Send money", *api.KEYED, *NOBODY, *NOT_ALLOWED, status=201)
def make_transfer(body: Annotated[NewTransfer, api.Body()], key: api.IdempotencyKey) -> Response[models.Transaction]:
    hold = (body.expires_in or HOLD_SECONDS) if body.capture == "manual" else None
    to = body.to.removeprefix("@")
    made = ledger.make_transfer(app.caller, key, to, body.amount, body.currency, body.note, hold)
    cache.publish(made["changed"])
    return api.moved(made)


@app.route("POST", "/v1/transfers/batch", "Send money to many", *api.KEYED, *NOBODY, *NOT_ALLOWED, status=201)
def make_batch(body: Annotated[NewBatch, api.Body()], key: api.IdempotencyKey) -> Response[models.Batch]:
    items = [item.model_dump() | {"to": item.to.removeprefix("@")} for item in body.items]
    made = ledger.make_batch(app.caller, key, body.all_or_nothing, body.currency, items)
    cache.publish(made["changed"])
    replayed = made["outcome"] == "replayed"
    if made["refused"]:
        [(number, item)] = [(number, item) for number, item in enumerate(made["items"]) if item["code"]]
        fault = {"pointer": f"/items/{number}", "code": item["code"], "detail": DETAILS[item["code"]]}
        detail = f"Nobody was paid, because of item {number}: {fault['detail']}"
        raise Refusal(item["code"], detail, errors=[fault], replayed=replayed, limit=item["limit"])
    data = [
        {
            "transaction": item["transaction"],
            "refusal": {"code": code, "detail": DETAILS[code], "limit": item["limit"]}
            if (code := item["code"])
            else None,
        }
        for item in made["items"]
    ]
    return api.answer(models.Batch, {"data": data}, status=201, headers=api.replay_header(replayed))


@app.route("GET", "/v1/transfers/{id}", "One transfer that I sent or received", "not_found")
def read_transfer(id: api.Id) -> Response[models.Transaction]:
    found = ledger.read_transaction(app.caller, id, ["transfer", "refund"])
    return api.answer(models.Transaction, found["transaction"])


@app.route("POST", "/v1/transfers/{id}/capture", "Take what is held for me", *api.KEYED, *NOT_MINE, *NOT_ALLOWED)
def capture(
    id: api.Id, key: api.IdempotencyKey, body: Annotated[Capture, api.Body()] = ALL_HELD
) -> Response[models.Transaction]:
    captured = ledger.capture(app.caller, key, id, body.amount)
    cache.publish(captured["changed"])
    return api.moved(captured, status=200)


@app.route("POST", "/v1/transfers/{id}/void", "Give back what is held for me", *api.KEYED, *NOT_MINE)
def void(
    id: api.Id, key: api.IdempotencyKey, body: Annotated[Void, api.Body()] = NO_MORE
) -> Response[models.Transaction]:
    del body
    voided = ledger.void(app.caller, key, id)
    cache.publish(voided["changed"])
    return api.moved(voided, status=200)


@app.route(
    "POST",
    "/v1/transfers/{id}/refunds",
    "Give back what I was paid",
    *(*api.KEYED, *NOT_MINE, *NOT_ALLOWED, "refund_exceeds_original"),
    status=201,
)
def make_refund(
    id: api.Id, key: api.IdempotencyKey, body: Annotated[NewRefund, api.Body()] = ALL_LEFT
) -> Response[models.Transaction]:
    made = ledger.make_refund(app.caller, key, id, body.amount, body.note)
    cache.publish(made["changed"])
    return api.moved(made)


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
