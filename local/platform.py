"""`./okane up`: starts every part in order, says where it is, and stops all of it again.

    secrets, Postgres, migrations, Valkey -> REST front, mailbox, bank, gateway -> endpoints.json -> demo people

Postgres, Valkey, the bank and the workers are processes; front, mailbox and gateway live in this one. Every child
ends when we do, however that happens (see child.py, bank.py and workers.py), so nothing is ever left running.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg

from database.migrate import APP_ROLE, MigrationError, migrate, set_app_password
from local import mailbox, state
from local.bank_process import BankError, BankProcess
from local.child import new_log, take_port
from local.demo_people import PeopleError, Person, make_ready
from local.gateway import Gateway
from local.http import serve, stop, url
from local.postgres import Postgres, PostgresError
from local.provider import CLIENT_ID, CLIENT_SECRET, Provider, ProviderError
from local.redis_front import serve_front
from local.state import BANKS, Endpoints, Secrets, StateError
from local.template import TemplateError, load
from local.valkey import Valkey, ValkeyError

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
WATCH_SECONDS = 0.1  # between two looks at the children
MAIL_FROM = "okane@example.com"
FRONT_ENDS = "http://localhost:5173/signed-in,http://127.0.0.1:5173/signed-in"


class UpError(Exception):
    """The platform cannot start or go on; the message is for whoever runs it."""


class StoppedError(KeyboardInterrupt):
    """Somebody asked for the end; derived so that no `except Exception` on the way holds it up."""


class Ending:
    """Ctrl-C, SIGTERM and SIGHUP: the first one ends the platform, the others find it ending already."""

    def __init__(self) -> None:
        self.asked = False
        self._task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Take the signals over, for good: a second Ctrl-C must not cut the stopping short."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def begins(self) -> None:
        """The platform is stopping, for whatever reason: nothing is to interrupt that any more."""
        self.asked = True

    def cancels(self, task: "asyncio.Task[None]") -> None:
        """From now on the end comes by cancelling this task."""
        self._task = task
        if self.asked:  # the exception got lost: Python drops one that arrives within a finaliser
            raise StoppedError

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True  # at once: the next signal may arrive within this one
        with contextlib.suppress(OSError):
            # Not with print: the one that this interrupts may hold the stream.
            os.write(2, b"okane: stopping\n" if first else b"okane: already stopping\n")
        if not first:
            return
        if self._task is None:
            raise StoppedError
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)


@dataclass(frozen=True)
class Servers:
    """What the functions talk to, before the functions are there."""

    database_url: str  # the owner's
    redis_url: str  # empty if the REST server is somebody else's
    provider: Provider | None  # None if a real one is used
    bank: BankProcess
    watched: dict[str, Callable[[], int | None]]  # our children by name; gives the exit code once one has ended


def main(arguments: list[str]) -> int:
    """The command `up`. Returns the exit code: 0 after Ctrl-C or SIGTERM, 1 after any failure."""
    options = parser().parse_args(arguments)
    ending = Ending()
    ending.listen()
    try:
        _up(options, ending)
    except (StoppedError, asyncio.CancelledError):
        say("everything is stopped")
        return 0
    except psycopg.Error as error:
        say(f"the database: {str(error).strip()}")
    except (
        UpError,
        StateError,
        PostgresError,
        ValkeyError,
        MigrationError,
        TemplateError,
        BankError,
        ProviderError,
    ) as error:
        say(str(error))
    return 1


def parser() -> argparse.ArgumentParser:
    """The options of `up`; `./okane up --help` explains them."""
    up = argparse.ArgumentParser(prog="./okane up", description="Start the whole platform on this machine.")
    up.add_argument("--port", type=_port, default=3000, help="of the API (3000; 0 = any free one)")
    up.add_argument("--bank-port", type=_port, default=3004, help="of the bank simulator (3004; 0 = any free one)")
    up.add_argument("--mailbox-port", type=_port, default=3005, help="of the mailbox (3005; 0 = any free one)")
    up.add_argument("--provider-port", type=_port, default=3006, help="of the OpenID provider (3006; 0 = any free one)")
    up.add_argument("--fresh", action="store_true", help="forget all data first")
    up.add_argument("--data", type=Path, default=ROOT / ".okane", metavar="DIR", help="where the state is kept")
    up.add_argument("--no-people", action="store_true", help="do not create the two demo people")
    up.add_argument("--no-schedule", action="store_true", help="do not run the scheduled functions")
    up.add_argument("--built", action="store_true", help="run what `./okane build` made")
    return up


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def say(text: str) -> None:
    """A line of progress; a terminal that has gone away is no reason to fail."""
    with contextlib.suppress(OSError):
        print(f"okane: {text}", file=sys.stderr, flush=True)


def app_url(owner_url: str, password: str) -> str:
    """The same database for the role that the functions have."""
    parts = urlsplit(owner_url)
    place = parts.netloc.rpartition("@")[2]
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("user", "password")]
    netloc = f"{APP_ROLE}:{quote(password, safe='')}@{place}"
    return parts._replace(netloc=netloc, query=urlencode(query)).geturl()


def _up(options: argparse.Namespace, ending: Ending) -> None:
    folder: Path = options.data.absolute()
    template = ROOT / ".aws-sam" / "build" / "template.yaml" if options.built else ROOT / "template.yaml"
    if not template.exists():
        raise UpError(f"{template} is not there" + ("; run ./okane build first" if options.built else ""))
    with ExitStack() as running:
        running.enter_context(state.hold(folder))
        state.withdraw(folder)  # what a killed `up` has left
        _require_ports(options)
        if options.fresh:
            state.forget(folder)
            say(f"forgot what was in {folder}")
        kept = state.read_secrets(folder)
        state.make_keys(folder, kept)
        try:
            servers = _start_servers(options, folder, kept, running)
            asyncio.run(_serve(options, ending, folder, template, kept, servers))
        finally:
            ending.begins()


def _require_ports(options: argparse.Namespace) -> None:
    """Find out before anything is started."""
    for option in ("port", "bank_port", "mailbox_port", "provider_port"):
        port = getattr(options, option)
        try:
            take_port(port)
        except OSError as error:
            _refuse_port(port, option, error)


def _refuse_port(port: int, option: str, error: OSError) -> NoReturn:
    name = f"--{option.replace('_', '-')}"
    raise UpError(
        f"port {port} cannot be used ({error.strerror}); choose another with {name}, or any free one with {name} 0"
    ) from error


def _start_servers(options: argparse.Namespace, folder: Path, kept: Secrets, running: ExitStack) -> Servers:
    """Postgres, its schema, Valkey and the bank; whatever has been started is stopped by `running`."""
    logs = folder / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    watched: dict[str, Callable[[], int | None]] = {}
    # The bank first: it gets ready while Postgres does.
    bank = BankProcess(options.bank_port, new_log(logs / "bank.log"))
    running.callback(bank.stop)
    watched["the bank"] = bank.process.poll
    provider = None
    if os.environ.get("OPENID_CLIENT_ID"):
        say("using the OpenID provider of OPENID_CLIENT_ID")
    else:
        provider = Provider(options.provider_port, logs)
        running.callback(provider.stop)
        watched["the OpenID provider"] = provider.poll
    database_url = os.environ.get("DATABASE_URL", "")
    if database_url:
        if not database_url.startswith(("postgresql://", "postgres://")):
            raise UpError("DATABASE_URL must be a URL: postgresql://user:password@host:port/database")
        say("using the database of DATABASE_URL")
    else:
        first = not (folder / "postgres" / "data").exists()
        say("making a Postgres cluster (once) and starting it" if first else "starting Postgres")
        postgres = Postgres.start(folder / "postgres", password=kept.postgres_password)
        running.callback(postgres.stop)
        watched["Postgres"] = postgres.process.poll
        database_url = postgres.url()
    for name in migrate(database_url):
        say(f"applied {name}")
    set_app_password(database_url, kept.app_password)
    redis_url = os.environ.get("REDIS_URL", "")
    if _upstash():
        say("using the Redis of UPSTASH_REDIS_REST_URL")
        redis_url = ""
    elif redis_url:
        say("using the Redis of REDIS_URL")
    else:
        valkey = Valkey.start(folder / "valkey", password=secrets.token_urlsafe(24))
        running.callback(valkey.stop)
        watched["Valkey"] = valkey.process.poll
        redis_url = valkey.url
    return Servers(database_url, redis_url, provider, bank, watched)


def _upstash() -> tuple[str, str] | None:
    """URL and token of a real Upstash database, if this environment names one."""
    found = (os.environ.get("UPSTASH_REDIS_REST_URL", ""), os.environ.get("UPSTASH_REDIS_REST_TOKEN", ""))
    if any(found) and not all(found):
        raise UpError("UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN are needed together")
    return found if all(found) else None


async def _serve(
    options: argparse.Namespace, ending: Ending, folder: Path, template: Path, kept: Secrets, servers: Servers
) -> None:
    """Everything that lives in this process, until the task is cancelled or a child has ended."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (for the type checker: asyncio.run made one)
    ending.cancels(task)
    async with AsyncExitStack() as running:
        try:
            endpoints = await _open(options, folder, template, kept, servers, running)
            running.callback(state.withdraw, folder)
            state.publish(folder, endpoints)
            people = [] if options.no_people else await _people(endpoints, kept)
            _show(endpoints, people, folder)
            await _watch(servers)
        finally:
            ending.begins()


