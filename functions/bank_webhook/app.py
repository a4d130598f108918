"""What banks tell us, signed per Standard Webhooks 1.0. Verified before it is parsed; answered 200 once committed.

POST /v1/webhooks/bank/{bank}
{"type": "deposit.succeeded", "timestamp": "...", "data": {"reference", "bank_reference", "amount", "currency", "reason"?}}
200 {"status": "processed" | "duplicate" | "parked" | "quarantined"}; amount in minor units
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from okane_common import api, cache, ledger, models, money, observability, seals, webhooks
from okane_common.api import Response
from okane_common.errors import Refusal


def _verify(event: api.Event) -> None:
    body = event["body"] or ""
    try:
        event["webhook_id"] = webhooks.verify(event["pathParameters"]["bank"], event["headers"], body.encode())
    except Refusal:
        observability.count("BankSignatureRefused")
        raise


app = api.Api(_verify, bearer=False)

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=models.NO_CONTROLS)]


class BankData(models.Body):
    """The movement at the bank. `reference` is the transaction's id."""

    reference: Line
    bank_reference: Line
    amount: money.Amount
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    reason: Line | None = None


class BankEvent(models.Body):
    """One event. Its time is the bank's; ours is when it came."""

    type: Literal["deposit.succeeded", "deposit.failed", "withdrawal.succeeded", "withdrawal.failed"]
    timestamp: Annotated[str, Field(min_length=1, max_length=64, pattern=models.NO_CONTROLS)]
    data: BankData


class Receipt(models.Answer):
    """What became of the event."""

    status: Literal["processed", "duplicate", "parked", "quarantined"]


@app.route("POST", "/v1/webhooks/bank/{bank}", "A bank's event", "signature_invalid", "event_conflict")
def receive(
    bank: Annotated[str, api.Path(examples=["hdfc"])], body: Annotated[BankEvent, api.Body()]
) -> Response[Receipt]:
    raw = app.event["body"].encode()
    received = ledger.receive_bank_event(
        bank, app.event["webhook_id"], seals.fingerprint(raw), body.type, body.data.model_dump()
    )
    observability.count(f"BankEvent{received['recorded'].capitalize()}")
    cache.publish(received["changed"] or [])
    return api.answer(Receipt, {"status": received["status"]})


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.handle(event, context)
