"""The platform's API gateway: HTTP in front, Lambda workers behind, driven by a SAM template.

    template = load(Path("template.yaml"))
    gateway = await Gateway.start(
        template,
        port=3000,                                   # 0 takes a free one
        overrides=lambda api: {                      # as for `sam local --env-vars`; api is the gateway's own URL
            "Parameters": {"TOKEN_ISSUER": api},     # for every function that declares the variable
            "AuthFunction": {"MAIL_FROM": "…"},      # for one function, by logical id
        },
        environment={"AWS_ENDPOINT_URL_SESV2": "http://127.0.0.1:3005"},   # for every worker, declared or not
        output=print,                                # gets one line at a time: "AuthFunction: …"
    )
    gateway.url, gateway.invoke_url                  # the API, and the Lambda Invoke API for boto3
    await gateway.warm()                             # optional: {} or {"AuthFunction": "why it cannot start"}
    await gateway.stop()                             # within a second; no process is left

What a worker's environment holds: PATH and the like, what Lambda sets, `environment`, AWS_ENDPOINT_URL_LAMBDA, and
the variables that the template declares, with the overrides put in. A declared variable whose value only a
deployment knows and that has no override is a TemplateError at the start. Nothing else of the caller's environment.

Also for tests: `pids()` of the workers, `invoke(function, event)`, `fire(schedule)`, `settled()` (asynchronous
invocations and retries are through), `reload()`, and `schedules=False`. Functions go by their logical ids.
"""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Self

from local.http import Request, Response, refusal, serve, stop, url
from local.invoke import Events, InvokeApi, QueueFullError, new_trace
from local.lambda_proxy import (
    Router,
    cors_headers,
    event,
    header_bytes,
    is_cors_header,
    new_id,
    preflight,
    response,
)
from local.schedule import Clock
from local.template import Function, Route, Schedule, Template, TemplateError
from local.workers import PAYLOAD_BYTES, Launch, Outcome, Pool, ThrottledError, default_client

MAX_BODY_BYTES = 10 * 1024 * 1024  # an HTTP API's limits
MAX_HEADER_BYTES = 10_240
MAX_WORKERS = 8  # of one function, unless it reserves fewer
MAX_WAITING = 100  # callers of one function
WATCH_SECONDS = 0.5
GRACE_SECONDS = 0.5  # for requests under way when the platform stops

