"""The pages of the bank simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, cast

from local.page import definitions, page

if TYPE_CHECKING:
    from local.bank import Payment
    from local.http import Response

EXPONENTS = {
    "JPY": 0,
    "KRW": 0,
    "VND": 0,
    "BHD": 3,
    "KWD": 3,
    "TND": 3,
}  # ISO 4217; every other currency has 2

MISBEHAVE = """
<details>
<summary>Misbehave</summary>
<p class="note">What banks have been seen to do. Fields left alone change nothing.</p>
<label>Send it so many times <input name="times" type="number" min="1" max="10" placeholder="1"></label>
<label>&hellip; each under a new webhook-id <input name="new_ids" type="checkbox"></label>
<label>&hellip; all at once <input name="at_once" type="checkbox"></label>
<label>Late, in seconds <input name="delay_seconds" type="number" min="0" max="60" placeholder="0"></label>
<label>Both events <select name="order"><option value="">no</option>
<option value="failed_first">failure, then success</option>
<option value="success_first">success, then failure</option></select></label>
<label>Another amount (minor units) <input name="amount" inputmode="numeric" autocomplete="off"></label>
<label>Another currency <input name="currency" maxlength="3" autocomplete="off"></label>
<label>Another bank reference <input name="bank_reference" maxlength="100" autocomplete="off"></label>
<label>A reference nobody knows <input name="unknown_reference" type="checkbox"></label>
<label>A wrong signature <input name="bad_signature" type="checkbox"></label>
<label>A clock wrong by seconds <input name="skew_seconds" type="number" placeholder="0"></label>
<label>A body of 70 KiB <input name="oversize" type="checkbox"></label>
<label>Approve after the time is over <input name="ignore_expiry" type="checkbox"></label>
</details>
"""


def money(amount: int, currency: str) -> str:
    """Minor units as people write them: 500000 INR is "INR 5,000.00"."""
    exponent = EXPONENTS.get(currency, 2)
    whole, fraction = divmod(amount, 10**exponent)
    return f"{currency} {whole:,}" + (f".{fraction:0{exponent}}" if exponent else "")


def index(banks: Mapping[str, str]) -> Response:
    """What this server is, for whoever opens its address."""
    names = "".join(f"<li>{escape(name)} <code>/{escape(key)}/pay</code></li>" for key, name in banks.items())
    return page(
        200,
        "Bank simulator",
        "<p>Start a deposit or a withdrawal in OKANE and open its <code>payment_url</code>: it leads to one of these.</p>"
        f"<ul>{names}</ul>",
    )


def payment(bank_name: str, asked: Payment) -> Response:
    """The payment page: what is asked for, the buttons, and the form for misbehaving."""
    if asked.expired:
        buttons = (
            "<p>The time for this payment is over.</p>"
            '<button class="main" name="action" value="decline">Tell the merchant</button>'
        )
    else:
        buttons = (
            '<button class="main" name="action" value="approve">Approve</button> '
            '<button name="action" value="decline">Decline</button>'
        )
    return page(
        200,
        f"{bank_name}: payment",
        f'<div class="amount">{escape(money(asked.amount, asked.currency))}</div>{_facts(asked)}'
        f'<form method="post">{buttons}{MISBEHAVE}</form>',
    )


def result(status: int, bank_name: str, asked: Payment, outcome: Mapping[str, object]) -> Response:
    """What was sent to the webhook and what it said to each."""
    deliveries = cast(list[dict[str, object]], outcome["deliveries"])
    if "delay_seconds" in outcome:
        report = f"<p>It will be sent in {escape(str(outcome['delay_seconds']))} seconds.</p>"
    elif "error" in outcome:
        report = f"<p>Nothing was sent: {escape(str(outcome['error']))}.</p>"
    else:
        report = "".join(
            f"<article>{definitions(delivery | {'answer': json.dumps(delivery['answer'])})}</article>"
            for delivery in deliveries
        )
    return page(
        status,
        f"{bank_name}: what was sent",
        f'<div class="amount">{escape(money(asked.amount, asked.currency))}</div>{_facts(asked)}{report}'
        '<p><a href="">Back to the payment</a></p>',
    )


def problem(status: int, text: str) -> Response:
    """A page for a request that cannot be carried out."""
    return page(status, "Bank simulator: this does not work", f"<p>{escape(text)}</p>")


def _facts(asked: Payment) -> str:
    facts: dict[str, object] = {"Payment": asked.reference, "Kind": asked.kind}
    if asked.expires_at is not None:
        facts["Valid until"] = asked.expires_at.isoformat(sep=" ", timespec="seconds")
    return definitions(facts)
