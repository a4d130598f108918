"""The cache warmer: on demand for one person, on the schedule for the recently active, newest first and in batches."""

import importlib.util
import json
import sys
import uuid
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config

from local.gateway import Gateway
from local.template import load
from tests.support.api import Person
from tests.support.bank import Bank, event
from tests.support.cached import (
    PATHS,
    WALLET,
    Stand,
    cached_platform,
    key_of,
    session,
    wallet_key,
)
from tests.support.platform import ROOT, Database, Services
from tests.support.proxies import Loop

FUNCTION = "CacheWarmerFunction"
SCHEDULED = {"version": "0", "detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": {}}
PLENTY, SHORT = 60_000, 7_000  # milliseconds of a Lambda that are left: enough for a batch, and not
PEOPLE = 5
BATCH = 2


@pytest.fixture(scope="module")
def stand(services: Services, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with cached_platform(services, database, tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def people(stand: Stand, database: Database) -> list[Person]:
    """Several, of whom the first was active last."""
    made = [stand.api.sign_up() for _ in range(PEOPLE)]
    with psycopg.connect(database.url) as connection:
        for minutes, person in enumerate(made):
            connection.execute(
                "UPDATE okane.people SET active_at = now() - make_interval(mins => %s) WHERE id = %s",
                (minutes, person.id),
            )
    return made


@pytest.fixture
def cold(stand: Stand, people: list[Person], database: Database) -> None:
    """Redis knows the sessions and nothing else, only these people were active, and no run has stopped half-way."""
    for person in people:
        stand.warm(person, WALLET)
        stand.redis("DEL", *(key_of(person, path) for path in PATHS))
    with psycopg.connect(database.url) as connection:
        ids = [uuid.UUID(person.id) for person in people]
        connection.execute(
            "UPDATE okane.people SET active_at = now() - interval '25 hours' WHERE id <> ALL (%s)", (ids,)
        )
        connection.execute("DELETE FROM okane.marks")


@pytest.fixture(scope="module")
def variables(services: Services, database: Database, stand: Stand) -> dict[str, str]:
    """The environment of the functions, past the counters."""
    return {
        "DATABASE_URL": database.app_url,
        "UPSTASH_REDIS_REST_URL": stand.between.redis_rest_url,
        "UPSTASH_REDIS_REST_TOKEN": stand.between.environment["UPSTASH_REDIS_REST_TOKEN"],
        "OKANE_SECRET": services.secrets.okane_secret,
        "DEFAULT_CURRENCY": "INR",
        "CURRENCIES": "INR",
        "DOCS_URL": "http://127.0.0.1/errors.md",
    }


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
    loop = Loop()
    template = load(ROOT / "template.yaml")
    running = loop.run(
        Gateway.start(template, overrides={"Parameters": variables | others}, schedules=False, reload=False)
    )
    yield loop, running
    loop.run(running.stop())
    loop.stop()


def invoke(gateway: tuple[Loop, Gateway], payload: object) -> Any:
    """What the function returns, by the Lambda API."""
    client = boto3.client(
        "lambda",
        endpoint_url=gateway[1].invoke_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    answer = client.invoke(FunctionName=FUNCTION, Payload=json.dumps(payload))
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


@pytest.fixture(scope="module")
def handler(variables: dict[str, str]) -> Iterator[ModuleType]:
    """The function in this process, in batches of two, with modules of its own."""
    layer = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("okane_common")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("cache_warmer_app", ROOT / "functions/cache_warmer/app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        patch.setattr(module.warmer, "BATCH", BATCH)
        yield module
    for name in [name for name in sys.modules if name.startswith("okane_common")]:
        del sys.modules[name]
    sys.modules.update(layer)


def run(handler: ModuleType, *milliseconds: int) -> dict[str, int]:
    """One run on the schedule, with what is left of its time whenever it asks."""
    left = iter(milliseconds)
    found: dict[str, int] = handler.lambda_handler(
        SCHEDULED, SimpleNamespace(get_remaining_time_in_millis=lambda: next(left))
    )
    return found


def warm_people(stand: Stand, people: list[Person]) -> list[bool]:
    """Of whom everything is in Redis."""
    return [bool(stand.redis("EXISTS", *(key_of(person, path) for path in PATHS)) == len(PATHS)) for person in people]


@pytest.mark.usefixtures("cold")
def test_on_demand(stand: Stand, people: list[Person]) -> None:
    asha, *others = people
    answer = stand.api.call("POST", "/v1/cache/warm", token=asha.token)
    assert answer.status_code == 202, answer.text
    stand.until(lambda: warm_people(stand, [asha]) == [True])
    assert not any(warm_people(stand, others))
    for path in PATHS:
        stand.reads(asha, path, "hit")


def test_on_demand_needs_a_token(stand: Stand) -> None:
    assert stand.api.call("POST", "/v1/cache/warm").status_code == 401


@pytest.mark.usefixtures("cold")
def test_the_schedule_warms_who_was_active_within_a_day(
    stand: Stand, people: list[Person], database: Database, gateway: tuple[Loop, Gateway]
) -> None:
    *active, away = people
    with psycopg.connect(database.url) as connection:
        before = connection.execute("SELECT active_at FROM okane.people WHERE id = %s", (away.id,)).fetchone()
        connection.execute("UPDATE okane.people SET active_at = now() - interval '25 hours' WHERE id = %s", (away.id,))
    loop, running = gateway
    [name] = [one.name for one in load(ROOT / "template.yaml").schedules if one.function == "CacheWarmerFunction"]
    loop.run(fire(running, name))
    assert warm_people(stand, people) == [True] * len(active) + [False]
    for person in active:
        for path in PATHS:
            stand.reads(person, path, "hit")
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE okane.people SET active_at = %s WHERE id = %s", (*(before or ()), away.id))


async def fire(running: Gateway, name: str) -> None:
    running.fire(name)
    await running.settled()


@pytest.mark.usefixtures("cold")
def test_by_the_lambda_api(stand: Stand, people: list[Person], gateway: tuple[Loop, Gateway]) -> None:
    assert invoke(gateway, SCHEDULED)["people"] == PEOPLE
    assert all(warm_people(stand, people))
    assert invoke(gateway, {"person_id": people[0].id}) == {"people": 1}
    assert invoke(gateway, {"person_id": str(uuid.uuid4())}) == {"people": 0}


@pytest.mark.usefixtures("cold")
def test_a_run_that_has_no_time_left_goes_on_where_it_stopped(
    stand: Stand, people: list[Person], handler: ModuleType
) -> None:
    first = run(handler, PLENTY, SHORT)
    assert (first["people"], first["finished"]) == (BATCH, 0)
    assert warm_people(stand, people) == [True, True, False, False, False], "the most recently active come first"
    stand.redis("DEL", *(key_of(person, path) for person in people for path in PATHS))
    second = run(handler, PLENTY, PLENTY, SHORT)
    assert (second["people"], second["finished"]) == (3, 1)
    assert warm_people(stand, people) == [False, False, True, True, True]
    third = run(handler, *[PLENTY] * 9)
    assert (third["people"], third["finished"]) == (PEOPLE, 1), "and then it begins again"
    assert all(warm_people(stand, people))


@pytest.mark.usefixtures("cold")
def test_a_run_without_any_time_does_nothing(stand: Stand, people: list[Person], handler: ModuleType) -> None:
    assert run(handler, SHORT)["people"] == 0
    assert not any(warm_people(stand, people))
    assert run(handler, *[PLENTY] * 9)["people"] == PEOPLE


@pytest.mark.usefixtures("cold")
def test_what_is_newer_in_redis_stays(stand: Stand, people: list[Person], handler: ModuleType) -> None:
    """A run that has read before a payment and writes after it."""
    asha, ravi, *_ = people
    Bank(stand.api).tell(event(stand.api.intend(asha, 1000)["id"], 1000))
    warm = handler.warmer.cache.warm
    with pytest.MonkeyPatch.context() as patch:

        def pay_first(entries: Any) -> bool:
            read = list(entries)
            stand.pay(asha, ravi)
            return bool(warm(read))

        patch.setattr(handler.warmer.cache, "warm", pay_first)
        run(handler, PLENTY, SHORT)
    for person in (asha, ravi):
        stand.reads(person, WALLET, "hit")
        assert stand.redis("GET", wallet_key(person)).startswith(f"{stand.truth(person, WALLET)['version']}.")


def test_a_session_that_ended_while_redis_was_away_is_announced_again(
    stand: Stand, gateway: tuple[Loop, Gateway]
) -> None:
    person = stand.api.sign_up()
    stand.warm(person)
    ended = stand.ledger.call("end_session", uuid.UUID(person.id), session(person), session(person))
    assert ended["outcome"] == "ended"
    invoke(gateway, SCHEDULED)

    def refused_by_redis_alone() -> bool:
        before = stand.between.postgres.round_trips
        answer = stand.api.call("GET", WALLET, token=person.token)
        assert (answer.status_code, answer.json()["code"]) == (401, "session_ended"), answer.text
        return stand.between.postgres.round_trips == before

    stand.until(refused_by_redis_alone)


@pytest.mark.usefixtures("cold")
def test_without_redis_it_stops_and_keeps_its_mark(
    stand: Stand, people: list[Person], handler: ModuleType, gateway: tuple[Loop, Gateway]
) -> None:
    run(handler, PLENTY, SHORT)
    mark = stand.ledger.call("read_mark", "cache_warmer")["value"]
    assert mark["id"] == people[BATCH - 1].id
    stand.valkey.process.kill()
    stand.valkey.process.wait()
    found = invoke(gateway, SCHEDULED)
    assert (found["people"], found["finished"]) == (0, 0)
    assert invoke(gateway, {"person_id": people[0].id}) == {"people": 0}
    assert stand.ledger.call("read_mark", "cache_warmer")["value"] == mark
    assert stand.api.call("POST", "/v1/cache/warm", token=people[0].token).status_code == 202
    stand.restart()
    stand.until(lambda: invoke(gateway, SCHEDULED)["people"] == PEOPLE - BATCH)
    assert warm_people(stand, people) == [False, False, True, True, True]