type Overrides = Mapping[str, Mapping[str, str]]


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Gateway:
    """One running API; see the module's docstring."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._router = Router(template.routes)
        self._pools: dict[str, Pool] = {}
        self._events = Events()
        self._servers: list[asyncio.Server] = []
        self._watch: asyncio.Task[None] | None = None
        self._clock = Clock(template.schedules, self._scheduled)
        self._address = ("", "")
        self.url = ""
        self.invoke_url = ""

    @classmethod
    async def start(
        cls,
        template: Template,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        invoke_port: int = 0,
        overrides: Overrides | Callable[[str], Overrides] | None = None,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        client: str | None = None,
        output: Callable[[str], None] = _print,
        max_workers: int = MAX_WORKERS,
        max_waiting: int = MAX_WAITING,
        reload: bool = True,
        schedules: bool = True,
    ) -> Self:
        """Start listening; workers are started by their first caller.

        OSError if a port is taken, TemplateError if a variable has no value or a schedule cannot run.
        """
        self = cls(template)
        try:
            api = await serve(self._api, host, port, max_body=MAX_BODY_BYTES)
            self._servers.append(api)
            self.url = url(api)
            self._address = host, self.url.rpartition(":")[2]
            invoke_api = InvokeApi(self._pools, self._events)
            invoke = await serve(invoke_api.handle, "127.0.0.1", invoke_port, max_body=PAYLOAD_BYTES)
            self._servers.append(invoke)
            self.invoke_url = url(invoke)
            given = overrides(self.url) if callable(overrides) else overrides or {}
            known = {"AWS_ENDPOINT_URL_LAMBDA": self.invoke_url, **(environment or {})}
            launch = Launch(python, client or default_client(), known, output)
            self._pools.update(_pools(template, launch, given, max_workers, max_waiting))
        except BaseException:
            await self.stop()
            raise
        if reload:
            self._watch = asyncio.get_running_loop().create_task(self._watch_files())
        if schedules:
            self._clock.start()
        return self

    async def stop(self) -> None:
        """End everything; requests under way get half a second."""
        if self._watch is not None:
            self._watch.cancel()
        await self._clock.stop()
        for server in self._servers:
            server.close()  # no new connections; those that are open still get their answers
        await asyncio.gather(*(pool.stop(GRACE_SECONDS) for pool in self._pools.values()))
        await self._events.stop()
        for server in self._servers:
            await stop(server)

    async def warm(self) -> dict[str, str]:
        """Start a worker of every function; what went wrong, by function."""
        started = await asyncio.gather(*(pool.warm() for pool in self._pools.values()))
        failed = {name: outcome for name, outcome in zip(self._pools, started, strict=True) if outcome}
        return {name: json.loads(outcome.payload)["errorMessage"] for name, outcome in failed.items()}

    async def invoke(self, function: str, payload: object) -> Outcome:
        """Run a function now. ThrottledError if too many callers wait for it."""
        data = json.dumps(payload).encode()
        return await self._pools[function].invoke(data, request_id=str(uuid.uuid4()), trace=new_trace())

    def fire(self, schedule: str) -> None:
        """Let a schedule fire now. KeyError if there is none of that name."""
        self._clock.fire(schedule)

    async def settled(self) -> None:
        """Wait until the asynchronous invocations so far are through, retries included."""
        await self._events.settled()

    def pids(self, function: str) -> list[int]:
        """The processes that serve a function."""
        return [worker.pid for worker in self._pools[function].workers if worker.pid is not None]

    def reload(self) -> None:
        """Serve with new workers from now on, whether or not a file has changed."""
        for pool in self._pools.values():
            pool.reload()

    def _scheduled(self, schedule: Schedule, payload: bytes) -> None:
        pool = self._pools[schedule.function]
        try:
            self._events.put(pool, payload)
        except QueueFullError:
            pool.report(f"the schedule {schedule.name} is left out: too many invocations wait")

    async def _api(self, request: Request) -> Response:
        """One request of the public API."""
        request_id = new_id()
        matched = self._router.match(request.method, request.path)
        cors = self._template.cors
        if header_bytes(request) > MAX_HEADER_BYTES:
            answer = refusal(431)
        elif matched is not None:
            answer = await self._integrate(request, *matched, request_id)
        elif cors is not None and (permission := preflight(cors, request)) is not None:
            return Response(204, b"", [*permission.headers, ("Apigw-Requestid", request_id)])
        else:
            answer = refusal(404)
        headers = answer.headers
        if cors is not None:
            headers = [(name, value) for name, value in headers if not is_cors_header(name)]
            headers += cors_headers(cors, request.header("origin"))
        return Response(answer.status, answer.body, [*headers, ("Apigw-Requestid", request_id)])

    async def _integrate(self, request: Request, route: Route, parameters: dict[str, str], request_id: str) -> Response:
        """The function's answer, or API Gateway's own where there is none."""
        pool = self._pools.get(route.function)
        trace = new_trace()
        made = event(request, route, parameters, request_id, self._address)
        made["headers"]["x-amzn-trace-id"] = trace.partition(";")[0]
        payload = json.dumps(made, separators=(",", ":")).encode()
        if len(payload) > PAYLOAD_BYTES:
            return refusal(413)
        if pool is None:
            return refusal(503)  # the platform is still starting
        try:
            async with asyncio.timeout(route.timeout):
                outcome = await pool.invoke(payload, request_id=str(uuid.uuid4()), trace=trace)
        except (TimeoutError, ThrottledError):
            return refusal(503)
        if outcome.failed:
            return refusal(500)
        answer = response(outcome.payload)
        if answer is None:
            pool.report(f"malformed result for {route.key}: API Gateway answers 500")
            return refusal(500)
        return answer

    async def _watch_files(self) -> None:
        """New workers for a function when a file of its folder or of its layers has changed."""
        watched = {pool: _sources(pool.function) for pool in self._pools.values()}
        folders = {folder for own in watched.values() for folder in own}
        before = {folder: _snapshot(folder) for folder in folders}
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = {folder: _snapshot(folder) for folder in folders}
            changed = {folder for folder in folders if now[folder] != before[folder]}
            for folder in changed:
                for path, stamp in now[folder].items():
                    if before[folder].get(path) != stamp and path.endswith(".py"):
                        # Python takes a .pyc for current if second and size of the source are the same
                        Path(cache_from_source(path)).unlink(missing_ok=True)
            before = now
            for pool, own in watched.items():
                if changed.intersection(own):
                    pool.report("the code has changed, new workers serve from now on")
                    pool.reload()


def _pools(
    template: Template, launch: Launch, overrides: Overrides, max_workers: int, max_waiting: int
) -> dict[str, Pool]:
    unknown = set(overrides) - {"Parameters", *template.functions}
    if unknown:
        raise TemplateError(f"overrides for functions that are not there: {', '.join(sorted(unknown))}")
    pools = {}
    for name, function in template.functions.items():
        variables = function.environment({**overrides.get("Parameters", {}), **overrides.get(name, {})})
        pools[name] = Pool(function, variables, launch, limit=max_workers, queue=max_waiting)
    return pools


def _sources(function: Function) -> list[Path]:
    """The folders that somebody may be editing; a built layer (…/python) holds thousands of files and stays."""
    return [function.code, *(layer for layer in function.layers if layer.name != "python")]


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file below the folder, but for Python's caches."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [str(folder)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # it went away meanwhile
        for entry in entries:
            if entry.name == "__pycache__" or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
                continue
            with suppress(OSError):
                stat = entry.stat()
                found[entry.path] = (stat.st_mtime_ns, stat.st_size)
    return found
