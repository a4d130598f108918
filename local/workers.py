"""Lambda's execution environments: one Python process each, fed through a Lambda Runtime API of its own.

    pool = Pool(function, variables, launch, limit=8, queue=100)
    outcome = await pool.invoke(b'{"some": "event"}', request_id="...", trace="...")
    await pool.stop()

A worker serves one invocation at a time and stays warm. It is started when a caller finds none free, ended when
its code has changed, killed when the function's Timeout is over, and replaced when it dies. AWS_LAMBDA_RUNTIME_API
has room for host and port only, so every worker gets a listener of its own: who asks is known by where they ask.
"""

import asyncio
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import cast

from local.http import Request, Response, refusal, serve, url
from local.intrinsics import REGION, function_arn
from local.template import Function

INIT_SECONDS = 30.0  # to import the handler; Lambda gives 10, a laptop that starts all at once needs more
PAYLOAD_BYTES = 6_291_556  # Lambda's limit for a request and for a response
LINE_BYTES = 64 * 1024  # a longer line of output is cut into pieces
_RUNTIME_API = "/2018-06-01/runtime/"
_HEADER_BYTES = 2 * 1024 * 1024  # awslambdaric sends a whole stack trace in one header
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP")  # what Python itself needs of our variables

# Linux ends the worker when the platform is gone, however it went; elsewhere runtime_client.py sees to that. Done
# by the worker itself, because code between fork and exec is not safe in a process with threads.
_START_RIC = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.path[0] = os.getcwd()
sys.argv = ["awslambdaric", sys.argv[1]]
runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
"""


class ThrottledError(Exception):
    """The function runs as often as it may, and as many callers wait as may wait."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an invocation came to: the function's JSON, or its error's."""

    payload: bytes
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started: interpreter, runtime client, variables for all, and where output lines go."""

    python: str
    client: str  # "awslambdaric" or "runtime_client"
    environment: Mapping[str, str]
    output: Callable[[str], None]

    def command(self, handler: str) -> list[str]:
        """The worker's command line."""
        if self.client == "awslambdaric":
            return [self.python, "-c", _START_RIC, handler]
        # -P: the script's own folder must not be on the import path, its http.py would hide the library's
        return [self.python, "-u", "-P", str(Path(__file__).with_name("runtime_client.py")), handler]


def default_client() -> str:
    """The runtime client for this machine: AWS's own where there is one, else ours."""
    has_ric = sys.platform == "linux" and importlib.util.find_spec("runtime_client") is not None
    return "awslambdaric" if has_ric else "runtime_client"


