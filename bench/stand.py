"""The platform that the benchmarks run on: everything real, on free ports, its data in a folder that is thrown away.

    python -m bench.stand FOLDER      writes FOLDER/stand.json once it is ready; ends at SIGTERM, or with its standard input

The same parts in the same two processes as `./okane up` has them, and one function more: `GET /bench/trivial`.
"""

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from database.migrate import migrate, set_app_password
from local import mailbox
from local.gateway import Gateway
from local.http import serve, stop, url
from local.platform import app_url
from local.postgres import Postgres
from local.redis_front import serve_front
from local.state import Secrets
from local.template import Route, Template, load
from local.valkey import Valkey

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
TRIVIAL = Path(__file__).resolve().parent / "trivial"
TRIVIAL_PATH = "/bench/trivial"
BANK = "hdfc"
START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Stand:
    """Where the parts of a running stand are."""

    api: str
    mailbox: str
    bank_secret: str
    database_url: str = field(repr=False)  # the owner's


def with_trivial(template: Template) -> Template:
    """The template, and the trivial function beside those it has."""
    wallet = template.functions["WalletFunction"]
    trivial = replace(
        wallet,
        logical_id="TrivialFunction",
        name="TrivialFunction",
        code=TRIVIAL,
        layers=(),
        variables={},
        unresolved={},
    )
    return replace(
        template,
        functions={**template.functions, trivial.logical_id: trivial},
        routes=(*template.routes, Route("GET", TRIVIAL_PATH, trivial.logical_id)),
    )


def variables(kept: Secrets, api: str, database_url: str, redis_rest_url: str) -> dict[str, str]:
    """What the template leaves to a deployment."""
    return {
        "DATABASE_URL": database_url,
        "UPSTASH_REDIS_REST_URL": redis_rest_url,
        "UPSTASH_REDIS_REST_TOKEN": kept.redis_token,
        "OKANE_SECRET": kept.okane_secret,
        "TOKEN_ISSUER": api,
        "TOKEN_PUBLIC_KEYS": kept.public_keys(),
        "TOKEN_SIGNING_KEYS": kept.signing_keys(),
        "BANKS": json.dumps({BANK: "http://127.0.0.1:9/pay"}),  # nobody opens a payment page here
        "BANK_SECRETS": json.dumps(kept.bank_secrets),
        "MAIL_FROM": "okane@example.com",
        "REQUESTS_PER_MINUTE": "1000000",  # one person is the whole load
    }


@contextmanager
def running(folder: Path) -> Iterator[Stand]:
    """A stand in a process of its own, as long as the block takes."""
    log = folder / "stand.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.stand", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # ends when we do, however that happens
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        path = folder / "stand.json"
        deadline = time.monotonic() + START_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the stand did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        yield Stand(**json.loads(path.read_text()))
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _main(folder: Path) -> None:
    kept = Secrets.make()
    with ExitStack() as services:
        postgres = Postgres.start(folder / "postgres", password=kept.postgres_password)
        services.callback(postgres.stop)
        migrate(postgres.url())
        set_app_password(postgres.url(), kept.app_password)
        valkey = Valkey.start(folder / "valkey", password=secrets.token_urlsafe(24))
        services.callback(valkey.stop)
        asyncio.run(_serve(folder, kept, postgres.url(), valkey.url))


async def _serve(folder: Path, kept: Secrets, database_url: str, redis_url: str) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with AsyncExitStack() as parts:
        front = await serve_front(redis_url, kept.redis_token, HOST, 0)
        parts.push_async_callback(front.stop)
        mail = await serve(mailbox.Mailbox().handle, HOST, 0, max_body=mailbox.MAX_BODY_BYTES)
        parts.push_async_callback(stop, mail)
        log = parts.enter_context((folder / "functions.log").open("w", encoding="utf-8"))

        def overrides(api: str) -> dict[str, dict[str, str]]:
            app = app_url(database_url, kept.app_password)
            return {"Parameters": variables(kept, api, app, front.url)}

        gateway = await Gateway.start(
            with_trivial(load(ROOT / "template.yaml")),
            overrides=overrides,
            environment={
                "AWS_ENDPOINT_URL_SESV2": url(mail),
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
            },
            output=lambda line: print(line, file=log),
            reload=False,
            schedules=False,
        )
        parts.push_async_callback(gateway.stop)
        failed = await gateway.warm()
        if failed:
            raise RuntimeError(f"functions do not start: {failed}")
        stand = Stand(gateway.url, url(mail), kept.bank_secrets[BANK][0], database_url)
        new = folder / "stand.json.new"
        new.write_text(json.dumps(asdict(stand)))
        new.rename(folder / "stand.json")
        await ended.wait()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
