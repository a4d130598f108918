"""Steps that the model and Postgres both take: how a step is performed, how its answer and the tables are read, and in which
order steps that ran side by side can have taken place."""

import itertools
import secrets
import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Json

from okane_common import ids
from tests.support.books import BATCH, CAPTURE, DEPOSIT, REFUND, TRANSFER, VOID, WITHDRAWAL, Ledger, Party
from tests.support.model import Model
from tests.support.model_state import Answer, Name, Owner, Wallet

PEOPLE = 4  # numbers from here on are nobody's
ROUTES = {
    "pay": TRANSFER, "capture": CAPTURE, "void": VOID, "refund": REFUND, "batch": BATCH, "deposit": DEPOSIT,
    "withdraw": WITHDRAWAL,
}  # fmt: skip
BANKS = ("hdfc", "icici")
CURRENCIES = ("INR", "USD")  # everybody has the first; the second, whoever opens it
LAST_SECONDS = 30  # of a day, in which nothing is begun: the model's days do not end by themselves

_numbers = itertools.count()


class Step(NamedTuple):
    """One call: a method of Model, and what it is given."""

    action: str
    given: Mapping[str, Any]

    @property
    def name(self) -> Name:
        """What its key names."""
        return Name(ROUTES[self.action], self.given["who"], self.given["key"])

    def predict(self, model: Model, **more: Any) -> Answer:
        answer: Answer = getattr(model, self.action)(**self.given, **more)
        return answer


