"""Amounts and currencies as the API takes them: integer minor units, never anything else."""

from typing import Annotated

from pydantic import AfterValidator, Field

from okane_common import settings

MAX_AMOUNT = 2**53 - 1  # the largest integer that every JSON reader keeps exact

CURRENCIES = settings.words("CURRENCIES")
DEFAULT_CURRENCY = settings.text("DEFAULT_CURRENCY")
if DEFAULT_CURRENCY not in CURRENCIES:
    raise settings.SettingError("DEFAULT_CURRENCY is not one of CURRENCIES")


def _known(currency: str) -> str:
    if currency not in CURRENCIES:
        raise ValueError(f"the currencies here are {', '.join(CURRENCIES)}")
    return currency


Amount = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_AMOUNT, description="Minor units of the currency", examples=[1250]),
]
Currency = Annotated[
    str,
    Field(pattern="^[A-Z]{3}$", description="ISO 4217 code", examples=["INR"]),
    AfterValidator(_known),
]
