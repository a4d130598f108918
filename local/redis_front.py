"""Upstash's REST interface in front of a Redis-compatible server, so that what runs on Lambda runs here unchanged.

    POST /            ["SET", "foo", "bar", "EX", 100]     -> {"result": "OK"}
    POST /pipeline    [["SET", "foo", "bar"], ["INCR", "foo"]] -> [{"result": "OK"}, {"error": "ERR ..."}]
    POST /multi-exec  the same, as one transaction; refused as a whole it is {"error": "ERR ..."}
    GET  /set/foo/bar/EX/100, POST /set/foo?EX=100 with the value as body

As Upstash documents it (upstash.com/docs/redis/features/restapi): the token as `Authorization: Bearer` or
`?_token=`, 401 without it, 400 for what Redis refuses, `Upstash-Encoding: base64`, no commands that need a
connection of their own. Not here: MONITOR and SUBSCRIBE as event streams, answers in RESP2, read-only tokens;
Upstash-Sync-Token is accepted and means nothing, for there are no replicas that could lag behind.

All requests share one connection (redis_connection.py): Redis executes one command at a time in any case, and
no command that would change the connection or wait on it is let through. If Redis cannot be reached the answer
is 503 `{"error": ...}` at once, if it hangs within two seconds; the next request connects anew.
"""

import asyncio
import hmac
from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecoder, JSONEncoder
from urllib.parse import parse_qsl, unquote, unquote_plus, unquote_to_bytes

from local import http
from local.http import Request, Response
from local.redis_connection import Command, Failure, Redis, RedisGoneError, Reply, encoded

MAX_BODY = 10 * 1024 * 1024  # bytes; Upstash's own limit for a request

