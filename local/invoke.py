"""The Lambda Invoke API, so that a function can call another one with boto3, and the asynchronous invocations.

    POST /2015-03-31/functions/{name or ARN}/invocations
    X-Amz-Invocation-Type: RequestResponse (200 and the result), Event (202, runs later) or DryRun (204)

An Event that fails is tried again as Lambda does it, only sooner. Callers must sign, which any AWS SDK does: the
signature itself says nothing here, but a web page cannot send that header to a local port without being asked first.
"""

import asyncio
import json
import uuid
from collections.abc import Mapping
from urllib.parse import unquote

from local.http import Request, Response
from local.workers import PAYLOAD_BYTES, Outcome, Pool, ThrottledError

EVENT_BYTES = 1024 * 1024  # Lambda's limit for the payload of an Event
MAX_EVENTS = 1000  # waiting or running; Lambda has no limit, a laptop has
RETRY_SECONDS = (1.0, 2.0)  # Lambda waits one minute, then two
THROTTLED_SECONDS = 0.5  # between two tries to get a place at all
THROTTLED_TRIES = 240

_PREFIX = "/2015-03-31/functions/"
_SUFFIX = "/invocations"


class QueueFullError(Exception):
    """Too many asynchronous invocations wait already."""


class Events:
    """The asynchronous invocations that are under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, pool: Pool, payload: bytes) -> str:
        """Run the function later; the request's id. QueueFullError if too many wait."""
        if len(self._tasks) >= MAX_EVENTS:
            raise QueueFullError(pool.function.name)
        request_id = str(uuid.uuid4())
        task = asyncio.get_running_loop().create_task(self._run(pool, payload, request_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return request_id

    async def _run(self, pool: Pool, payload: bytes, request_id: str) -> None:
        for retry in range(pool.function.retries + 1):
            if retry:
                await asyncio.sleep(RETRY_SECONDS[min(retry, len(RETRY_SECONDS)) - 1])
            outcome = await self._once(pool, payload, request_id)
            if outcome is None or not outcome.failed:
                return
        pool.report(f"gave up on the asynchronous invocation {request_id}")

    async def _once(self, pool: Pool, payload: bytes, request_id: str) -> Outcome | None:
        for _ in range(THROTTLED_TRIES):
            try:
                return await pool.invoke(payload, request_id=request_id, trace=new_trace())
            except ThrottledError:
                await asyncio.sleep(THROTTLED_SECONDS)
        pool.report(f"no worker was free for the asynchronous invocation {request_id}")
        return None

    async def settled(self) -> None:
        """Wait until all that were put so far have run, retries included."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """Forget what has not run yet."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def new_trace() -> str:
    """A fresh X-Ray trace header, not sampled."""
    number = uuid.uuid4().hex
    return f"Root=1-{number[:8]}-{number[8:]};Parent={number[:16]};Sampled=0"


class InvokeApi:
    """The HTTP side: finds the function, checks the request, answers as Lambda does."""

    def __init__(self, pools: Mapping[str, Pool], events: Events) -> None:
        self._pools = pools
        self._events = events

    async def handle(self, request: Request) -> Response:
        """One request to the Invoke API."""
        name = unquote(request.path)
        if not (name.startswith(_PREFIX) and name.endswith(_SUFFIX)) or request.method != "POST":
            return _refusal(404, "ResourceNotFoundException", f"no such operation: {request.method}")
        if not (request.header("authorization") or "").startswith("AWS4-HMAC-SHA256 "):
            return _refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        name = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        wanted = name.rpartition("function:")[2].partition(":")[0]  # of an ARN; and without a version
        pool = next((pool for pool in self._pools.values() if pool.function.name == wanted), None)
        if pool is None:
            return _refusal(404, "ResourceNotFoundException", f"Function not found: {wanted}")
        kind = request.header("x-amz-invocation-type") or "RequestResponse"
        payload = request.body or b"{}"
        if kind not in {"RequestResponse", "Event", "DryRun"}:
            return _refusal(400, "InvalidParameterValueException", f"InvocationType {kind}")
        if len(payload) > (EVENT_BYTES if kind == "Event" else PAYLOAD_BYTES):
            return _refusal(413, "RequestTooLargeException", f"{len(payload)} bytes are too many")
        try:
            json.loads(payload)
        except (ValueError, RecursionError) as error:
            message = f"Could not parse request body into json: {error}"
            return _refusal(400, "InvalidRequestContentException", message)
        if kind == "DryRun":
            return Response(204)
        try:
            if kind == "Event":
                return Response(202, b"", [("x-amzn-RequestId", self._events.put(pool, payload))])
            return await self._now(pool, payload)
        except (ThrottledError, QueueFullError):
            return _refusal(429, "TooManyRequestsException", "Rate Exceeded.")

    async def _now(self, pool: Pool, payload: bytes) -> Response:
        request_id = str(uuid.uuid4())
        outcome = await pool.invoke(payload, request_id=request_id, trace=new_trace())
        headers = [
            ("Content-Type", "application/json"),
            ("x-amzn-RequestId", request_id),
            ("X-Amz-Executed-Version", "$LATEST"),
        ]
        if outcome.failed:
            headers.append(("X-Amz-Function-Error", "Unhandled"))
        return Response(200, outcome.payload, headers)


def _refusal(status: int, kind: str, message: str) -> Response:
    body = json.dumps({"Type": "User", "Message": message, "message": message}).encode()
    return Response(status, body, [("Content-Type", "application/json"), ("x-amzn-ErrorType", kind)])