@dataclass(slots=True, eq=False)
class Invocation:
    """One call of a function, waiting or running."""

    payload: bytes
    request_id: str
    trace: str
    outcome: asyncio.Future[Outcome]

    def settle(self, outcome: Outcome) -> None:
        """Tell the caller, unless it has gone."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class State(Enum):
    """Where a worker stands."""

    STARTING = auto()  # importing the handler
    IDLE = auto()  # waiting for an invocation
    BUSY = auto()
    FINISHING = auto()  # has answered and is about to ask for the next one
    ENDED = auto()


def _failure(kind: str, message: str) -> Outcome:
    return Outcome(json.dumps({"errorType": kind, "errorMessage": message}).encode(), failed=True)


class Worker(asyncio.SubprocessProtocol):
    """One process and its Runtime API."""

    def __init__(self, pool: "Pool", generation: int) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.generation = generation  # of the code it was started with
        self.state = State.STARTING
        self.pid: int | None = None
        self.started: asyncio.Future[Outcome | None] = self._loop.create_future()  # the error if it could not
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self._invocation: Invocation | None = None
        self._deadline = 0.0
        self._wake: asyncio.Future[Invocation | None] | None = None
        self._server: asyncio.Server | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._partial = b""
        self._timer = self._loop.call_later(INIT_SECONDS, self._timed_out)

    @property
    def running(self) -> asyncio.Future[Outcome] | None:
        """The outcome of what it is doing, if it is doing something."""
        return self._invocation.outcome if self._invocation else None

    async def start(self) -> None:
        """Open the Runtime API and start the process on it."""
        pool, launch = self._pool, self._pool.launch
        try:
            server = await serve(
                self._runtime_api, "127.0.0.1", 0, max_body=2 * PAYLOAD_BYTES, max_header=_HEADER_BYTES
            )
            self._server = server
            await self._loop.subprocess_exec(
                lambda: self,
                *launch.command(pool.function.handler),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                cwd=pool.function.code,
                env=_environment(pool.function, pool.variables, launch, url(server)),
                start_new_session=True,  # its own process group: Ctrl-C is ours, and a kill takes its children along
            )
        except OSError as error:
            self.exited.set_result(None)
            pool.init_failed(self, _failure("Runtime.ExitError", f"cannot start {launch.python}: {error}"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process is there."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid()
        if self.state is State.ENDED:
            self._close()

    def take(self, invocation: Invocation) -> None:
        """Run this invocation next; the worker is idle."""
        self.state = State.BUSY
        self._invocation = invocation
        self._deadline = time.time() + self._pool.function.timeout
        self._timer = self._loop.call_later(self._pool.function.timeout, self._timed_out)
        if self._wake is not None:
            self._wake.set_result(invocation)
            self._wake = None

    def end(self, outcome: Outcome | None = None, *, replace: bool = True) -> None:
        """Kill it at once; its caller, if there is one, gets the outcome."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self._timer.cancel()
        if not self.started.done():
            self.started.set_result(outcome)
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None
        if self._invocation is not None:
            self._invocation.settle(outcome or _failure("Runtime.ExitError", "the worker was ended"))
            self._invocation = None
        self._close()
        self._pool.gone(self, replace=replace)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server.abort_clients()
        if self.pid is None or self._transport is None:
            return
        try:
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._transport.kill()
        except ProcessLookupError:
            pass  # it was quicker

    def _timed_out(self) -> None:
        if self.state is State.STARTING:
            self._pool.init_failed(self, _failure("Sandbox.Timedout", f"not ready after {INIT_SECONDS:.0f} seconds"))
            return
        message = f"Task timed out after {self._pool.function.timeout:.2f} seconds"
        if self._invocation is not None:
            self._pool.report(message)
        self.end(_failure("Sandbox.Timedout", message))

    # What the process sends.

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        """Pass whole lines on; awslambdaric joins the lines of one error with carriage returns."""
        *lines, self._partial = (self._partial + data.replace(b"\r", b"\n")).split(b"\n")
        if len(self._partial) > LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            if line:
                self._pool.report(line.decode(errors="replace"))

    def process_exited(self) -> None:
        """It has ended: because we killed it, or by itself."""
        transport = cast(asyncio.SubprocessTransport, self._transport)
        self.exited.set_result(None)
        if self._partial:
            self._pool.report(self._partial.decode(errors="replace"))
        message = f"Runtime exited with status {transport.get_returncode()}"
        if self.state is State.STARTING:
            self._pool.init_failed(self, _failure("Runtime.ExitError", message))
        elif self.state is not State.ENDED:
            self._pool.report(message)
            self.end(_failure("Runtime.ExitError", message))
        transport.close()

    # What it asks its Runtime API.

    async def _runtime_api(self, request: Request) -> Response:
        path = request.target.removeprefix(_RUNTIME_API)
        if path == "invocation/next" and request.method == "GET":
            return await self._next()
        if request.method != "POST":
            return refusal(404)
        if path == "init/error":
            self._pool.init_failed(self, Outcome(request.body, failed=True))
            return Response.json(202, {"status": "OK"})
        request_id, _, kind = path.removeprefix("invocation/").partition("/")
        if kind not in {"response", "error"}:
            return refusal(404)
        return self._answered(request_id, Outcome(request.body, failed=kind == "error"))

    async def _next(self) -> Response:
        if self.state is State.ENDED:
            return refusal(410)
        self._timer.cancel()
        if self._invocation is not None:
            self._invocation.settle(_failure("Runtime.ExitError", "no answer to the invocation before"))
            self._invocation = None
        self.state = State.IDLE
        if not self.started.done():
            self.started.set_result(None)
        invocation = self._pool.ready(self)
        if invocation is None and self.state is State.IDLE:
            self._wake = self._loop.create_future()
            invocation = await self._wake
        if invocation is None:
            return refusal(410)
        headers = [
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(int(self._deadline * 1000))),
            ("Lambda-Runtime-Invoked-Function-Arn", self._pool.arn),
            ("Lambda-Runtime-Trace-Id", invocation.trace),
        ]
        return Response(200, invocation.payload, headers)

    def _answered(self, request_id: str, outcome: Outcome) -> Response:
        invocation = self._invocation
        if invocation is None or invocation.request_id != request_id:
            return Response.json(400, {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"})
        self._invocation = None
        self.state = State.FINISHING  # the timer goes on: a worker that never asks again is of no use
        if len(outcome.payload) > PAYLOAD_BYTES:
            message = f"Response payload size exceeded maximum allowed payload size ({PAYLOAD_BYTES} bytes)."
            invocation.settle(_failure("Function.ResponseSizeTooLarge", message))
            self._pool.report(message)
            return Response.json(413, {"errorType": "RequestEntityTooLarge", "errorMessage": message})
        invocation.settle(outcome)
        return Response.json(202, {"status": "OK"})


class Pool:
    """The workers of one function and the callers that wait for one."""

    def __init__(
        self, function: Function, variables: Mapping[str, str], launch: Launch, *, limit: int, queue: int
    ) -> None:
        self.function = function
        self.variables = variables
        self.launch = launch
        self.arn = function_arn(function.name)
        self.workers: set[Worker] = set()
        self._limit = limit if function.reserved is None else min(limit, function.reserved)
        self._queue = queue
        self._idle: list[Worker] = []
        self._waiting: deque[Invocation] = deque()
        self._generation = 0
        self._stopped = False
        self._starts: set[asyncio.Task[None]] = set()
        self._exits: set[asyncio.Future[None]] = set()  # of processes that have not ended yet

    async def invoke(self, payload: bytes, *, request_id: str, trace: str) -> Outcome:
        """Run the function once. Waits for a free worker; ThrottledError if too many wait already.

        Cancelling the caller leaves a running invocation alone, as a client that hangs up does on AWS.
        """
        invocation = Invocation(payload, request_id, trace, asyncio.get_running_loop().create_future())
        if self._idle:
            self._idle.pop().take(invocation)
        elif self._stopped or self._limit == 0 or len(self._waiting) >= self._queue:
            raise ThrottledError(self.function.name)
        else:
            self._waiting.append(invocation)
            self._grow()
        return await invocation.outcome

    async def warm(self) -> Outcome | None:
        """Have one worker ready; the error if it cannot start."""
        worker = next(iter(self.workers), None) or self._spawn()
        return await asyncio.shield(worker.started)

    def reload(self) -> None:
        """The code has changed: those at rest end now, the busy ones after their answer."""
        self._generation += 1
        for worker in list(self.workers):
            if worker.state in {State.IDLE, State.STARTING}:
                worker.end()

    async def stop(self, grace: float = 0.0) -> None:
        """End all workers; busy ones get this many seconds to finish."""
        self._stopped = True
        running = [worker.running for worker in self.workers if worker.running]
        if running and grace:
            await asyncio.wait(running, timeout=grace)
        for worker in list(self.workers):
            worker.end()
        for invocation in self._waiting:
            invocation.settle(_failure("Runtime.ExitError", "the platform is stopping"))
        self._waiting.clear()
        if self._starts:
            await asyncio.wait(self._starts)
        if self._exits:
            await asyncio.wait(self._exits, timeout=1.0)

    def report(self, line: str) -> None:
        """A line for the log, under the function's name."""
        self.launch.output(f"{self.function.name}: {line}")

    # What workers tell their pool.

    def ready(self, worker: Worker) -> Invocation | None:
        """The worker is free: what it is to do next, or None if it is to wait (or has been ended)."""
        if worker.generation != self._generation:
            worker.end()
            return None
        while self._waiting:
            invocation = self._waiting.popleft()
            if not invocation.outcome.done():
                worker.take(invocation)
                return invocation
        self._idle.append(worker)
        return None

    def init_failed(self, worker: Worker, outcome: Outcome) -> None:
        """The handler cannot be imported: those who wait hear it now, unless other workers serve them."""
        error = json.loads(outcome.payload)
        self.report(f"could not start: {error.get('errorType')}: {error.get('errorMessage')}")
        if not any(other.state in {State.BUSY, State.FINISHING} for other in self.workers):
            while self._waiting:
                self._waiting.popleft().settle(outcome)
        worker.end(outcome, replace=False)

    def gone(self, worker: Worker, *, replace: bool) -> None:
        """The worker has ended."""
        self.workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if replace:
            self._grow()

    def _grow(self) -> None:
        """Start a worker for every caller who would otherwise wait for a busy one, up to the limit."""
        coming = sum(worker.state in {State.STARTING, State.FINISHING} for worker in self.workers)
        while coming < len(self._waiting) and len(self.workers) < self._limit and not self._stopped:
            self._spawn()
            coming += 1

    def _spawn(self) -> Worker:
        worker = Worker(self, self._generation)
        self.workers.add(worker)
        self._exits.add(worker.exited)
        worker.exited.add_done_callback(self._exits.discard)
        start = asyncio.get_running_loop().create_task(worker.start())
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        return worker


def _environment(function: Function, variables: Mapping[str, str], launch: Launch, runtime_api: str) -> dict[str, str]:
    """A worker's variables: what Lambda sets, what Python needs, then the template's; nothing else of ours."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    stream = f"{time.strftime('%Y/%m/%d', time.gmtime())}/[$LATEST]{secrets.token_hex(16)}"
    return {
        **kept,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": os.pathsep.join(map(str, function.layers)),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "LAMBDA_TASK_ROOT": str(function.code),
        "_HANDLER": function.handler,
        **launch.environment,
        **variables,
        "AWS_LAMBDA_RUNTIME_API": runtime_api.removeprefix("http://"),
    }
