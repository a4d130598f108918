"""The bookkeeper: on its schedule it ends holds, folds in arrivals, watches withdrawals and audits."""

import importlib.util
import json
import uuid
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import boto3
import psycopg
import pytest
from botocore.config import Config

from local.gateway import Gateway
from local.template import load
from tests.support.api import Person
from tests.support.audited import layer_with
from tests.support.books import Ledger, Party, check_books
from tests.support.cached import WALLET, Stand, cached_platform, session, wallet_key
from tests.support.owner import Owner
from tests.support.platform import ROOT, Database, Services
from tests.support.proxies import Loop

FUNCTION = "BookkeeperFunction"
PLENTY, SHORT = 60_000, 17_000  # milliseconds of a Lambda that are left: enough for a batch, and not
HOLDS, ARRIVALS, SLICE = 2, 2, 10


@pytest.fixture(scope="module")
def stand(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with cached_platform(services, database, tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def owner(database: Database) -> Iterator[Owner]:
    with Owner(database.url) as connection:
        yield connection


@pytest.fixture(scope="module")
def variables(services: Services, database: Database, stand: Stand) -> dict[str, str]:
    """The environment of the function, past the counters."""
    return {
        "DATABASE_URL": database.app_url,
        "UPSTASH_REDIS_REST_URL": stand.between.redis_rest_url,
        "UPSTASH_REDIS_REST_TOKEN": stand.between.environment["UPSTASH_REDIS_REST_TOKEN"],
        "OKANE_SECRET": services.secrets.okane_secret,
        "DEFAULT_CURRENCY": "INR",
        "CURRENCIES": "INR",
        "DOCS_URL": "http://127.0.0.1/errors.md",
        "POWERTOOLS_SERVICE_NAME": "bookkeeper",
        "POWERTOOLS_METRICS_NAMESPACE": "okane-test",
    }


@pytest.fixture(scope="module")
def handler(variables: dict[str, str]) -> Iterator[ModuleType]:
    """The function in this process, in small batches, with modules of its own."""
    with layer_with(**variables), pytest.MonkeyPatch.context() as patch:
        spec = importlib.util.spec_from_file_location("bookkeeper_app", ROOT / "functions/bookkeeper/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        patch.setattr(module.bookkeeper, "HOLDS", HOLDS)
        patch.setattr(module.bookkeeper, "ARRIVALS", ARRIVALS)
        patch.setattr(module.bookkeeper.audit, "SLICE", SLICE)
        yield module


@pytest.fixture
def people(stand: Stand) -> tuple[Person, Person]:
    """Somebody with money and somebody else, signed in."""
    asha, ravi = stand.api.sign_up("Asha"), stand.api.sign_up("Ravi")
    stand.ledger.fund(party(asha), 1000)
    return asha, ravi


@pytest.fixture(autouse=True)
def sound_books(database: Database) -> Iterator[None]:
    yield
    with psycopg.connect(database.url) as connection:
        connection.execute("DELETE FROM okane.marks")
    assert check_books(database.url) == []


def party(person: Person) -> Party:
    """The same person below HTTP."""
    return Party(uuid.UUID(person.id), session(person), person.handle)


def run(handler: ModuleType, task: str, *milliseconds: int) -> dict[str, int]:
    """One run, with what is left of its time whenever it asks; PLENTY where nothing is said, and none at the end."""
    left = iter(milliseconds or [PLENTY] * 200)
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: next(left, SHORT))
    found: dict[str, int] = handler.lambda_handler({"task": task}, context)
    return found


def metrics(output: str) -> dict[str, float]:
    """The metrics among the lines of a log, all of the service bookkeeper."""
    found = {}
    for line in output.splitlines():
        if line.startswith("{") and "_aws" in (told := json.loads(line)):
            [directive] = told["_aws"]["CloudWatchMetrics"]
            assert (directive["Namespace"], directive["Dimensions"]) == ("okane-test", [["service"]])
            assert told["service"] == "bookkeeper"
            [[metric]] = [[one["Name"] for one in directive["Metrics"]]]
            [found[metric]] = told[metric]
    return found


def expired_holds(stand: Stand, owner: Owner, people: tuple[Person, Person], count: int) -> None:
    """So many holds whose time is over, of one minor unit each."""
    asha, ravi = map(party, people)
    for number in range(count):
        made = stand.ledger.hold(asha, f"key-hold-{number}", ravi.handle, 1)
        owner.expire(made["transaction"]["id"])


def locked(stand: Stand, person: Person) -> int:
    """Minor units that are locked in the wallet."""
    found: int = stand.ledger.wallet(party(person))["locked"]
    return found


def test_holds_that_have_run_out_are_released_and_the_cache_told(
    stand: Stand, owner: Owner, people: tuple[Person, Person], handler: ModuleType
) -> None:
    expired_holds(stand, owner, people, 5)
    alive = stand.ledger.hold(party(people[0]), "key-alive", people[1].handle, 7)["transaction"]
    stand.redis("FLUSHALL")
    found = run(handler, "sweep")
    assert (found["released"], found["folded"]) == (5, 0)
    assert locked(stand, people[0]) == 7
    for person in people:
        kept = stand.redis("GET", wallet_key(person))
        assert kept.startswith(f"{stand.truth(person, WALLET)['version']}."), "as it is after the last of them"
    assert stand.ledger.void(party(people[1]), "key-void", alive["id"])["outcome"] == "made"
    assert run(handler, "sweep")["released"] == 0


def test_a_sweep_stops_when_its_time_is_short(
    stand: Stand, owner: Owner, people: tuple[Person, Person], handler: ModuleType
) -> None:
    expired_holds(stand, owner, people, 5)
    assert run(handler, "sweep", SHORT)["released"] == 0
    assert run(handler, "sweep", PLENTY, SHORT)["released"] == HOLDS
    assert locked(stand, people[0]) == 5 - HOLDS
    assert run(handler, "sweep")["released"] == 5 - HOLDS


def test_arrivals_are_folded_in(stand: Stand, owner: Owner, people: tuple[Person, Person], handler: ModuleType) -> None:
    asha, shop = map(party, people)
    owner.switch(shop.handle, receiving=True)
    for number in range(5):
        assert stand.ledger.transfer(asha, f"key-{number}", shop.handle, 10)["outcome"] == "made"
    [(waiting,)] = owner.rows("SELECT count(*) FROM arrivals")
    assert waiting == 5
    assert run(handler, "sweep", PLENTY, PLENTY, SHORT)["folded"] == ARRIVALS
    assert run(handler, "sweep")["folded"] == 5 - ARRIVALS
    assert owner.rows("SELECT count(*) FROM arrivals") == [(0,)]
    found = stand.ledger.wallet(shop)
    assert (found["available"], found["version"]) == (50, 5)
    assert run(handler, "sweep")["folded"] == 0


def test_withdrawals_without_an_answer_are_counted_and_stay_as_they_are(
    stand: Stand,
    owner: Owner,
    people: tuple[Person, Person],
    handler: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asha = party(people[0])
    silent = stand.ledger.withdraw(asha, "key-silent", 40)["transaction"]["id"]
    owner.pass_days(1)
    young = stand.ledger.withdraw(asha, "key-young", 40)["transaction"]["id"]
    capsys.readouterr()
    assert run(handler, "sweep")["unanswered"] == 1
    assert metrics(capsys.readouterr().out) == {"WithdrawalsUnanswered": 1.0}
    assert locked(stand, people[0]) == 80, "it is never released silently"
    for transfer in (silent, young):
        assert stand.ledger.event(transfer, 40, type="withdrawal.succeeded")["status"] == "processed"
    assert run(handler, "sweep")["unanswered"] == 0
    assert metrics(capsys.readouterr().out) == {"WithdrawalsUnanswered": 0.0}


def rested(owner: Owner) -> None:
    """What is in the books is older than the ten seconds that an audit leaves alone."""
    [(body,)] = owner.rows("SELECT pg_get_functiondef('audit_recent'::regproc)")
    owner.connection.execute(body.replace("interval '10 seconds'", "interval '-1 second'").encode())


def test_audits_say_that_the_books_are_right(
    owner: Owner,
    people: tuple[Person, Person],
    handler: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rested(owner)
    for task, metric in (("audit_recent", "AuditRecentFinished"), ("audit_full", "AuditFullFinished")):
        capsys.readouterr()
        assert run(handler, task) == {"finished": 1, "differences": 0}
        assert metrics(capsys.readouterr().out) == {metric: 1.0, "AuditDifferences": 0.0}
        [(scope, differences, checked)] = owner.rows(
            "SELECT scope, differences, checked FROM audits ORDER BY id DESC LIMIT 1"
        )
        assert (scope, differences, checked["differences"]) == (task.removeprefix("audit_"), [], 0)
        assert checked["transfers"] > 0


@pytest.mark.parametrize("task", ["audit_recent", "audit_full"])
def test_audits_tell_of_a_difference_and_name_the_wallet(
    owner: Owner,
    people: tuple[Person, Person],
    handler: ModuleType,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    task: str,
) -> None:
    rested(owner)
    change = "UPDATE wallets SET version = version + %s WHERE person_id = %s RETURNING id"
    [(wallet,)] = owner.rows(change, 1, people[0].id)
    capsys.readouterr()
    assert run(handler, task) == {"finished": 1, "differences": 1}
    owner.rows(change, -1, people[0].id)
    assert metrics(capsys.readouterr().out)["AuditDifferences"] == 1.0
    [line] = [vars(record) for record in caplog.records if record.message == "the books differ"]
    assert (line["levelname"], line["wallet"], line["owner"]) == ("ERROR", wallet, people[0].id)
    [([kept],)] = owner.rows("SELECT differences FROM audits ORDER BY id DESC LIMIT 1")
    assert (kept["check"], kept["wallet"]) == ("a wallet is not what its entries come to", wallet)


def test_a_full_audit_is_carried_on_by_the_sweeps(
    owner: Owner,
    people: tuple[Person, Person],
    handler: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [(before,)] = owner.rows("SELECT count(*) FROM audits")
    assert "finished" not in run(handler, "sweep"), "a sweep begins none"
    assert run(handler, "audit_full", PLENTY, PLENTY, SHORT) == {"finished": 0, "differences": 0}
    assert "AuditDifferences" not in metrics(capsys.readouterr().out), "nothing is said before the end"
    runs = [run(handler, "sweep", *[PLENTY] * 5) for _ in range(2)]
    assert [one["finished"] for one in runs] == [0, 0]
    assert run(handler, "sweep")["finished"] == 1
    assert metrics(capsys.readouterr().out)["AuditFullFinished"] == 1.0
    assert owner.rows("SELECT count(*) FROM audits") == [(before + 1,)]
    assert "finished" not in run(handler, "sweep")


def test_an_unknown_task_is_an_error(handler: ModuleType) -> None:
    with pytest.raises(ValueError, match="there is no task dance"):
        run(handler, "dance")


# As Lambda runs it.


@pytest.fixture(scope="module")
def gateway(services: Services, stand: Stand, variables: dict[str, str]) -> Iterator[tuple[Loop, Gateway]]:
    """A gateway beside the platform's, for its Invoke API and its schedule."""
    others = {
        "TOKEN_ISSUER": stand.api.endpoints.api,
        "TOKEN_PUBLIC_KEYS": services.secrets.public_keys(),
        "TOKEN_SIGNING_KEYS": services.secrets.signing_keys(),
        "BANK_SECRETS": json.dumps(services.secrets.bank_secrets),
        "MAIL_FROM": "okane@example.com",
    }
    names = {name: value for name, value in variables.items() if not name.startswith("POWERTOOLS")}
    loop = Loop()
    running = loop.run(
        Gateway.start(
            load(ROOT / "template.yaml"), overrides={"Parameters": names | others}, schedules=False, reload=False
        )
    )
    yield loop, running
    loop.run(running.stop())
    loop.stop()


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        ("sweep", {"released": 0, "folded": 0, "forgotten": 0, "unanswered": 0}),
        ("audit_recent", {"finished": 1, "differences": 0}),
        ("audit_full", {"finished": 1, "differences": 0}),
    ],
)
@pytest.mark.usefixtures("people")
def test_every_task_runs_under_lambda(gateway: tuple[Loop, Gateway], task: str, answers: dict[str, int]) -> None:
    client = boto3.client(
        "lambda",
        endpoint_url=gateway[1].invoke_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    answer = client.invoke(FunctionName=FUNCTION, Payload=json.dumps({"task": task}))
    said = answer["Payload"].read()
    assert "FunctionError" not in answer, said
    assert json.loads(said) == answers


def test_the_schedules_name_their_tasks(
    stand: Stand, owner: Owner, people: tuple[Person, Person], gateway: tuple[Loop, Gateway]
) -> None:
    loop, running = gateway
    expired_holds(stand, owner, people, 1)
    [(before,)] = owner.rows("SELECT coalesce(max(id), 0) FROM audits")

    async def fire() -> None:
        for name in ("Sweep", "AuditRecent", "AuditFull"):
            running.fire(f"{FUNCTION}{name}")

    loop.run(fire())

    def all_have_run() -> bool:
        audits = owner.rows("SELECT scope FROM audits WHERE id > %s", before)
        return locked(stand, people[0]) == 0 and {scope for (scope,) in audits} == {"recent", "full"}

    stand.until(all_have_run)


def test_a_sweep_forgets_what_is_long_over_and_nothing_else(
    stand: Stand, owner: Owner, people: tuple[Person, Person], handler: ModuleType
) -> None:
    run(handler, "sweep")
    asha, ravi = map(session, people)
    for hour in (-1, 1):  # on either side of the time
        day, week = f"{24 + hour} hours", f"{168 + hour} hours"
        owner.rows("INSERT INTO budgets VALUES (%s, clock_timestamp() - %s::interval, 1) RETURNING key", day, day)
        owner.rows(
            "INSERT INTO sign_ups (email, name, handles, password_hash, code_hash, expires_at)"
            " VALUES ('x@example.com', 'X', '{x}', 'x', 'x', clock_timestamp() - %s::interval) RETURNING id",
            week,
        )
        owner.rows(
            "INSERT INTO password_resets (email, code_hash, source, expires_at)"
            " VALUES ('x@example.com', 'x', '', clock_timestamp() - %s::interval) RETURNING id",
            day,
        )
        owner.rows("INSERT INTO provider_rounds (state_hash, ended_at)"
                   " VALUES (%s, clock_timestamp() - %s::interval) RETURNING 1", day.encode(), day)  # fmt: skip
    for who, days in ((asha, 89), (ravi, 91)):
        owner.rows("UPDATE sessions SET expires_at = clock_timestamp() - make_interval(days => %s) WHERE id = %s RETURNING id",
                   days, who)  # fmt: skip
    assert run(handler, "sweep")["forgotten"] == 5
    assert run(handler, "sweep")["forgotten"] == 0
    kept = owner.rows("SELECT session_id FROM refresh_tokens WHERE session_id IN (%s, %s)", asha, ravi)
    assert kept == [(asha,)], "the session that is forgotten takes its tokens along"
    for table, column in (
        ("password_resets", "expires_at"),
        ("sign_ups", "expires_at"),
        ("provider_rounds", "ended_at"),
    ):
        assert owner.rows(f"SELECT count(*) FROM {table} WHERE {column} < clock_timestamp()") == [(1,)], table


def test_several_sweeps_at_once_release_every_hold_once(
    stand: Stand, owner: Owner, database: Database, people: tuple[Person, Person]
) -> None:
    expired_holds(stand, owner, people, 6)
    with Ledger(database.app_url) as other:
        with stand.ledger.connection.transaction():
            first = stand.ledger.call("sweep_holds", 3)
            assert other.call("sweep_holds", 100)["released"] == 0, "both wallets are taken: it does not wait"
        assert first["released"] == 3
        assert other.call("sweep_holds", 100)["released"] == 3