def _currency() -> str:
    """One that no example has had: limits are a currency's."""
    number = next(_numbers)
    return "".join(string.ascii_uppercase[number // 26**place % 26] for place in (2, 1, 0))


# In one statement, since examples are many, and signing up is not what they try.
_PEOPLE = """
    WITH made AS (
        INSERT INTO people (email, name, handle, created_at) SELECT handle || '@example.com', 'Asha', handle, %(now)s
          FROM unnest(%(handles)s::text[]) AS handle RETURNING id, handle
    ), opened AS (
        INSERT INTO wallets (person_id, currency) SELECT id, %(currency)s FROM made
    ), signed_in AS (
        INSERT INTO sessions (id, person_id, device, expires_at)
        SELECT gen_random_uuid(), id, 'test', clock_timestamp() + interval '1 day' FROM made RETURNING id, person_id
    )
    SELECT made.id, signed_in.id, handle FROM made JOIN signed_in ON person_id = made.id ORDER BY handle
"""

_STORED = """
    SELECT json_build_object(
        'wallets', (SELECT json_agg(json_build_array(w.person_id, w.currency, v.available, v.locked, v.version, w.debit_frozen,
                                                     w.credit_frozen, w.receiving))
                      FROM wallets w CROSS JOIN LATERAL (
                            SELECT w.available + coalesce(sum(a.amount), 0) AS available, w.locked,
                                   w.version + count(*) AS version
                              FROM arrivals a WHERE a.wallet_id = w.id) v WHERE w.person_id = ANY (%(people)s)),
        'paid_out', (SELECT json_agg(json_build_array(w.person_id, w.currency,
                                                      d.day - (clock_timestamp() AT TIME ZONE 'UTC')::date, d.amount, d.count))
                       FROM wallets w CROSS JOIN LATERAL (
                            SELECT day, amount, count FROM wallet_days WHERE wallet_id = w.id
                            UNION ALL SELECT w.day, w.day_amount, w.day_count WHERE w.day IS NOT NULL) d
                      WHERE w.person_id = ANY (%(people)s) AND (d.amount, d.count) <> (0, 0)),
        'wrong_earlier', (SELECT count(*) FROM wallets w CROSS JOIN LATERAL (
                                 SELECT coalesce(sum(amount), 0) AS amount, coalesce(sum(count), 0) AS count FROM wallet_days
                                  WHERE wallet_id = w.id AND day BETWEEN w.day - 29 AND w.day - 1) d
                           WHERE w.person_id = ANY (%(people)s) AND w.day IS NOT NULL
                             AND (w.earlier_amount, w.earlier_count) <> (d.amount, d.count)),
        'transfers', (SELECT json_agg(json_build_array(id, status, failure_code, captured_amount))
                        FROM transfers WHERE id = ANY (%(ids)s)),
        'banks', (SELECT coalesce(sum(available + locked), 0) FROM wallets WHERE party = ANY (%(parties)s)),
        'events', (SELECT json_agg(json_build_array(webhook_id, status)) FROM bank_events WHERE bank = ANY (%(banks)s)))
"""

# As if days had passed: everything that these people have is so much older.
_AGE = (
    "SET LOCAL session_replication_role = replica",  # triggers keep terms from being changed
    "UPDATE transfers SET created_at = created_at - make_interval(days => %(days)s),"
    " completed_at = completed_at - make_interval(days => %(days)s),"
    " expires_at = CASE kind WHEN 'transfer' THEN expires_at - make_interval(days => %(days)s) ELSE expires_at END"
    " WHERE id = ANY (%(ids)s)",
    "UPDATE people SET created_at = created_at - make_interval(days => %(days)s) WHERE id = ANY (%(people)s)",
    "UPDATE arrivals SET arrived_at = arrived_at - make_interval(days => %(days)s) WHERE transfer_id = ANY (%(ids)s)",
    "UPDATE wallets SET day = day - %(days)s, updated_at = updated_at - make_interval(days => %(days)s)"
    " WHERE person_id = ANY (%(people)s)",
    # By way of days that are nobody's, since a key may not stand twice even for a moment.
    *(
        f"UPDATE wallet_days SET day = day {shift} WHERE wallet_id IN (SELECT id FROM wallets WHERE person_id = ANY (%(people)s))"
        for shift in ("- 100000 - %(days)s", "+ 100000")
    ),
)


@dataclass
class Example:
    """People, currencies and banks that no other example has, on a database of many. Steps know them by other names."""

    owner: "psycopg.Connection[Any]"
    people: list[Party]
    currencies: dict[str, str]  # those of CURRENCIES, as they are here
    token: str
    names: dict[str, Name] = field(default_factory=dict)  # by id

    @classmethod
    def begin(cls, owner: "psycopg.Connection[Any]", ledger: Ledger) -> "tuple[Example, Model]":
        """New people, with nothing in any wallet. `owner`: in autocommit, its search path okane. Waits for midnight if near."""
        now, token = _now(owner), secrets.token_hex(6)
        ledger.call("sweep_holds", 1000)  # what the example before has left
        currencies = {known: _currency() for known in CURRENCIES}
        handles = [f"person_{token}_{number}" for number in range(PEOPLE)]
        given = {"handles": handles, "currency": currencies[CURRENCIES[0]], "now": now.replace(tzinfo=UTC)}
        people = owner.execute(_PEOPLE.encode(), given).fetchall()
        model = Model(now, wallets={(who, CURRENCIES[0]): Wallet() for who in range(PEOPLE)})
        return cls(owner, [Party(*person) for person in people], currencies, token), model

    # Performing

    def perform(self, ledger: Ledger, step: Step) -> Answer:
        """Take the step on Postgres, over that connection. Returns the answer as the model would give it."""
        given = {name: self._here(name, value) for name, value in step.given.items()}
        answer: Answer = getattr(self, f"_{step.action}")(ledger, **given)
        return self._read(answer)

    def _here(self, name: str, value: Any) -> Any:
        """What is known to the steps by a name of theirs, as it is in these tables."""
        if name == "currency":
            return self.currencies[value]
        return f"{value}_{self.token}" if name in ("bank", "message", "bank_reference") else value

    def _there(self, currency: str) -> str:
        return next(known for known, here in self.currencies.items() if here == currency)

    def id_of(self, name: Name) -> str:
        """The id that a key names."""
        found = str(ids.transfer_id(self.people[name.who].person, name.route, name.key))
        self.names[found] = name
        return found

    def _handle(self, who: int) -> str:
        return self.people[who].handle if who < PEOPLE else "nobody_at_all"

    def _pay(
        self, ledger: Ledger, who: int, key: str, to: int, amount: int, currency: str, note: str | None = None,
        seconds: int | None = None,
    ) -> Answer:  # fmt: skip
        self.id_of(Name(TRANSFER, who, key))
        if seconds is None:
            return ledger.transfer(self.people[who], key, self._handle(to), amount, currency, note)
        return ledger.hold(
            self.people[who], key, self._handle(to), amount, seconds=seconds, currency=currency, note=note
        )

    def _capture(self, ledger: Ledger, who: int, key: str, hold: Name, amount: int | None) -> Answer:
        return ledger.capture(self.people[who], key, self.id_of(hold), amount)

    def _void(self, ledger: Ledger, who: int, key: str, hold: Name) -> Answer:
        return ledger.void(self.people[who], key, self.id_of(hold))

    def _refund(self, ledger: Ledger, who: int, key: str, of: Name, amount: int | None, note: str | None) -> Answer:
        self.id_of(Name(REFUND, who, key))
        return ledger.refund(self.people[who], key, self.id_of(of), amount, note)

    def _batch(
        self, ledger: Ledger, who: int, key: str, items: Sequence[tuple[int, int]], whole: bool, currency: str
    ) -> Answer:
        for number in range(len(items)):
            self.id_of(Name(BATCH, who, f"{key}.{number}"))
        paid = [(self._handle(to), amount) for to, amount in items]
        return ledger.batch(self.people[who], key, paid, whole=whole, currency=currency)

    def _deposit(self, ledger: Ledger, who: int, key: str, amount: int, currency: str, bank: str) -> Answer:
        self.id_of(Name(DEPOSIT, who, key))
        return ledger.intend(self.people[who], key, amount, currency, bank)

    def _withdraw(self, ledger: Ledger, who: int, key: str, amount: int, currency: str, bank: str) -> Answer:
        self.id_of(Name(WITHDRAWAL, who, key))
        return ledger.withdraw(self.people[who], key, amount, currency=currency, bank=bank)

    def _tell(
        self, ledger: Ledger, message: str, kind: str, succeeded: bool, reference: Name, bank: str, bank_reference: str,
        amount: int, currency: str, reason: str = "",
    ) -> Answer:  # fmt: skip
        event = f"{kind}.{'succeeded' if succeeded else 'failed'}"
        body = repr((event, reference, bank_reference, amount, currency, reason)).encode()
        return ledger.event(
            self.id_of(reference), amount, type=event, currency=currency, body=body, reason=reason or None,
            bank=bank, webhook_id=message, bank_reference=bank_reference,
        )  # fmt: skip

    def _look(self, ledger: Ledger, who: int, currency: str) -> Answer:
        return ledger.call("read_wallet", self.people[who].person, self.people[who].session, currency)

    def _open_wallet(self, ledger: Ledger, who: int, currency: str) -> Answer:
        return ledger.call("open_wallet", self.people[who].person, self.people[who].session, currency)

    def _sweep(self, ledger: Ledger) -> Answer:
        return {"outcome": "swept"} | ledger.call("sweep_holds", 1000)

    def _fold(self, ledger: Ledger, most: int) -> Answer:
        ledger.call("fold_arrivals", most)
        return {"outcome": "folded"}

    def _switch(self, ledger: Ledger, who: int, currency: str, **switches: bool | None) -> Answer:
        given = [switches.get(name) for name in ("debit_frozen", "credit_frozen", "receiving")]
        statement = "SELECT switch_wallet(%s, %s, %s, %s, %s)"
        answer = self._operate(statement, [self.people[who].handle, currency, *given])
        if answer["outcome"] != "done":
            return answer
        return {"outcome": "done", "switches": tuple(answer["wallet"].values())[1:]}

    def _set_limits(self, ledger: Ledger, currency: str, caps: Mapping[str, int]) -> Answer:
        statement = "SELECT set_limits(json_populate_record(NULL::limits, %s))"
        self._operate(statement, [Json({"currency": currency, **caps})])
        return {"outcome": "set"}

    def _let_days_pass(self, ledger: Ledger, days: int) -> Answer:
        with self.owner.transaction():
            for statement in _AGE:
                self.owner.execute(statement.encode(), self._ours() | {"days": days})
        return {"outcome": "passed"}

    def _operate(self, statement: str, arguments: Sequence[Any]) -> Answer:
        [(answer,)] = self.owner.execute(statement.encode(), arguments).fetchall()
        found: Answer = answer
        return found

    def _ours(self) -> dict[str, Any]:
        banks = [self._here("bank", bank) for bank in BANKS]
        people = [party.person for party in self.people]
        return {
            "people": people,
            "ids": list(self.names),
            "banks": banks,
            "parties": [f"bank:{bank}" for bank in banks],
        }

    # Reading

    def _read(self, answer: Answer) -> Answer:
        found = {name: value for name, value in answer.items() if name not in ("retry_after", "status")}
        found.setdefault("outcome", answer.get("status"))
        if "transaction" in found:
            found["transaction"] = self._transaction(found["transaction"])
        if "changed" in found:
            found["changed"] = dict(self._wallet(each) for each in found["changed"] or ())
        if "items" in found:
            found["items"] = [
                item | {"transaction": item["transaction"] and self._transaction(item["transaction"])}
                for item in found["items"]
            ]
        if "wallet" in found:
            found["wallet"] = tuple(found["wallet"][name] for name in ("available", "locked", "version"))
        return found

    def _wallet(self, change: Mapping[str, Any]) -> tuple[Owner, tuple[int, int, int] | None]:
        wallet = change["wallet"]
        kept = (wallet["available"], wallet["locked"], wallet["version"]) if change["keep"] else None
        return self._owner(change["person_id"], wallet["currency"]), kept

    def _owner(self, person: str, currency: str) -> Owner:
        return next(who for who, party in enumerate(self.people) if str(party.person) == person), self._there(currency)

    def _transaction(self, seen: Mapping[str, Any]) -> Answer:
        other = seen["counterparty"]
        taken = (
            "kind", "direction", "status", "amount", "note", "refunded_amount", "captured_amount", "wallet_version",
            "balance_after",
        )  # fmt: skip
        return {name: seen[name] for name in taken} | {
            "id": self.names[seen["id"]],
            "currency": self._there(seen["currency"]),
            "counterparty": (
                other["bank"].removesuffix(f"_{self.token}") if "bank" in other
                else next(who for who, party in enumerate(self.people) if party.handle == other["handle"])
            ),
            "failure": seen["failure"] and seen["failure"]["code"],
            "has_page": seen["payment_url"] is not None,
            "refund_of": seen["refund_of"] and self.names[seen["refund_of"]],
        }  # fmt: skip

    def stored(self) -> Answer:
        """What the tables say of these people."""
        [(found,)] = self.owner.execute(_STORED.encode(), self._ours()).fetchall()
        wallets = {self._owner(person, currency): tuple(rest) for person, currency, *rest in found["wallets"]}
        paid_out = found["paid_out"] or ()
        return {
            "wallets": wallets,
            "paid_out": {(self._owner(person, currency), day): tuple(rest) for person, currency, day, *rest in paid_out},
            "wrong_earlier": found["wrong_earlier"],
            "transfers": {self.names[name]: tuple(rest) for name, *rest in found["transfers"] or ()},
            "banks": found["banks"],
            "events": {message.removesuffix(f"_{self.token}"): status for message, status in found["events"] or ()},
        }  # fmt: skip

    def expired(self) -> list[Name]:
        """The holds that have expired, whoever released them."""
        question = (
            "SELECT id::text FROM transfers WHERE id = ANY (%s) AND failure_code = 'expired' ORDER BY completed_at"
        )
        return [self.names[name] for (name,) in self.owner.execute(question, [list(self.names)]).fetchall()]


def expected(model: Model) -> Answer:
    """What the tables must say."""
    people = [sum(wallet[:2]) for wallet in model.wallets.values()]
    return {
        "wallets": {owner: tuple(wallet) for owner, wallet in model.wallets.items()},
        "paid_out": {
            (owner, day - model.today): both for (owner, day), both in model.paid_out.items() if both != (0, 0)
        },
        "wrong_earlier": 0,
        "transfers": {t.name: (t.status, t.code, t.captured) for t in model.transfers.values()},
        "banks": -sum(people),
        "events": {message: event.status for message, event in model.events.items()},
    }


def difference(is_so: Answer, must_be: Answer) -> str:
    """Both, where they differ; empty where they do not."""
    names = [name for name in {**must_be, **is_so} if is_so.get(name) != must_be.get(name)]
    return "\n".join(f"  {name}: {is_so.get(name)}\n    not {must_be.get(name)}" for name in names)


def _now(owner: "psycopg.Connection[Any]") -> datetime:
    """The server's time in UTC, to the millisecond, once the day is not about to end."""
    while True:
        [(now,)] = owner.execute("SELECT date_trunc('milliseconds', clock_timestamp() AT TIME ZONE 'UTC')").fetchall()
        midnight = datetime.combine(now.date() + timedelta(1), datetime.min.time())
        if (left := (midnight - now).total_seconds()) > LAST_SECONDS:
            found: datetime = now
            return found
        time.sleep(left)