async def _open(
    options: argparse.Namespace,
    folder: Path,
    template: Path,
    kept: Secrets,
    servers: Servers,
    running: AsyncExitStack,
) -> Endpoints:
    """Front, mailbox and gateway, and the bank's settings; when it returns everything answers."""
    redis_rest_url, redis_rest_token = _upstash() or ("", kept.redis_token)
    if servers.redis_url:
        try:
            front = await serve_front(servers.redis_url, redis_rest_token, HOST, 0)
        except ValueError as error:
            raise UpError(f"REDIS_URL: {error}") from error
        running.push_async_callback(front.stop)
        redis_rest_url = front.url
    try:
        mail = await serve(mailbox.Mailbox().handle, HOST, options.mailbox_port, max_body=mailbox.MAX_BODY_BYTES)
    except OSError as error:
        _refuse_port(options.mailbox_port, "mailbox_port", error)
    running.push_async_callback(stop, mail)
    bank_url = servers.bank.url()
    if servers.provider:
        servers.provider.wait_until_ready()
    log = running.enter_context(new_log(folder / "logs" / "functions.log").open("w", encoding="utf-8"))

    def overrides(api: str) -> dict[str, dict[str, str]]:
        variables = (
            _variables(kept, folder, api, bank_url, url(mail))
            | _openid(servers.provider)
            | {
                "DATABASE_URL": app_url(servers.database_url, kept.app_password),
                "UPSTASH_REDIS_REST_URL": redis_rest_url,
                "UPSTASH_REDIS_REST_TOKEN": redis_rest_token,
            }
        )
        return {"Parameters": variables}

    try:
        gateway = await Gateway.start(
            load(template),
            port=options.port,
            overrides=overrides,
            environment=_aws(url(mail)),
            output=lambda line: _log(log, line),
            schedules=not options.no_schedule,
        )
    except OSError as error:
        _refuse_port(options.port, "port", error)
    running.push_async_callback(gateway.stop)
    servers.bank.serve(gateway.url, kept.bank_secrets)
    running.callback(servers.bank.stop)  # before the gateway: it would go on sending to one that is gone
    return Endpoints(
        api=gateway.url,
        bank=bank_url,
        mailbox=url(mail),
        provider=servers.provider.url if servers.provider else _openid(None)["OPENID_ISSUER"],
        database_url=servers.database_url,
        redis_rest_url=redis_rest_url,
        redis_rest_token=redis_rest_token,
        bank_secrets=kept.bank_secrets,
    )


