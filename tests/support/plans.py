"""Random plans: what people, banks and operators may do, as hypothesis draws it, and what must agree afterwards.

Books takes every step on Postgres and in the model, and compares at once. BooksTogether only collects the steps, and lets
several threads take them at the end.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.support.books import BATCH, FULL, Ledger, check_books
from tests.support.model_state import Name
from tests.support.steps import CURRENCIES, PEOPLE, Example, Step, difference, expected
from tests.support.together import Search, take

ATTEMPTS = 5  # at a case that threads have failed: it must fail again to be made smaller
people = st.integers(0, PEOPLE - 1)
# How far the recipient sits from the payer: themselves and nobody at all are rare.
away = st.sampled_from([1, 2, 3] * 6 + [0, PEOPLE])
second = st.sampled_from([False] * 9 + [True])  # of the two currencies
LARGE = (200, 10**12, 10**12 + 1, 2**52, FULL - 500, FULL)
amounts = st.integers(1, 70).map(lambda number: number if number <= 64 else LARGE[number - 65])
parts = st.none() | st.integers(1, 30)
who = st.sampled_from([None] * 8 + list(range(PEOPLE)))  # none: whose it is
succeeded = st.sampled_from([True, True, False])
limits = st.fixed_dictionaries({}, optional={
    "payment": st.integers(20, 200), "day_amount": st.integers(30, 200), "day_count": st.integers(1, 4),
    "month_amount": st.integers(50, 300), "month_count": st.integers(2, 6), "new_recipient": st.integers(10, 40),
}) | st.fixed_dictionaries({"new_account": st.integers(20, 100), "new_account_days": st.integers(0, 3)})  # fmt: skip
# What operators, the schedule and the calendar do, and those who only look.
meanwhile: st.SearchStrategy[tuple[str, dict[str, Any]]] = (
    st.tuples(st.just("switch"), st.fixed_dictionaries({"who": people, "debit_frozen": st.booleans()}))
    | st.tuples(st.just("switch"), st.fixed_dictionaries({"who": people, "credit_frozen": st.booleans()}))
    | st.tuples(
        st.just("switch"), st.fixed_dictionaries({"who": people, "receiving": st.sampled_from([True, True, False])})
    )
    | st.tuples(st.just("set_limits"), st.fixed_dictionaries({"caps": limits}))
    | st.tuples(st.just("let_days_pass"), st.fixed_dictionaries({"days": st.sampled_from([1, 2, 29, 30])}))
    | st.tuples(st.just("sweep"), st.just({}))
    | st.tuples(st.just("fold"), st.fixed_dictionaries({"most": st.integers(1, 3)}))
    | st.tuples(st.just("look"), st.fixed_dictionaries({"who": people}))
    | st.tuples(st.just("open_wallet"), st.fixed_dictionaries({"who": people}))
)


@dataclass(frozen=True)
class Stand:
    """Connections to one database."""

    owner: "psycopg.Connection[Any]"
    ledgers: Sequence[Ledger]  # one for each thread


@contextmanager
def stand(
    database_url: str, app_url: str, threads: int = 4, *, prepare: bool = True, sound: bool = True
) -> Iterator[Stand]:
    """The database's owner, and the application several times.

    sound: afterwards the books must add up, and nobody may have been in a deadlock.
    prepare: False where statements cannot be prepared, since each may go to another connection.
    """
    with ExitStack() as stack:
        owner = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        owner.execute("SET search_path = okane")
        ledgers = [stack.enter_context(Ledger(app_url)) for _ in range(threads)]
        for ledger in ledgers:
            ledger.connection.prepare_threshold = 5 if prepare else None
        yield Stand(owner, ledgers)
    if sound:
        assert check_books(database_url) == []
        with psycopg.connect(database_url) as connection:
            counted = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            assert counted.fetchone() == (0,)


class Books(RuleBasedStateMachine):
    """Steps, taken one after another."""

    stand: Stand
    taken: Sequence[Step] = ()  # in the latest example; the smallest one, when a test has failed

    payments = Bundle("payments")
    holds = Bundle("holds")
    batches = Bundle("batches")
    others = Bundle("others")  # other steps that have a key
    intents = Bundle("intents")  # deposits and withdrawals
    early = Bundle("early")  # those that only the bank has heard of
    events = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.funded = False
        self._numbers = itertools.count()
        self.example, self.model = Example.begin(self.stand.owner, self.stand.ledgers[0])

    def take(self, action: str, **given: Any) -> Step:
        step = Step(action, given)
        if self.funded:
            self.steps.append(step)
        self.take_now(step)
        return step

    def take_now(self, step: Step) -> None:
        """One step on both; they must agree on the answer and on all that is left behind."""
        predicted = step.predict(self.model)
        answered = self.example.perform(self.stand.ledgers[0], step)
        assert not (differs := difference(answered, predicted)), f"{step} was answered otherwise:\n{differs}"
        if self.funded:
            differs = difference(self.example.stored(), expected(self.model))
            assert not differs, f"{step} left behind:\n{differs}"

    def teardown(self) -> None:
        type(self).taken = self.steps

    def keyed(self, action: str, **given: Any) -> Step:
        return self.take(action, key=self.fresh("key"), **given)

    def fresh(self, what: str) -> str:
        return f"{what}-{next(self._numbers):05}"

    @initialize(funds=st.lists(st.sampled_from([1000, 1000, 1000, 40]), min_size=PEOPLE, max_size=PEOPLE))
    def fund(self, funds: list[int]) -> None:
        for who, amount in enumerate(funds):
            if amount:
                self.tell(self.deposit(who, amount, False), True, "")
        self.funded = True

    @rule(target=payments, who=people, away=away, amount=amounts, second=second, note=st.sampled_from([None, "rent"]))
    def pay(self, who: int, away: int, amount: int, second: bool, note: str | None) -> Step:
        return self.keyed(
            "pay", who=who, to=to(who, away), amount=amount, currency=CURRENCIES[second], note=note, seconds=None
        )

    @rule(target=holds, who=people, away=away, amount=amounts, seconds=st.sampled_from([3600, 86_400 * 2, 0]))
    def hold(self, who: int, away: int, amount: int, seconds: int) -> Step:
        """For no second at all: its time is over at once."""
        return self.keyed(
            "pay", who=who, to=to(who, away), amount=amount, currency=CURRENCIES[0], note=None, seconds=seconds
        )

    @rule(target=others, hold=holds | holds | payments, who=who, amount=parts)
    def capture(self, hold: Step, who: int | None, amount: int | None) -> Step:
        """By its recipient, or by whoever else."""
        return self.keyed("capture", who=recipient(hold, who), hold=hold.name, amount=amount)

    @rule(target=others, hold=holds, who=who)
    def void(self, hold: Step, who: int | None) -> Step:
        return self.keyed("void", who=recipient(hold, who), hold=hold.name)

    @rule(target=others, of=payments | payments | holds | holds | intents, who=who, amount=parts)
    def refund(self, of: Step, who: int | None, amount: int | None) -> Step:
        return self.keyed("refund", who=recipient(of, who), of=of.name, amount=amount, note=None)

    @rule(target=batches, who=people, items=st.lists(st.tuples(away, amounts), min_size=1, max_size=4), whole=st.booleans(),
          second=second)  # fmt: skip
    def batch(self, who: int, items: list[tuple[int, int]], whole: bool, second: bool) -> Step:
        paid = tuple((to(who, away), amount) for away, amount in items)
        return self.keyed("batch", who=who, items=paid, whole=whole, currency=CURRENCIES[second])

    @rule(target=others, batch=batches, number=st.integers(0, 3), amount=parts)
    def refund_item(self, batch: Step, number: int, amount: int | None) -> Step:
        items = batch.given["items"]
        number %= len(items)
        of = Name(BATCH, batch.given["who"], f"{batch.given['key']}.{number}")
        return self.keyed("refund", who=items[number][0] % PEOPLE, of=of, amount=amount, note=None)

    @rule(target=intents, who=people, amount=amounts, second=second)
    def deposit(self, who: int, amount: int, second: bool) -> Step:
        return self.keyed("deposit", who=who, amount=amount, currency=CURRENCIES[second], bank="hdfc")

    @rule(target=intents, who=people, amount=amounts, second=second)
    def withdraw(self, who: int, amount: int, second: bool) -> Step:
        return self.keyed("withdraw", who=who, amount=amount, currency=CURRENCIES[second], bank="hdfc")

    @rule(
        target=events,
        intent=intents,
        succeeded=succeeded,
        mistake=st.sampled_from([""] * 6 + ["kind", "bank", "amount"]),
    )
    def tell(self, intent: Step, succeeded: bool, mistake: str) -> Step:
        """What the bank says of a deposit or a withdrawal; its second words and its mistakes included."""
        mistakes = {
            "kind": {"kind": "refund"},
            "bank": {"bank": "icici"},
            "amount": {"amount": intent.given["amount"] + 1},
        }
        return self.take("tell", **{**self.words(intent, succeeded), **mistakes.get(mistake, {})})

    def words(self, intent: Step, succeeded: bool) -> dict[str, Any]:
        """A fresh event about it."""
        given = intent.given
        return {
            "message": self.fresh("msg"), "kind": "deposit" if intent.action == "deposit" else "withdrawal",
            "succeeded": succeeded, "reference": intent.name, "bank": "hdfc", "bank_reference": self.fresh("ref"),
            "amount": given["amount"], "currency": given["currency"], "reason": "",
        }  # fmt: skip

    @rule(target=events, told=events, succeeded=succeeded, how=st.sampled_from(["again", "with a new id", "otherwise"]))
    def tell_again(self, told: Step, succeeded: bool, how: str) -> Step:
        """The same movement at the bank; under a new id it may have come to another end."""
        changes: dict[str, dict[str, Any]] = {
            "again": {},
            "with a new id": {"message": self.fresh("msg"), "succeeded": succeeded},
            "otherwise": {"reason": "otherwise"},
        }
        return self.take("tell", **{**told.given, **changes[how]})

    @rule(target=events, told=events, intent=intents, succeeded=succeeded)
    def tell_of_another(self, told: Step, intent: Step, succeeded: bool) -> Step:
        """The same movement at the bank, said to be for something else."""
        said = self.words(intent, succeeded) | {"bank_reference": told.given["bank_reference"]}
        return self.take("tell", **said)

    @rule(target=early, action=st.sampled_from(["deposit", "withdraw"]), who=people, amount=amounts,
          ends=st.lists(succeeded, min_size=1, max_size=2))  # fmt: skip
    def tell_early(self, action: str, who: int, amount: int, ends: list[bool]) -> Step:
        """The bank speaks before the deposit or withdrawal is there."""
        given = {
            "key": self.fresh("key"),
            "who": who,
            "amount": amount,
            "currency": CURRENCIES[0],
            "bank": "hdfc",
        }
        for succeeded in ends:
            self.tell(Step(action, given), succeeded, "")
        return Step(action, given)

    @rule(target=intents, step=consumes(early))
    def catch_up(self, step: Step) -> Step:
        return self.take(step.action, **step.given)

    @rule(step=payments | holds | batches | others | intents)
    def repeat(self, step: Step) -> None:
        """The same key, the same request."""
        self.take(step.action, **step.given)

    @rule(step=payments | holds | batches | others | intents, amount=st.integers(1, 50), note=st.booleans())
    def reuse(self, step: Step, amount: int, note: bool) -> None:
        """The same key; another request, or by chance the same."""
        changed: dict[str, Any] = {"amount": amount} if "amount" in step.given else {}
        if step.action == "batch":
            changed = {"whole": not step.given["whole"]}
        if note and "note" in step.given:
            changed = {"note": "other"}
        self.take(step.action, **{**step.given, **changed})

    @rule(what=meanwhile, second=second)
    def meanwhile(self, what: tuple[str, dict[str, Any]], second: bool) -> None:
        action, given = what
        if action in ("switch", "set_limits", "look", "open_wallet"):
            given = given | {"currency": CURRENCIES[action == "open_wallet" or (second and action == "look")]}
        self.take(action, **given)


class BooksTogether(Books):
    """Steps, taken by several threads at once. What an operator does to limits, days and receiving wallets comes before."""

    attempts = 1

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Step] = []

    def take(self, action: str, **given: Any) -> Step:
        step = Step(action, given)
        first = not self.funded or action in ("set_limits", "let_days_pass") or "receiving" in given
        (self.before if first else self.steps).append(step)
        return step

    def teardown(self) -> None:
        super().teardown()
        # Whether a receiving wallet is frozen is read without its lock: that, too, is settled before.
        receiving = {step.given["who"] for step in self.before if step.given.get("receiving")}
        frozen = [step for step in self.steps if step.action == "switch" and step.given["who"] in receiving]
        plan = [step for step in self.steps if step not in frozen and not owns(step, receiving)]
        for attempt in range(self.attempts):
            if attempt:
                self.example, self.model = Example.begin(self.stand.owner, self.stand.ledgers[0])
            for step in [*self.before, *frozen]:
                self.take_now(step)
            search = Search(self.example, take(self.example, self.stand.ledgers, plan))
            if not search.explain(self.model):
                type(self).attempts = ATTEMPTS
                raise AssertionError(search.why)


def owns(step: Step, receiving: set[int]) -> bool:
    """Whether the owner of a receiving wallet uses it: what arrives meanwhile is seen by others at once, and not by what they
    have under way (docs/decisions.md, Arrivals), so no order explains both; test_money_races.py has the two side by side.
    """
    return step.given.get("who") in receiving and step.action not in ("look", "switch", "open_wallet")


def to(who: int, away: int) -> int:
    """Whose number that is, seen from the payer; one too high is nobody's."""
    return PEOPLE if away == PEOPLE else (who + away) % PEOPLE


def recipient(step: Step, who: int | None) -> int:
    """Somebody, or whoever was to get it."""
    found: int = step.given.get("to", step.given["who"]) % PEOPLE if who is None else who
    return found


def agree(machine: type[Books], stand: Stand, examples: int, steps: int = 40, **more: Any) -> None:
    """Try so many examples of so many steps. `machine` knows afterwards what was taken last. more: settings."""
    machine.stand = stand
    usual = {"phases": [Phase.generate, Phase.shrink], "suppress_health_check": list(HealthCheck), "database": None}
    how = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, report_multiple_bugs=False, **usual | more
    )
    run_state_machine_as_test(machine, settings=how)
