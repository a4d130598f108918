"""`./okane up` as people meet it: started, refused, stopped, killed, started again."""

import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from local.platform import app_url, parser
from local.state import Secrets, StateError, forget, hold, read_secrets
from tests.support.api import Api, Endpoints
from tests.support.platform import (
    ROOT,
    START_SECONDS,
    STOP_SECONDS,
    Database,
    Platform,
    assert_gone,
    descendants,
    said,
    start_platform,
    stop_platform,
    wait_for_endpoints,
    without_services,
)

PORTS = ("--port", "--bank-port", "--mailbox-port", "--provider-port")
FREE = [word for name in PORTS for word in (name, "0")]

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run_up(state: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Run an `up` that is expected to give up by itself; exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "local", "up", "--data", str(state), *options],
        cwd=ROOT,
        env=without_services() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with an embedded Postgres of its own; made by the first test that starts on it."""
    return tmp_path_factory.mktemp("own")


@contextlib.contextmanager
def running(state: Path, *options: str, **environment: str) -> Iterator[tuple["subprocess.Popen[bytes]", Endpoints]]:
    """An `up` that is ready, and killed at the latest when the test ends."""
    process = start_platform(state, *options, **environment)
    try:
        yield process, wait_for_endpoints(state, process)
    finally:
        process.kill()
        process.wait()


def test_it_answers_and_says_where_everything_is(platform: Platform, api: Api) -> None:
    assert api.call("GET", "/v1/health").json() == {"status": "ok"}
    assert httpx.get(platform.endpoints.mailbox).status_code == 200
    assert httpx.get(platform.endpoints.bank).status_code == 200
    assert httpx.get(platform.endpoints.provider).status_code == 200
    with psycopg.connect(platform.endpoints.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM okane.migrations").fetchone()
    answer = httpx.post(
        platform.endpoints.redis_rest_url,
        json=["PING"],
        headers={"Authorization": f"Bearer {platform.endpoints.redis_rest_token}"},
    )
    assert answer.json() == {"result": "PONG"}
    for name in ("endpoints.json", "secrets.json"):
        assert stat.S_IMODE((platform.state / name).stat().st_mode) == 0o600


def test_somebody_signs_up_and_money_comes_in(api: Api) -> None:
    asha = api.sign_up("asha")
    api.deposit(asha, 12_345)
    wallet = api.call("GET", "/v1/wallets/INR", token=asha.token).json()
    assert (wallet["available"], wallet["locked"], wallet["total"]) == (12_345, 0, 12_345)


def test_a_second_up_is_refused_with_the_address_of_the_first(platform: Platform) -> None:
    for option in ((), ("--fresh",)):
        code, text = run_up(platform.state, *FREE, *option)
        assert code == 1
        assert platform.endpoints.api in text
    assert (platform.state / "secrets.json").exists()


@pytest.mark.parametrize("option", PORTS)
def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        free = [word for name in PORTS if name != option for word in (name, "0")]
        code, text = run_up(tmp_path, option, port, *free)
    assert code == 1
    assert f"port {port} cannot be used" in text
    assert f"{option} 0" in text
    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(
    ("environment", "hint"),
    [
        ({"DATABASE_URL": "host=localhost"}, "DATABASE_URL must be a URL"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "the database: "),
        ({"UPSTASH_REDIS_REST_URL": "https://x.example.com"}, "are needed together"),
    ],
)
def test_a_wrong_environment_is_said(
    tmp_path: Path, database: Database, environment: dict[str, str], hint: str
) -> None:
    given = {"DATABASE_URL": database.url} | environment
    code, text = run_up(tmp_path, *FREE, **given)
    assert (code, hint in text) == (1, True), text
    assert "Traceback" not in text


def test_the_built_artefacts_have_to_be_there(tmp_path: Path) -> None:
    if (ROOT / ".aws-sam" / "build" / "template.yaml").exists():
        pytest.skip("they are")
    code, text = run_up(tmp_path, "--built")
    assert (code, "./okane build" in text) == (1, True)


def test_the_demo_people_are_made_once_and_found_again(own: Path) -> None:
    with running(own) as (process, _):
        first = wait_for_text(own, "curl ")
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) == 0, said(own)
    assert "everything is stopped" in said(own)
    assert not (own / "endpoints.json").exists()
    assert [line.split()[0] for line in first.splitlines() if "password" in line and "@example" in line][:2] == [
        "asha@example.com",
        "ravi@example.com",
    ]
    assert "INR 5,000.00" in first
    with running(own) as (process, _):
        second = wait_for_text(own, "curl ")
        assert people(second) == people(first)
        command = next(line for line in second.splitlines() if line.startswith("  curl "))
        pasted = subprocess.run(shlex.split(command.replace("curl ", "curl -s ")), capture_output=True, timeout=30)
        assert json.loads(pasted.stdout)["token_type"] == "Bearer"
        stop_platform(process)


def wait_for_text(state: Path, text: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while text not in said(state):
        assert time.monotonic() < deadline, said(state)
        time.sleep(0.01)
    time.sleep(0.05)  # the rest of the same print
    return said(state)


def people(text: str) -> list[str]:
    return [line for line in text.splitlines() if "@example.com   password" in line]


@ON_LINUX
@pytest.mark.parametrize("after", [0.05, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.2])
def test_ctrl_c_while_it_starts_stops_what_was_started(own: Path, after: float) -> None:
    process = start_platform(own)
    time.sleep(after)
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # an impatient second one
    code = process.wait(STOP_SECONDS)
    assert_gone(family, 2.0)
    # The platform may not have been there yet: then the launcher says so, or Python itself in its own way.
    assert code == 0 or said(own) == "okane: interrupted\n" or "okane" not in said(own), said(own)


@ON_LINUX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_way_to_ask_for_the_end_ends_it(own: Path, number: signal.Signals) -> None:
    with running(own, "--no-people") as (process, endpoints):
        httpx.get(f"{endpoints.api}/v1/health")
        family = descendants(process.pid)
        assert len(family) >= 5  # Postgres, Valkey, the bank, the provider, a worker
        process.send_signal(number)
        assert process.wait(STOP_SECONDS) == 0
        assert_gone(family)


@ON_LINUX
@pytest.mark.parametrize("name", ["Postgres", "Valkey", "the bank", "the OpenID provider"])
def test_a_killed_child_is_named_and_ends_the_rest(own: Path, name: str) -> None:
    with running(own, "--no-people") as (process, _):
        family = descendants(process.pid)
        program = {
            "Postgres": "postgres",
            "Valkey": "valkey-server",
            "the bank": "local.bank",
            "the OpenID provider": "oidc_provider_mock",
        }[name]
        victim = next(pid for pid in family if program in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(victim, signal.SIGKILL)
        assert process.wait(STOP_SECONDS) == 1
        assert f"{name} has ended unexpectedly (SIGKILL)" in said(own)
        assert_gone(family, 5.0)


@ON_LINUX
def test_nothing_outlives_an_up_that_is_killed_outright(own: Path) -> None:
    with running(own, "--no-people") as (process, endpoints):
        httpx.get(f"{endpoints.api}/v1/health")
        family = descendants(process.pid)
        assert len(family) >= 5
        process.kill()
        assert_gone(family, 15.0)
    (own / "endpoints.json").unlink()  # it had no chance to
    with running(own, "--no-people") as (process, _):  # and the next one finds its data in order
        stop_platform(process)


@ON_LINUX
def test_no_secret_is_in_an_argument_or_a_log(own: Path) -> None:
    with running(own) as (process, _):
        wait_for_text(own, "curl ")
        arguments = b" ".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(process.pid)).decode()
        stop_platform(process)
    kept = read_secrets(own)
    hidden = [kept.postgres_password, kept.app_password, kept.redis_token, kept.okane_secret, kept.signing_key["d"]]
    hidden += [secret for several in kept.bank_secrets.values() for secret in several]
    logs = "".join(path.read_text(errors="replace") for path in [*own.rglob("*.log"), *own.rglob("*.log.1")])
    assert "ready to accept connections" in logs  # there is something to read
    for secret in hidden:
        assert secret not in arguments
        assert secret not in logs
    for password in kept.people.values():
        assert password not in "".join(path.read_text(errors="replace") for path in (own / "logs").iterdir())


def test_fresh_forgets_everything_but_its_locks(tmp_path: Path) -> None:
    with hold(tmp_path):
        before = read_secrets(tmp_path)
        (tmp_path / "postgres" / "data").mkdir(parents=True)
        (tmp_path / "install.lock").touch()
        forget(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"up.lock", "install.lock"}
        assert read_secrets(tmp_path).okane_secret != before.okane_secret


def test_secrets_are_kept_and_never_shown(tmp_path: Path) -> None:
    made = read_secrets(tmp_path)
    assert read_secrets(tmp_path) == made
    assert repr(made) == "Secrets()"
    assert set(json.loads(made.public_keys())["keys"][0]) == {"kty", "kid", "use", "alg", "n", "e"}
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(StateError, match="damaged"):
        read_secrets(tmp_path)


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(StateError, match="already running"), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("postgresql://okane:pw@127.0.0.1:5/okane", "postgresql://okane_app:a%2Fb@127.0.0.1:5/okane"),
        ("postgres://h/d?sslmode=require&user=x", "postgres://okane_app:a%2Fb@h/d?sslmode=require"),
        ("postgresql://u:p@[::1]:5/d", "postgresql://okane_app:a%2Fb@[::1]:5/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql://okane_app:a%2Fb@/d?host=%2Frun%2Fpostgresql"),
    ],
)
def test_the_functions_get_the_same_database_under_their_own_role(owner: str, expected: str) -> None:
    assert app_url(owner, "a/b") == expected
    psycopg.conninfo.conninfo_to_dict(expected)


def test_the_launcher_explains_every_option() -> None:
    loader = importlib.machinery.SourceFileLoader("okane_launcher", str(ROOT / "okane"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    launcher = importlib.util.module_from_spec(spec)
    loader.exec_module(launcher)
    explained = launcher.COMMANDS["up"][1]
    for action in parser()._actions:
        if action.option_strings[-1] != "--help":
            assert f"  {action.option_strings[-1]} " in explained


def test_the_secrets_have_no_unexplained_field() -> None:
    assert {entry.name for entry in dataclasses.fields(Secrets) if entry.repr} == set()
