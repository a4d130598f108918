"""The shapes of the HTTP contract: what bodies must look like, and exactly which fields answers carry."""

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from okane_common.money import Amount, Currency

Timestamp = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
        description="RFC 3339, UTC, milliseconds",
        examples=["2026-11-23T10:00:00.000Z"],
    ),
]


def _visible(text: str) -> str:
    """Raises ValueError for characters that hide or turn something: controls, line ends, text direction, no-width spaces."""
    for character in text:
        kind = unicodedata.category(character)
        if kind in HIDDEN_KINDS and character not in JOINERS:
            raise ValueError(f"U+{ord(character):04X} cannot be seen")
    return text


HIDDEN_KINDS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # many scripts and emoji are written with them
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[
    str,
    Field(min_length=1, max_length=80, pattern=r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"),
    AfterValidator(_visible),
]
Note = Annotated[str, Field(min_length=1, max_length=140, pattern=NO_CONTROLS), AfterValidator(_visible)]
Email = Annotated[
    str,
    # A plain address in ASCII: SES takes no other, and would read `x<victim@example.com>` as the victim's.
    Field(max_length=254, pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}$"),
    AfterValidator(str.lower),
]
NewPassword = Annotated[str, Field(min_length=8, max_length=128, pattern=r"^[^\x00]*$")]
Password = Annotated[str, Field(max_length=128)]
Code = Annotated[str, Field(pattern="^[0-9]{6}$", examples=["271828"])]
Handle = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{2,29}$", examples=["asha"])]
Money = Annotated[int, Field(description="Minor units of the currency")]


class Body(BaseModel):
    """A request body: exact types, and no field that is not here."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Answer(BaseModel):
    """A response body: exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class SignUp(Body):
    """A new person."""

    email: Email
    password: NewPassword
    name: Name


class Verification(Body):
    """The code that was mailed."""

    email: Email
    code: Code


class LogIn(Body):
    """What a person knows."""

    email: Email
    password: Password


class Refresh(Body):
    """The newest refresh token of a session."""

    refresh_token: Annotated[str, Field(max_length=200)]


class PasswordChange(Body):
    """The password now, and the one from now on."""

    current_password: Password
    new_password: NewPassword


class Forgotten(Body):
    """Whose password is forgotten."""

    email: Email


class PasswordReset(Body):
    """The code that was mailed, and the password from now on."""

    email: Email
    code: Code
    new_password: NewPassword


class ProviderCode(Body):
    """The code that the provider's round ended with, and the verifier of the challenge that the front end began it with."""

    code: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{43}$")]
    code_verifier: Annotated[str | None, Field(pattern="^[A-Za-z0-9._~-]{43,128}$")] = None


class ProfileChange(Body):
    """What to change; at least one of them."""

    name: Name | None = None
    handle: Handle | None = None

    @model_validator(mode="after")
    def _something(self) -> "ProfileChange":
        if self.name is None and self.handle is None:
            raise ValueError("name or handle is expected")
        return self


class Message(Answer):
    """A sentence for people."""

    message: str


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]


class Tokens(Answer):
    """A signed-in session's tokens. Times are seconds from now."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    session_id: str


class SignedIn(Answer):
    """One session of a person's. `device` is what its program called itself, `last_used_at` when it was started or refreshed."""

    id: str
    device: str
    created_at: Timestamp
    last_used_at: Timestamp
    expires_at: Timestamp
    current: Annotated[bool, Field(description="Whether it is the one that asks")]


class Sessions(Answer):
    """The live sessions of a person: this one first, then the latest used."""

    data: list[SignedIn]


class Profile(Answer):
    """A person, as only they see themselves."""

    id: str
    email: str
    name: str
    handle: str
    email_verified: bool
    created_at: Timestamp


class Wallet(Answer):
    """The balances of one person in one currency, as of the last change."""

    currency: str
    available: Money
    locked: Money
    total: Money
    version: Annotated[int, Field(description="Rises by one with every change")]
    as_of: Timestamp


class Wallets(Answer):
    """All wallets of a person."""

    data: list[Wallet]


class NewWallet(Body):
    """The currency to open a wallet in."""

    currency: Currency


class NewDeposit(Body):
    """How much to bring in, and from which bank."""

    amount: Amount
    bank: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{1,29}$", examples=["hdfc"])]


class NewWithdrawal(NewDeposit):
    """How much to pay out, by which bank, to which account there."""

    account: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9 ./-]{2,62}[A-Za-z0-9]$", examples=["00123456789"])]


