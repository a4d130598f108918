"""What OKANE's money is meant to do, in plain Python: no SQL, no threads, no clock.

Each public method of Model is one call of the database's functions, with people by number, and gives the answer that the
database must give, in the shape that steps.py reads it in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.books import BATCH, CAPTURE, DEPOSIT, REFUND, TRANSFER, VOID, WITHDRAWAL
from tests.support.model_state import BANK, ROOM, Answer, Event, Name, Owner, State, Transfer, Wallet


class Model(State):
    """The whole of the books."""

    # Payments

    def pay(
        self,
        who: int,
        key: str,
        to: int,
        amount: int,
        currency: str,
        note: str | None = None,
        seconds: int | None = None,
    ) -> Answer:
        """A transfer at once, or a hold of so many seconds."""
        name, asked = Name(TRANSFER, who, key), (to, amount, currency, note, seconds)
        if name in self.transfers:
            return self._replay(self.transfers[name], (who, currency), asked)
        if not self._known(to):
            return self._miss(who, 1) or {"outcome": "recipient_not_found"}
        if to == who:
            return {"outcome": "self_transfer"}
        if (who, currency) not in self.wallets or (to, currency) not in self.wallets:
            return {"outcome": "currency_mismatch"}
        return self._pay(Transfer(name, "transfer", (who, currency), (to, currency), amount, asked, self.today, "Success",
                                  seconds=seconds, note=note))  # fmt: skip

    def _pay(self, t: Transfer) -> Answer:
        payer, payee = self.wallets[t.payer], self.wallets[t.payee]
        limit = self._over_limit(t.payer, t.amount, t.payee)
        # What is the payer's own comes first: nobody learns of the payee without the money to pay them.
        if payer.debit_frozen:
            t = t._replace(status="Failure", code="wallet_frozen")
        elif limit is not None:
            t = t._replace(status="Failure", code="limit_exceeded", limit=limit)
        elif payer.available < t.amount:
            t = t._replace(status="Failure", code="insufficient_funds")
        elif payee.credit_frozen:
            t = t._replace(status="Failure", code="wallet_frozen")
        elif not self._arrives(payee, t.amount) and not self._room(payee, t.amount):
            t = t._replace(status="Failure", code="limit_exceeded", limit=ROOM)
        if t.code is not None:
            self._put(t._replace(payer_line=self._write(t.payer, 0, 0)))
            return self._made(t.name, t.payer, [t.payer])
        held = t.seconds is not None
        self._count(t.payer, t.day, t.amount, 1)
        self._put(t._replace(
            status="Processing" if held else "Success",
            payer_line=self._write(t.payer, -t.amount, t.amount if held else 0),
            payee_line=self._write(t.payee, 0 if held else t.amount, 0),
        ))  # fmt: skip
        return self._made(t.name, t.payer, [t.payer, t.payee])

    def capture(self, who: int, key: str, hold: Name, amount: int | None = None) -> Answer:
        """Once, by the recipient, up to what is held; the whole where no amount is given."""
        return self._resolve(Name(CAPTURE, who, key), hold, ("capture", amount))

    def void(self, who: int, key: str, hold: Name) -> Answer:
        return self._resolve(Name(VOID, who, key), hold, ("void", 0))

    def _resolve(self, name: Name, hold: Name, asked: tuple[str, int | None]) -> Answer:
        if name in self.resolved:
            t = self.transfers[self.resolved[name][0]]
            return self._replay(t._replace(asked=self.resolved[name]), t.payee, (hold, asked))
        if (refusal := self._not_theirs(name.who, hold)) is not None:
            return refusal
        t, amount = self.transfers[hold], asked[1]
        payer, payee = self.wallets[t.payer], self.wallets[t.payee]
        if t.status != "Processing":
            return {"outcome": "ended", "changed": self._changed([t.payer, t.payee])}
        if self._expired(t):
            self._end(t, 0, "expired")
            return {"outcome": "expired", "changed": self._changed([t.payer, t.payee])}
        amount = t.amount if amount is None else amount
        if amount > t.amount:
            return {"outcome": "capture_exceeds_hold", "held": t.amount}
        if asked[0] == "capture" and (payer.debit_frozen or payee.credit_frozen):
            return {"outcome": "wallet_frozen"}
        if not self._room(payee, amount):
            return {"outcome": "limit_exceeded", "limit": ROOM}
        self._end(t, amount, None if asked[0] == "capture" else "voided")
        self.resolved[name] = (hold, asked)
        made = self._made(hold, t.payee, [t.payer, t.payee])
        del made["limit"]
        return made

    def sweep(self, releasing: Sequence[Name] | None = None) -> Answer:
        """Releases the holds whose time is over: all of them, or those, where others were being touched."""
        over = [t.name for t in self.transfers.values() if t.status == "Processing" and self._expired(t)]
        over.sort(key=lambda name: self.transfers[name].day * 86_400 + (self.transfers[name].seconds or 0))
        if releasing is not None and not set(releasing) <= set(over):
            return {"outcome": "one of these is not to be released"}
        ending = over if releasing is None else [name for name in over if name in releasing]
        for name in ending:
            self._end(self.transfers[name], 0, "expired")
        touched = [owner for name in ending for owner in (self.transfers[name].payer, self.transfers[name].payee)]
        return {"outcome": "swept", "released": len(ending), "changed": self._changed(touched)}

    def _end(self, t: Transfer, captured: int, code: str | None) -> None:
        self._count(t.payer, t.day, captured - t.amount, 0 if captured else -1)
        self._put(t._replace(
            status="Success" if captured else "Failure", code=code, captured=captured or None,
            payer_line=self._write(t.payer, t.amount - captured, -t.amount),
            payee_line=self._write(t.payee, captured, 0),
        ))  # fmt: skip

    def refund(self, who: int, key: str, of: Name, amount: int | None = None, note: str | None = None) -> Answer:
        """By the recipient of a success, from what is available; all that is left where no amount is given."""
        name, asked = Name(REFUND, who, key), (of, amount, note)
        if name in self.transfers:
            return self._replay(self.transfers[name], self.transfers[name].payer, asked)
        if (refusal := self._not_theirs(who, of)) is not None:
            return refusal
        o = self.transfers[of]
        if o.status != "Success":
            return {"outcome": "ended", "changed": {}}
        left = self._captured(o) - self._refunded(of)
        amount = left if amount is None else amount
        if amount > left or left == 0:
            return {"outcome": "refund_exceeds_original", "left": left, "captured": self._captured(o)}
        giver, taker = self.wallets[o.payee], self.wallets[o.payer]
        t = Transfer(name, "refund", o.payee, o.payer, amount, asked, self.today, "Success", note=note, refund_of=of)
        if giver.debit_frozen or taker.credit_frozen:
            t = t._replace(status="Failure", code="wallet_frozen")
        elif giver.available < amount:
            t = t._replace(status="Failure", code="insufficient_funds")
        elif not self._room(taker, amount):
            t = t._replace(status="Failure", code="limit_exceeded", limit=ROOM)
        moved = 0 if t.code else amount
        t = t._replace(payer_line=self._write(o.payee, -moved, 0))
        self._put(t if t.code else t._replace(payee_line=self._write(o.payer, moved, 0)))
        return self._made(name, o.payee, [o.payer, o.payee])

    def batch(self, who: int, key: str, items: Sequence[tuple[int, int]], whole: bool, currency: str) -> Answer:
        """(person, amount)s one after another; whole: all or none."""
        name, asked, payer = Name(BATCH, who, key), (whole, tuple(items)), (who, currency)
        if name in self.batches:
            if self.batches[name][0] != asked:
                return {"outcome": "idempotency_key_reused"}
            return self._batch("replayed", name, payer)
        if payer not in self.wallets:
            return {"outcome": "currency_mismatch"}
        if (missed := sum(not self._known(to) for to, _ in items)) and (refusal := self._miss(who, missed)):
            return refusal
        before, outcomes = self.copy(), list[Answer]()
        for number, (to, amount) in enumerate(items):
            item = Name(BATCH, who, f"{key}.{number}")
            if not self._known(to) or to == who or (to, currency) not in self.wallets:
                here = "self_transfer" if to == who else "currency_mismatch"
                code = here if self._known(to) else "recipient_not_found"
                outcomes.append({"name": None, "code": code, "limit": None})
            else:
                self._pay(Transfer(item, "transfer", payer, (to, currency), amount, (), self.today))
                t = self.transfers[item]
                outcomes.append({"name": item, "code": t.code, "limit": t.limit})
            if whole and outcomes[-1]["code"] is not None:
                self.__dict__.update(before.__dict__)
                outcomes = [outcome | {"name": None} for outcome in outcomes]
                outcomes += [{"name": None, "code": None, "limit": None}] * (len(items) - len(outcomes))
                break
        self.batches[name] = (asked, whole and any(outcome["code"] for outcome in outcomes), outcomes)
        return self._batch("made", name, payer)

    def _batch(self, outcome: str, name: Name, payer: Owner) -> Answer:
        _, refused, outcomes = self.batches[name]
        items = [
            {"code": one["code"], "limit": one["limit"], "transaction": one["name"] and self._seen(one["name"], payer)}
            for one in outcomes
        ]
        paid = [self.transfers[one["name"]].payee for one in outcomes if one["name"]]
        return {"outcome": outcome, "refused": refused, "items": items, "changed": self._changed([payer, *paid])}

    # Banks

    def deposit(self, who: int, key: str, amount: int, currency: str, bank: str) -> Answer:
        """Opens it; what the bank has said of it already happens at once."""
        name, asked, payee = Name(DEPOSIT, who, key), (amount, currency, bank), (who, currency)
        if name in self.transfers:
            return self._replay(self.transfers[name], payee, asked)
        if payee not in self.wallets:
            return {"outcome": "not_found"}
        if self.wallets[payee].credit_frozen:
            return {"outcome": "wallet_frozen"}
        t = Transfer(name, "deposit", (BANK, currency), payee, amount, asked, self.today, bank=bank)
        self._put(t._replace(payee_line=self._write(payee, 0, 0)))
        self._hear_early(name)
        made = self._made(name, payee, [payee])
        del made["limit"]
        return made

    def withdraw(self, who: int, key: str, amount: int, currency: str, bank: str) -> Answer:
        """Locks the amount until the bank has answered."""
        name, asked, payer = Name(WITHDRAWAL, who, key), (amount, currency, bank), (who, currency)
        if name in self.transfers:
            return self._replay(self.transfers[name], payer, asked)
        if payer not in self.wallets:
            return {"outcome": "not_found"}
        t = Transfer(name, "withdrawal", payer, (BANK, currency), amount, asked, self.today, bank=bank)
        limit = self._over_limit(payer, amount, None)
        if self.wallets[payer].debit_frozen:
            t = t._replace(status="Failure", code="wallet_frozen")
        elif limit is not None:
            t = t._replace(status="Failure", code="limit_exceeded", limit=limit)
        elif self.wallets[payer].available < amount:
            t = t._replace(status="Failure", code="insufficient_funds")
        else:
            self._count(payer, self.today, amount, 1)
        moved = 0 if t.code else amount
        self._put(t._replace(payer_line=self._write(payer, -moved, moved)))
        self._hear_early(name)
        return self._made(name, payer, [payer])

    def tell(
        self, message: str, kind: str, succeeded: bool, reference: Name, bank: str, bank_reference: str, amount: int,
        currency: str, reason: str = "",
    ) -> Answer:  # fmt: skip
        """A bank's event."""
        body = (kind, succeeded, reference, bank_reference, amount, currency, reason)
        e = Event(body, kind, succeeded, reference, bank, bank_reference, amount, currency)
        if message in self.events:
            known = self.events[message]
            if known.body != body:
                return {"outcome": "conflict"}
            return {"outcome": "duplicate", "recorded": "duplicate", "changed": self._told(known.reference)}
        same_movement = [o for o in self.events.values() if o.bank_reference == bank_reference and o.bank == bank
                         and (o.succeeded or not succeeded)]  # fmt: skip
        if not same_movement:
            self._apply(message, e)
            status = recorded = self.events[message].status
        else:
            o, status = same_movement[0], "duplicate"
            alike = (o.reference, o.amount, o.currency) == (e.reference, e.amount, e.currency)
            recorded = "duplicate" if alike else "quarantined"
            self.events[message] = e._replace(status=recorded)
        return {"outcome": status, "recorded": recorded, "changed": self._told(reference)}

    def _told(self, reference: Name) -> dict[Owner, Any]:
        t = self.transfers.get(reference)
        return self._changed([t.payer, t.payee] if t and t.kind in ("deposit", "withdrawal") else [])

    def _hear_early(self, name: Name) -> None:
        for message, e in list(self.events.items()):
            if e.reference == name and e.status == "parked":
                self._apply(message, e)

    def _apply(self, message: str, e: Event) -> None:
        t = self.transfers.get(e.reference)
        if t is None:
            status = "parked"
        elif (t.kind, t.bank) != (e.kind, e.bank):
            status = "quarantined"
        elif t.status != "Processing" and not e.succeeded:
            status = "duplicate"
        elif (t.amount, t.payer[1]) != (e.amount, e.currency) or t.status != "Processing":
            status = "quarantined"
        else:
            status = "processed" if self._settle(t, e.succeeded) else "quarantined"
        self.events[message] = e._replace(status=status)

    def _settle(self, t: Transfer, succeeded: bool) -> bool:
        t = t._replace(status="Success" if succeeded else "Failure", code=None if succeeded else "declined")
        if t.kind == "deposit":
            payee = self.wallets[t.payee]
            if succeeded and (payee.credit_frozen or not self._room(payee, t.amount)):
                return False
            self._put(t._replace(payee_line=self._write(t.payee, t.amount if succeeded else 0, 0)))
        else:
            if not succeeded:
                self._count(t.payer, t.day, -t.amount, -1)
            self._put(t._replace(payer_line=self._write(t.payer, 0 if succeeded else t.amount, -t.amount)))
        return True

    # Whoever looks, and whoever operates

    def look(self, who: int, currency: str) -> Answer:
        if (who, currency) not in self.wallets:
            return {"outcome": "not_found"}
        wallet = self.wallets[who, currency]
        return {"outcome": "found", "wallet": wallet[:3], "keep": not wallet.receiving}

    def open_wallet(self, who: int, currency: str) -> Answer:
        outcome = "found" if (who, currency) in self.wallets else "made"
        return {"outcome": outcome, "wallet": self.wallets.setdefault((who, currency), Wallet())[:3]}

    def switch(self, who: int, currency: str, **switches: bool | None) -> Answer:
        """debit_frozen, credit_frozen, receiving; None leaves as it is."""
        if (who, currency) not in self.wallets:
            return {"outcome": "not_found"}
        given: dict[str, Any] = {name: value for name, value in switches.items() if value is not None}
        wallet = self.wallets[who, currency] = self.wallets[who, currency]._replace(**given)
        return {"outcome": "done", "switches": wallet[3:]}

    def set_limits(self, currency: str, caps: Mapping[str, int]) -> Answer:
        self.limits[currency] = caps
        return {"outcome": "set"}

    def fold(self, most: int) -> Answer:
        """Housekeeping: nobody sees a difference."""
        return {"outcome": "folded"}

    def let_days_pass(self, days: int) -> Answer:
        self.today += days
        return {"outcome": "passed"}