def _variables(kept: Secrets, folder: Path, api: str, bank_url: str, mailbox_url: str) -> dict[str, str]:
    """What the template leaves to a deployment, for this machine."""
    return {
        "OKANE_SECRET": kept.okane_secret,
        "TOKEN_ISSUER": api,
        "TOKEN_AUDIENCE": "okane",
        # Files, so that `./okane keys rotate` reaches functions that are running.
        "TOKEN_PUBLIC_KEYS": f"file:{folder / 'keys' / 'public.json'}",
        "TOKEN_SIGNING_KEYS": f"file:{folder / 'keys' / 'signing.json'}",
        "TOKEN_KEYS_SECONDS": "1",
        "FRONT_END_URLS": f"{mailbox_url}/signed-in,{os.environ.get('FRONT_END_URLS', FRONT_ENDS)}",
        "BANKS": json.dumps({bank: f"{bank_url}/{bank}/pay" for bank in BANKS}),
        "BANK_SECRETS": json.dumps(kept.bank_secrets),
        "MAIL_FROM": MAIL_FROM,
        # Ten times what a deployment has: on one machine one person is often a load test.
        "REQUESTS_PER_MINUTE": os.environ.get("REQUESTS_PER_MINUTE", "60000"),
    }


def _openid(provider: Provider | None) -> dict[str, str]:
    """The OpenID provider that people sign in by: the one that was started here, or the one that this environment names."""
    if provider:
        return {
            "OPENID_ISSUER": provider.url,
            "OPENID_CLIENT_ID": CLIENT_ID,
            "OPENID_CLIENT_SECRET": CLIENT_SECRET,
        }
    return {
        "OPENID_ISSUER": os.environ.get("OPENID_ISSUER", "https://accounts.google.com"),
        "OPENID_CLIENT_ID": os.environ["OPENID_CLIENT_ID"],
        "OPENID_CLIENT_SECRET": os.environ.get("OPENID_CLIENT_SECRET", ""),
    }


