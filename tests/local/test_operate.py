"""An operator's commands against a running platform: what they set is what people meet over HTTP."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.api import Api, Person
from tests.support.platform import ROOT, Database, Platform, without_services

WALLET = "/v1/wallets/INR"


class Operator:
    """Runs `./okane` on the platform."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def run(self, *arguments: str, code: int, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command as the launcher hands it over; its exit code must be `code`."""
        command, *others = arguments
        data = [] if "DATABASE_URL" in environment else ["--data", str(self.platform.state)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "local", command, *data, *others],
            cwd=ROOT,
            env={
                **without_services(),
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers/okane_common")]),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done
        return done

    def say(self, *arguments: str, **environment: str) -> str:
        """What a command that succeeds prints."""
        return self.run(*arguments, code=0, **environment).stdout.strip()


@pytest.fixture(scope="module")
def operator(platform: Platform) -> Operator:
    return Operator(platform)


@pytest.fixture
def people(api: Api) -> tuple[Person, Person]:
    """Somebody with money, and somebody else."""
    asha, ravi = api.sign_up("Asha"), api.sign_up("Ravi")
    api.deposit(asha, 100_000)
    return asha, ravi


@pytest.fixture(autouse=True)
def no_limits(database: Database) -> Iterator[None]:
    yield
    with psycopg.connect(database.url) as connection:
        connection.execute("DELETE FROM okane.limits")


def post(api: Api, path: str, who: Person, **body: Any) -> httpx.Response:
    """A POST with a key of its own."""
    return api.call("POST", path, json=body, token=who.token, key=f"key-{secrets.token_hex(12)}")


def pay(api: Api, payer: Person, payee: Person, amount: int = 100) -> httpx.Response:
    """A transfer, whatever comes of it."""
    return post(api, "/v1/transfers", payer, to=f"@{payee.handle}", amount=amount, currency="INR")


def refused(api: Api, answer: httpx.Response, who: Person, code: str) -> dict[str, Any]:
    """The problem, which names a transaction that was recorded."""
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    kept = api.call("GET", f"/v1/transactions/{problem['transaction_id']}", token=who.token).json()
    assert (kept["status"], kept["failure"]["code"]) == ("Failure", code)
    return problem


@pytest.mark.parametrize(
    ("freeze", "pays", "is_paid", "shown"),
    [("debit", 422, 201, "debit"), ("credit", 201, 422, "credit"), ("both", 422, 422, "both")],
)
def test_a_frozen_wallet_is_refused_until_it_is_thawed(
    api: Api, operator: Operator, people: tuple[Person, Person], freeze: str, pays: int, is_paid: int, shown: str
) -> None:
    asha, ravi = people
    api.deposit(ravi, 1000)
    where = (f"@{asha.handle}", "INR")
    assert operator.say("wallet", *where) == f"@{asha.handle} INR: frozen for none, receiving no"
    frozen = f"@{asha.handle} INR: frozen for {shown}, receiving no"
    assert operator.say("wallet", *where, "--freeze", freeze) == frozen
    out, back = pay(api, asha, ravi), pay(api, ravi, asha)
    assert (out.status_code, back.status_code) == (pays, is_paid)
    for answer, who, status in ((out, asha, pays), (back, ravi, is_paid)):
        if status == 422:
            refused(api, answer, who, "wallet_frozen")
    assert operator.say("wallet", *where, "--receiving", "no") == frozen, "what is not named stays"
    assert "frozen for none" in operator.say("wallet", *where, "--freeze", "none")
    assert pay(api, asha, ravi).status_code == pay(api, ravi, asha).status_code == 201


def test_a_receiving_wallet_shows_at_once_what_it_gets(
    api: Api, operator: Operator, database: Database, people: tuple[Person, Person]
) -> None:
    asha, shop = people
    assert api.call("GET", WALLET, token=shop.token).json()["available"] == 0
    said = operator.say("wallet", shop.handle, "INR", "--receiving", "yes")
    assert said == f"@{shop.handle} INR: frozen for none, receiving yes"
    with psycopg.connect(database.url, autocommit=True) as owner:

        def waiting() -> Any:
            return owner.execute("SELECT count(*) FROM okane.arrivals").fetchone()

        for number in (1, 2, 3):
            assert pay(api, asha, shop).status_code == 201
            assert waiting() > (0,), "it is put down beside the wallet"
            answer = api.call("GET", WALLET, token=shop.token)
            assert (answer.json()["available"], answer.json()["version"]) == (number * 100, number)
        assert pay(api, asha, shop).status_code == 201
        operator.say("wallet", shop.handle, "INR", "--receiving", "no")
        assert waiting() == (0,)
    assert api.call("GET", WALLET, token=shop.token).json()["available"] == 400


def test_limits_are_met_by_whoever_pays(api: Api, operator: Operator, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    assert operator.say("limits") == ""
    assert operator.say("limits", "INR") == "INR: no limits"
    assert (
        operator.say("limits", "INR", "--payment", "500", "--day-amount", "800") == "INR: payment 500, day_amount 800"
    )
    problem = refused(api, pay(api, asha, ravi, 501), asha, "limit_exceeded")
    assert problem["limit"] == {"name": "payment", "used": 0, "cap": 500, "resets_at": None}
    assert pay(api, asha, ravi, 500).status_code == 201
    problem = refused(api, pay(api, asha, ravi, 301), asha, "limit_exceeded")
    resets_at = problem["limit"].pop("resets_at")
    assert problem["limit"] == {"name": "day_amount", "used": 500, "cap": 800}
    assert resets_at.endswith("T00:00:00.000Z")
    assert operator.say("limits", "INR", "--payment", "none") == "INR: day_amount 800", "what is not named stays"
    assert operator.say("limits", "USD", "--day-count", "3") == "USD: day_count 3"
    assert operator.say("limits").splitlines() == ["INR: day_amount 800", "USD: day_count 3"]
    assert operator.say("limits", "INR", "--none") == "INR: no limits"
    assert pay(api, asha, ravi, 5000).status_code == 201


def test_every_limit_can_be_set(operator: Operator) -> None:
    named = ["payment", "day_amount", "day_count", "month_amount", "month_count", "new_recipient", "new_account"]
    given = [part for name in named for part in (f"--{name.replace('_', '-')}", "7")]
    said = operator.say("limits", "INR", *given, "--new-account-days", "30")
    assert said == f"INR: {', '.join(f'{name} 7' for name in named)}, new_account_days 30"


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (["limits", "inr"], "three capital letters"),
        (["limits", "--payment", "5"], "name the currency"),
        (["limits", "INR", "--payment", "-5"], "argument --payment"),
        (["limits", "INR", "--payment", "5.5"], "5.5 is neither a whole number"),
        (["limits", "INR", "--payment", str(2**53)], "neither a whole number up to 9007199254740991 nor none"),
        (["limits", "INR", "--new-account", "5"], "go together"),
        (["limits", "INR", "--new-account", "5", "--new-account-days", "40000"], "36500 at most"),
        (["limits", "INR", "--none", "--payment", "5"], "name no other"),
        (["wallet", "@asha"], "required: currency"),
        (["wallet", "@asha", "INR", "--freeze", "all"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(operator: Operator, arguments: list[str], because: str) -> None:
    done = operator.run(*arguments, code=2)
    assert because in done.stderr
    assert operator.say("limits") == ""


def test_what_is_not_there_is_said(operator: Operator, database: Database, people: tuple[Person, Person]) -> None:
    asha, _ = people
    assert "has no wallet in USD" in operator.run("wallet", asha.handle, "USD", code=1).stderr
    assert "@nobody_at_all has no wallet" in operator.run("wallet", "@nobody_at_all", "INR", code=1).stderr
    for command in (["wallet", asha.handle, "INR"], ["limits"], ["withdrawals"]):
        other = database.url.replace(database.url.rsplit("/", 1)[1], "no_such_database")
        done = operator.run(*command, code=1, DATABASE_URL=other)
        assert done.stderr.startswith("okane: ")
        assert "Traceback" not in done.stderr


def test_the_database_can_be_named(operator: Operator, database: Database, people: tuple[Person, Person]) -> None:
    asha, _ = people
    assert "frozen for none" in operator.say("wallet", asha.handle, "INR", DATABASE_URL=database.url)
    assert operator.say("limits", "INR", DATABASE_URL=database.url) == "INR: no limits"


def test_sessions_are_counted_and_ended(api: Api, operator: Operator, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    login = {"email": asha.email, "password": asha.password}
    second = api.call("POST", "/v1/auth/login", json=login).json()
    assert operator.say("sessions", f"@{asha.handle}") == f"@{asha.handle}: 2 live sessions"
    assert operator.say("sessions", asha.handle, "--end") == f"@{asha.handle}: 2 live sessions, ended now"
    assert api.call("GET", "/v1/wallets", token=asha.token).json()["code"] == "session_ended"
    again = api.call("POST", "/v1/auth/refresh", json={"refresh_token": second["refresh_token"]})
    assert again.json()["code"] == "session_ended"
    assert api.call("GET", "/v1/wallets", token=ravi.token).status_code == 200
    live = operator.say("sessions")
    assert f"{live}, ended now" == operator.say("sessions", "--end")
    assert api.call("GET", "/v1/wallets", token=ravi.token).json()["code"] == "session_ended"
    assert "nobody has the handle" in operator.run("sessions", "@nobody_here", "--end", code=1).stderr


def test_open_withdrawals_are_listed(api: Api, operator: Operator, people: tuple[Person, Person]) -> None:
    asha, _ = people
    opened = [
        post(api, f"{WALLET}/withdrawals", asha, amount=amount, bank="hdfc", account="00123456789").json()
        for amount in (900, 800)
    ]
    lines = operator.say("withdrawals").splitlines()
    assert lines == [
        f"{one['id']}  since {one['created_at']}  hdfc  {one['amount']} INR  @{asha.handle}  account ****6789"
        for one in opened
    ]
    for one in opened:
        api.pay(one["payment_url"])
    assert operator.say("withdrawals") == ""


def test_the_audit_by_hand(api: Api, operator: Operator, database: Database, people: tuple[Person, Person]) -> None:
    asha, ravi = people
    pay(api, asha, ravi)
    for options, scope in ((["--full"], "full"), ([], "full"), (["--recent"], "recent")):
        said = operator.say("audit", *options)
        assert said.startswith(f"{scope} audit of ")
        assert said.endswith(": no differences")
    assert ", 0 transfers" not in operator.say("audit")
    change = "UPDATE okane.wallets SET available = available + %s WHERE person_id = %s RETURNING id"
    with psycopg.connect(database.url) as connection:
        [(wallet,)] = connection.execute(change, [1, ravi.id]).fetchall()
    for done in (operator.run("audit", code=1), operator.run("audit", code=1, DATABASE_URL=database.url)):
        total, own, summary = done.stdout.splitlines()
        assert total == "a currency does not add up to nothing: said 0 INR, found 1"
        named = f"a wallet is not what its entries come to (wallet {wallet}, owner {ravi.id}): said ("
        assert own.startswith(named)
        assert summary.endswith(": 2 differences")
    with psycopg.connect(database.url) as connection:
        connection.execute(change, [-1, ravi.id])
        rows = connection.execute(
            "SELECT scope, json_array_length(differences) FROM okane.audits ORDER BY id"
        ).fetchall()
        marks = connection.execute("SELECT name FROM okane.marks WHERE name LIKE 'audit%'").fetchall()
    assert rows == [("full", 0), ("full", 0), ("recent", 0), ("full", 0), ("full", 2), ("full", 2)]
    assert marks == [], "the audits on the schedule go on as if nothing had been"


def test_an_audit_that_cannot_be_made_is_neither_right_nor_wrong(operator: Operator, database: Database) -> None:
    done = operator.run("audit", code=2, DATABASE_URL=f"{database.url}_gone")
    assert "could not be made" in done.stderr
    assert "Traceback" not in done.stderr
    nowhere = Operator(Platform(operator.platform.endpoints, 0, operator.platform.state / "nowhere"))
    for command, code in (("audit", 2), ("limits", 1), ("withdrawals", 1), ("sessions", 1)):
        said = nowhere.run(command, code=code).stderr
        assert "DATABASE_URL is not set, and no platform is running" in said