class Counterparty(Answer):
    """A person on the other side."""

    handle: str
    name: str


class Recipient(Answer):
    """Somebody one might pay; the name is masked."""

    handle: str
    name: str


class Bank(Answer):
    """A bank on the other side."""

    bank: str


class Failure(Answer):
    """Why a transaction moved nothing."""

    code: str
    message: str


class Transaction(Answer):
    """A transfer as one of its parties sees it. Fields that do not apply are null."""

    id: str
    kind: Literal["deposit", "withdrawal", "transfer", "refund"]
    direction: Literal["in", "out"]
    status: Literal["Processing", "Success", "Failure"]
    amount: Money
    currency: str
    counterparty: Counterparty | Bank
    note: str | None
    refunded_amount: Money | None
    captured_amount: Money | None
    balance_after: Annotated[int, Field(description="Available minor units after this transaction's last change")]
    wallet_version: Annotated[int, Field(description="The wallet's version after this transaction's last change")]
    failure: Failure | None
    created_at: Timestamp
    completed_at: Timestamp | None
    expires_at: Timestamp | None
    payment_url: str | None
    refund_of: str | None


class Balance(Answer):
    """What a wallet had at a version."""

    available: Money
    locked: Money
    total: Money
    version: int


class StatementLine(Answer):
    """One change of a wallet. A transaction has one line there, or one when it opens and one when it ends."""

    version: Annotated[int, Field(description="The wallet's version after this line; lines are without a gap")]
    at: Timestamp
    transaction_id: str
    kind: Literal["deposit", "withdrawal", "transfer", "refund"]
    direction: Literal["in", "out"]
    stage: Annotated[
        Literal["opening", "closing"],
        Field(description="closing: written when the transaction ended, after its opening"),
    ]
    status: Annotated[
        Literal["Processing", "Success", "Failure"],
        Field(description="What the transaction had come to with this line"),
    ]
    counterparty: Counterparty | Bank
    note: str | None
    available_change: Money
    locked_change: Money
    available_after: Money
    locked_after: Money


class Statement(Answer):
    """A wallet's month, or one part of it: opening and the changes of its lines make closing."""

    currency: str
    month: Annotated[str, Field(examples=["2026-11"])]
    since: Annotated[Timestamp, Field(alias="from", description="The beginning of the month in UTC")]
    until: Annotated[Timestamp, Field(alias="to", description="Its end, which is not in it")]
    final: Annotated[bool, Field(description="Whether the month is over, so that no line can be added any more")]
    opening: Balance
    lines: list[StatementLine]
    closing: Balance
    has_more: bool
    next_cursor: Annotated[str | None, Field(description="For the next part, which opens as this one closes")]


class TransactionPage(Answer):
    """Newest first."""

    data: list[Transaction]
    has_more: bool
    next_cursor: str | None


class FieldError(Answer):
    """One fault of a request. `pointer` is a JSON Pointer into the body, or `?name` for a query parameter."""

    pointer: str
    code: str
    detail: str


class LimitReached(Answer):
    """A limit that a payment would have exceeded. Amounts in minor units, counts in payments."""

    name: Literal[
        "payment",
        "day_amount",
        "day_count",
        "month_amount",
        "month_count",
        "new_recipient",
        "new_account",
        "recipient_balance",
    ]
    used: Annotated[int | None, Field(description="So far, without this payment; null where that is not yours to know")]
    cap: int
    resets_at: Annotated[
        Timestamp | None, Field(description="When there is room again; null where waiting does not help")
    ]


class BatchRefusal(Answer):
    """Why an item of a batch was not paid."""

    code: str
    detail: str
    limit: LimitReached | None


class BatchItem(Answer):
    """What became of one item. An item that could not be a transfer at all has no transaction."""

    transaction: Transaction | None
    refusal: BatchRefusal | None


class Batch(Answer):
    """What became of each item, in the order of the request."""

    data: list[BatchItem]


class Problem(Answer):
    """RFC 9457. `code` is the contract; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    retryable: bool
    errors: Annotated[
        list[FieldError] | None,
        Field(description="What is wrong where; of a batch that was refused as a whole, which item"),
    ] = None
    transaction_id: Annotated[str | None, Field(description="The recorded transfer, when the refusal was recorded")] = (
        None
    )
    limit: Annotated[LimitReached | None, Field(description="Only with limit_exceeded")] = None