def _aws(mailbox_url: str) -> dict[str, str]:
    """What makes the AWS SDK in the workers stay on this machine."""
    return {
        "AWS_ENDPOINT_URL_SESV2": mailbox_url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _log(log: TextIO, line: str) -> None:
    """Everything goes to the file; what stops a function from working also to whoever is watching."""
    with contextlib.suppress(OSError):  # a full disk must not stop the money
        log.write(f"{line}\n")
        log.flush()
    if ": could not start: " in line or ": Task timed out" in line:
        say(line)


async def _people(endpoints: Endpoints, kept: Secrets) -> list[Person]:
    say("getting the demo people ready")
    try:
        return await asyncio.to_thread(make_ready, endpoints, kept.people, say)
    except PeopleError as error:
        say(f"no demo people: {error}")
        return []


async def _watch(servers: Servers) -> NoReturn:
    """Until one of the children ends. (The gateway looks after its workers itself.)"""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        for name, poll in servers.watched.items():
            if (code := poll()) is not None:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise UpError(f"{name} has ended unexpectedly ({how}); everything is stopped, no data is lost")


def _show(endpoints: Endpoints, people: list[Person], folder: Path) -> None:
    """The one screen."""
    logs = folder / "logs" / "functions.log"
    lines = [
        "",
        "OKANE is running. Ctrl-C stops everything; the data stays for the next start.",
        "",
        f"  API       {endpoints.api}      what it can do: {endpoints.api}/openapi.json",
        f"  bank      {endpoints.bank}",
        f"  mailbox   {endpoints.mailbox}",
        f"  provider  {endpoints.provider}      signs in at {endpoints.api}/v1/auth/google",
        f"  logs      {logs.relative_to(Path.cwd()) if logs.is_relative_to(Path.cwd()) else logs}",
        "",
    ]
    if people:
        width = max(len(person.password) for person in people)
        lines += [
            f"  {person.email}   password {person.password:<{width}}   @{person.handle}   {person.balance}"
            for person in people
        ]
        body = json.dumps({"email": people[0].email, "password": people[0].password}, separators=(",", ":"))
        lines += ["", f"  curl {endpoints.api}/v1/auth/login -H 'Content-Type: application/json' -d '{body}'"]
    else:
        lines += [f"  curl {endpoints.api}/v1/health"]
    with contextlib.suppress(OSError):
        print("\n".join(lines) + "\n", flush=True)