_UNAUTHORIZED = (
    "WRONGPASS invalid or missing auth token. "
    "See https://docs.upstash.com/redis/troubleshooting/http_unauthorized for details."
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT"})

# What changes the connection, or waits on it, would do so to every other request.
_NOT_OVER_REST = frozenset(
    b"AUTH HELLO RESET QUIT SELECT CLIENT MULTI EXEC DISCARD WATCH UNWATCH MONITOR SUBSCRIBE UNSUBSCRIBE "
    b"PSUBSCRIBE PUNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX "
    b"BZMPOP WAIT WAITAOF ASKING READONLY READWRITE".split()
)
# What administers the server is not a client's to call at Upstash either.
_NOT_AVAILABLE = frozenset(
    b"ACL BGREWRITEAOF BGSAVE CLUSTER CONFIG DEBUG FAILOVER LATENCY MIGRATE MODULE PFDEBUG PFSELFTEST PSYNC "
    b"REPLCONF REPLICAOF ROLE SAVE SHUTDOWN SLAVEOF SWAPDB SYNC".split()
)


class _BadRequestError(Exception):
    """The request is not one of the forms above; the message is for the caller."""


@dataclass(frozen=True, slots=True)
class Front:
    """A front that is listening."""

    server: asyncio.Server
    _redis: Redis

    @property
    def url(self) -> str:
        """What UPSTASH_REDIS_REST_URL has to be, e.g. http://127.0.0.1:8079."""
        return http.url(self.server)

    async def stop(self) -> None:
        """Stop listening, cut the connections that are left and let go of Redis."""
        await http.stop(self.server)
        self._redis.close()


async def serve_front(redis_url: str, token: str, host: str, port: int) -> Front:
    """Listen for requests that carry the token; port 0 takes a free one.

    Redis (redis:// or rediss://, with password and database if need be) is first called when a request comes.
    ValueError if its URL cannot be understood or the token is empty, OSError if the port is taken.
    """
    if not token:
        raise ValueError("a front without a token would be open to everyone")
    redis = Redis(redis_url)
    return Front(await http.serve(_Rest(redis, token).answer, host, port, max_body=MAX_BODY), redis)


class _Rest:
    """HTTP on one side, commands on the other."""

    def __init__(self, redis: Redis, token: str) -> None:
        self._redis = redis
        self._token = token.encode()

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        authorization, encode = "", _plain
        for name, value in request.headers:
            if name == "authorization":
                authorization = value
            elif name == "upstash-encoding" and value == "base64":
                encode = _base64
            elif name == "upstash-response-format" and value != "json":
                return _error(400, "ERR the response format of this front is json only")
        path, _, query = request.target.partition("?")
        if not self._is_allowed(authorization, query):
            return _error(401, _UNAUTHORIZED)
        if request.method not in _METHODS:
            return _error(405, "ERR method not allowed")
        try:
            match path.strip("/"):
                case "":
                    return await self._single(_from_json(request.body), encode)
                case "pipeline":
                    return await self._pipeline(_all_from_json(request.body, "pipeline"), encode)
                case "multi-exec":
                    return await self._transaction(_all_from_json(request.body, "multi-exec"), encode)
                case _:
                    return await self._single(_from_path(path, query, request.body), encode)
        except _BadRequestError as error:
            return _error(400, str(error))
        except RedisGoneError as error:
            return _error(503, f"ERR {error}")

    def _is_allowed(self, authorization: str, query: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            token = next((value for name, value in parse_qsl(query) if name == "_token"), "")
        return hmac.compare_digest(token.strip().encode(), self._token)

    async def _single(self, command: Command, encode: Callable[[Reply], object]) -> Response:
        refusal = _refusal(command)
        if refusal:
            return _error(400, refusal)
        (reply,) = await self._redis.ask(encoded(command), 1)
        outcome = _outcome(reply, encode)
        return _json(400 if "error" in outcome else 200, outcome)

    async def _pipeline(self, commands: list[Command], encode: Callable[[Reply], object]) -> Response:
        refusals = [_refusal(command) for command in commands]
        sent = [command for command, refusal in zip(commands, refusals, strict=True) if not refusal]
        replies = iter(await self._redis.ask(b"".join(map(encoded, sent)), len(sent)) if sent else [])
        return _json(
            200,
            [{"error": refusal} if refusal else _outcome(next(replies), encode) for refusal in refusals],
        )

    async def _transaction(self, commands: list[Command], encode: Callable[[Reply], object]) -> Response:
        for command in commands:
            if refusal := _refusal(command):
                return _error(400, refusal)
        whole = [[b"MULTI"], *commands, [b"EXEC"]]
        *queued, result = await self._redis.ask(b"".join(map(encoded, whole)), len(whole))
        if isinstance(result, list):
            return _json(200, [_outcome(reply, encode) for reply in result])
        # EXEC itself says only that there was an error; the first one tells which.
        reasons = [reply for reply in (*queued, result) if isinstance(reply, Failure)]
        return _json(400, _outcome(reasons[0] if reasons else Failure("EXECABORT"), encode))


def _json(status: int, value: object) -> Response:
    return Response(status, _ENCODE(value).encode(), [("Content-Type", "application/json")])


def _error(status: int, message: str) -> Response:
    return _json(status, {"error": message})


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


_ENCODE = JSONEncoder(separators=(",", ":")).encode
# Numbers stay as they are written: 1.50, 1e3 and integers of any length reach Redis unchanged.
_DECODE = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant).decode


def _parsed(body: bytes, what: str) -> list[object]:
    try:
        value = _DECODE(body.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise _BadRequestError(f"ERR failed to parse {what}")
    if not value:
        raise _BadRequestError(f"ERR empty {what}")
    return value


def _command(value: object, what: str) -> Command:
    if not isinstance(value, list):
        raise _BadRequestError(f"ERR failed to parse {what}")
    command = []
    for part in value:
        if isinstance(part, str):
            command.append(part.encode(errors="replace"))
        elif isinstance(part, bool):
            command.append(b"true" if part else b"false")
        else:
            raise _BadRequestError(f"ERR failed to parse {what}")
    if not command:
        raise _BadRequestError("ERR empty command")
    return command


def _from_json(body: bytes) -> Command:
    return _command(_parsed(body, "command"), "command")


def _all_from_json(body: bytes, what: str) -> list[Command]:
    return [_command(value, f"{what} request") for value in _parsed(body, f"{what} request")]


def _from_path(path: str, query: str, body: bytes) -> Command:
    """/set/foo/bar; a body follows the path, and the parameters of the query follow the body."""
    command = [unquote_to_bytes(segment) for segment in path[1:].split("/")]
    if body:
        command.append(body)
    for parameter in query.split("&") if query else ():
        name, equals, value = parameter.partition("=")
        if unquote(name) != "_token":
            command.append(unquote_plus(name).encode())
            if equals:
                command.append(unquote_plus(value).encode())
    return command


def _refusal(command: Command) -> str | None:
    """Why a command is not passed on, in Upstash's words, or None."""
    name = command[0].upper()
    if name in _NOT_AVAILABLE:
        return _not_available(name.decode())
    waits = name in {b"XREAD", b"XREADGROUP"} and b"BLOCK" in map(bytes.upper, command)
    debugs = name == b"SCRIPT" and command[1:2] and command[1].upper() == b"DEBUG"
    if name in _NOT_OVER_REST or waits or debugs:
        return f'ERR Command "{name.decode()}" is not allowed in REST or it has a special context path'
    return None


def _not_available(name: str) -> str:
    see = "https://upstash.com/docs/redis/overall/rediscompatibility"
    return f"ERR Command is not available: '{name}'. See {see} for details"


def _outcome(reply: Reply, encode: Callable[[Reply], object]) -> dict[str, object]:
    """One command's part of the answer."""
    if not isinstance(reply, Failure):
        return {"result": encode(reply)}
    words = reply.message.split("'", 2)
    if words[0] == "ERR unknown command " and len(words) == 3:
        return {"error": _not_available(words[1].upper())}
    return {"error": reply.message}


def _plain(reply: Reply) -> object:
    """A reply as JSON; what is not UTF-8 is replaced."""
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    if isinstance(reply, list):
        return [_plain(part) for part in reply]
    return reply.message if isinstance(reply, Failure) else reply


def _base64(reply: Reply) -> object:
    """A reply as JSON with every string in base64, except the status OK."""
    if isinstance(reply, bytes):
        return b2a_base64(reply, newline=False).decode()
    if isinstance(reply, list):
        return [_base64(part) for part in reply]
    if isinstance(reply, str):
        return "OK" if reply == "OK" else b2a_base64(reply.encode(), newline=False).decode()
    return reply.message if isinstance(reply, Failure) else reply
