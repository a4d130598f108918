"""The state of the model in model.py: wallets, transfers, events, and what every operation does with them.

It is held in dicts of immutable values, so a copy of the whole is cheap: that is what lets a test try in which order calls
that ran side by side can have taken place.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from tests.support.books import FULL

MONTH = 30  # days, today included
ARRIVES_UP_TO = 10**12  # minor units; a larger credit locks even a receiving wallet
ARRIVES_BELOW = 2**52  # and so does any credit to a wallet that has more than this
MISSES = 30  # handles that nobody has, before a person has to wait
BANK = -1  # an owner who is nobody here
ROOM = {"name": "recipient_balance", "used": None, "cap": FULL, "resets_at": None}

type Owner = tuple[int, str]  # whose wallet, in which currency
type Line = tuple[int, int]  # an entry's number, and what was available after it
type Answer = dict[str, Any]


class Name(NamedTuple):
    """What a key names: a transfer, or a capture or void."""

    route: str
    who: int
    key: str


class Wallet(NamedTuple):
    available: int = 0
    locked: int = 0
    version: int = 0
    debit_frozen: bool = False
    credit_frozen: bool = False
    receiving: bool = False


class Transfer(NamedTuple):
    name: Name
    kind: str
    payer: Owner
    payee: Owner
    amount: int
    asked: tuple[Any, ...]  # the request, to be compared
    day: int
    status: str = "Processing"
    seconds: int | None = None  # of a hold
    bank: str | None = None
    note: str | None = None
    code: str | None = None
    limit: Mapping[str, Any] | None = None
    captured: int | None = None
    refund_of: Name | None = None
    payer_line: Line | None = None  # the latest
    payee_line: Line | None = None


class Event(NamedTuple):
    body: tuple[Any, ...]
    kind: str
    succeeded: bool
    reference: Name
    bank: str
    bank_reference: str
    amount: int
    currency: str
    status: str = ""


@dataclass
class State:
    """The whole of the books."""

    start: datetime  # when everybody signed up: today, until days pass
    wallets: dict[Owner, Wallet] = field(default_factory=dict)
    transfers: dict[Name, Transfer] = field(default_factory=dict)
    resolved: dict[Name, tuple[Name, tuple[Any, ...]]] = field(default_factory=dict)  # by capture or void
    batches: dict[Name, tuple[tuple[Any, ...], bool, list[Answer]]] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)  # by webhook id, in the order they came
    limits: dict[str, Mapping[str, int]] = field(default_factory=dict)
    paid_out: dict[tuple[Owner, int], tuple[int, int]] = field(default_factory=dict)  # amount and number, by day
    misses: dict[int, int] = field(default_factory=dict)
    today: int = 0

    def copy(self) -> Self:
        copied = copy.copy(self)
        for each in fields(self):
            if isinstance(value := getattr(self, each.name), dict):
                setattr(copied, each.name, dict(value))
        return copied

    def _known(self, who: int) -> bool:
        return any(owner == who for owner, _ in self.wallets)

    def _miss(self, who: int, times: int) -> Answer | None:
        self.misses[who] = min(self.misses.get(who, 0) + times, MISSES + 1)
        return {"outcome": "rate_limited"} if self.misses[who] > MISSES else None

    def _not_theirs(self, who: int, name: Name) -> Answer | None:
        """Why somebody may not end or refund a payment: it is their own, or there is none that they were to get."""
        t = self.transfers.get(name)
        if t is None or t.kind != "transfer":
            return {"outcome": "not_found"}
        if t.payer[0] == who:
            return {"outcome": "forbidden"}
        return {"outcome": "not_found"} if t.payee[0] != who or t.payee_line is None else None

    def _put(self, t: Transfer) -> None:
        self.transfers[t.name] = t

    def _write(self, owner: Owner, available: int, locked: int) -> Line:
        w = self.wallets[owner]
        w = w._replace(available=w.available + available, locked=w.locked + locked, version=w.version + 1)
        self.wallets[owner] = w
        return w.version, w.available

    def _count(self, owner: Owner, day: int, amount: int, number: int) -> None:
        before = self.paid_out.get((owner, day), (0, 0))
        self.paid_out[owner, day] = (before[0] + amount, before[1] + number)

    def _arrives(self, wallet: Wallet, amount: int) -> bool:
        return wallet.receiving and amount <= ARRIVES_UP_TO and wallet.available + wallet.locked <= ARRIVES_BELOW

    def _room(self, wallet: Wallet, amount: int) -> bool:
        return wallet.available + wallet.locked + amount <= FULL

    def _expired(self, t: Transfer) -> bool:
        return t.seconds is not None and (self.today - t.day) * 86_400 >= t.seconds

    def _captured(self, t: Transfer) -> int:
        return t.amount if t.captured is None else t.captured

    def _refunded(self, name: Name) -> int:
        return sum(t.amount for t in self.transfers.values() if t.refund_of == name and t.status == "Success")

    def _over_limit(self, payer: Owner, amount: int, payee: Owner | None) -> Mapping[str, Any] | None:
        """The first limit in the way, as the API shows it."""
        days = {day: self.paid_out.get((payer, day), (0, 0)) for day in range(self.today - MONTH + 1, self.today + 1)}
        caps, tomorrow = self.limits.get(payer[1], {}), self._midnight(self.today + 1)
        today = days[self.today]
        checks: list[tuple[str, int, int, str | None]] = [
            ("payment", 0, amount, None),
            ("day_amount", today[0], amount, tomorrow),
            ("day_count", today[1], 1, tomorrow),
        ]
        for number, (name, more) in enumerate([("month_amount", amount), ("month_count", 1)]):
            used = {day: both[number] for day, both in days.items()}
            checks.append((name, sum(used.values()), more, self._month_resets(used, more, caps.get(name, 0))))
        if self.today < (young := caps.get("new_account_days", 0)):
            checks.append(("new_account", today[0], amount, tomorrow))
        if payee is not None and not self._has_paid(payer, payee):
            checks.append(("new_recipient", 0, amount, None))
        for name, before, more, resets_at in checks:
            if name in caps and before + more > caps[name]:
                if more > caps[name]:  # waiting for another day is no help; for an older account it may be
                    resets_at = self._moment(young) if name == "new_account" else None
                return {"name": name, "used": before, "cap": caps[name], "resets_at": resets_at}
        return None

    def _month_resets(self, used: Mapping[int, int], more: int, cap: int) -> str:
        """The first midnight at which there is room; or, if there never is, at which the first of it has left."""
        paid = [day for day, amount in sorted(used.items()) if amount > 0] or [self.today]
        for day in paid:
            if sum(amount for later, amount in used.items() if later > day) + more <= cap:
                return self._midnight(day + MONTH)
        return self._midnight(paid[0] + MONTH)

    def _midnight(self, day: int) -> str:
        return f"{self.start.date() + timedelta(day - self.today)}T00:00:00.000Z"

    def _moment(self, day: int) -> str:
        """So many days after everybody signed up."""
        return (self.start + timedelta(day - self.today)).isoformat(timespec="milliseconds") + "Z"

    def _has_paid(self, payer: Owner, payee: Owner) -> bool:
        return any(
            (t.payer, t.payee, t.kind, t.status) == (payer, payee, "transfer", "Success")
            for t in self.transfers.values()
        )

    def _changed(self, owners: Iterable[Owner]) -> dict[Owner, tuple[int, int, int] | None]:
        """People's wallets as a cache may keep them; None for one that is receiving, which it may not."""
        wallets = {owner: self.wallets[owner] for owner in owners if owner[0] != BANK}
        return {owner: None if wallet.receiving else wallet[:3] for owner, wallet in wallets.items()}

    def _made(self, name: Name, viewer: Owner, owners: Sequence[Owner]) -> Answer:
        t = self.transfers[name]
        return {
            "outcome": "made",
            "transaction": self._seen(name, viewer),
            "limit": t.limit,
            "changed": self._changed(owners),
        }

    def _replay(self, t: Transfer, viewer: Owner, asked: tuple[Any, ...]) -> Answer:
        if t.asked != asked:
            return {"outcome": "idempotency_key_reused"}
        seen = self._seen(t.name, viewer)
        return {
            "outcome": "replayed",
            "transaction": seen,
            "limit": t.limit,
            "changed": self._changed([t.payer, t.payee]),
        }

    def _seen(self, name: Name, viewer: Owner) -> Answer:
        """A transaction as one of its parties sees it."""
        t = self.transfers[name]
        out = viewer == t.payer
        line, other = (t.payer_line, t.payee) if out else (t.payee_line, t.payer)
        paid = t.kind == "transfer" and t.status == "Success"
        return {
            "id": name, "kind": t.kind, "direction": "out" if out else "in", "status": t.status, "amount": t.amount,
            "currency": viewer[1], "counterparty": t.bank if other[0] == BANK else other[0], "note": t.note,
            "refunded_amount": self._refunded(name) if paid else None,
            "captured_amount": self._captured(t) if paid else None,
            "wallet_version": line and line[0], "balance_after": line and line[1], "failure": t.code,
            "has_page": t.status == "Processing" and t.bank is not None, "refund_of": t.refund_of,
        }  # fmt: skip
