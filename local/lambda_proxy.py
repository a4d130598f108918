"""HTTP to a Lambda event and back, as an API Gateway HTTP API does it: routes, payload format 2.0, CORS.

Pure functions over values; local/gateway.py does the talking. Where AWS's documentation is silent this follows
what others captured from live HTTP APIs: the path arrives percent-decoded (rawPath too) and ends at a decoded "?";
"+" in a query is a space; absent parts (body, cookies, pathParameters, queryStringParameters) are left out; only
text/*, JSON, XML and JavaScript bodies travel as text, all others, and those without a Content-Type, as base64.
"""

import base64
import binascii
import json
import os
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from local.http import Request, Response
from local.intrinsics import ACCOUNT
from local.template import Cors, Route

API_ID = "local"

_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/javascript"})
_HOP_BY_HOP = frozenset(
    {"connection", "expect", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_PLAIN = [("Content-Type", "text/plain; charset=utf-8")]
_JSON = [("Content-Type", "application/json")]


class Router:
    """The routes in API Gateway's order: full matches, then {proxy+}, then $default."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._default = next((route for route in routes if route.path == "$default"), None)
        named = [(route.path.strip("/").split("/"), route) for route in routes if route.path != "$default"]
        self._routes = sorted(named, key=lambda entry: _rank(*entry))

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a method and an encoded path, with its decoded path parameters."""
        segments = [unquote(segment) for segment in path.removeprefix("/").split("/")]
        for pattern, route in self._routes:
            if route.method in (method, "ANY"):
                parameters = _match(pattern, segments)
                if parameters is not None:
                    return route, parameters
        return None if self._default is None else (self._default, {})


def _rank(pattern: list[str], route: Route) -> tuple[bool, list[bool], bool]:
    """Sorts a full match before a greedy one, a literal before a name, a method before ANY."""
    names = [segment.startswith("{") for segment in pattern]
    return pattern[-1].endswith("+}"), names, route.method == "ANY"


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    greedy = pattern[-1].endswith("+}")
    if len(segments) < len(pattern) or (len(segments) > len(pattern) and not greedy):
        return None
    parameters: dict[str, str] = {}
    for index, want in enumerate(pattern):
        got = segments[index]
        if want.startswith("{"):
            if want.endswith("+}"):
                got = "/".join(segments[index:])
            if not got:
                return None
            parameters[want.strip("{+}")] = got
        elif want != got:
            return None
    return parameters


def new_id() -> str:
    """A request id of API Gateway's form."""
    return base64.urlsafe_b64encode(os.urandom(11)).decode()


def event(
    request: Request, route: Route, parameters: dict[str, str], request_id: str, address: tuple[str, str]
) -> dict[str, Any]:
    """The event of payload format 2.0; the address is the host and port that the API listens on."""
    path = unquote(request.path).partition("?")[0]
    now = time.time()
    headers, cookies = _headers(request, address[1])
    made: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route.key,
        "rawPath": path,
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API_ID,
            "domainName": address[0],
            "domainPrefix": API_ID,
            "http": {
                "method": request.method,
                "path": path,
                "protocol": request.protocol,
                "sourceIp": request.client,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": route.key,
            "stage": "$default",
            "time": _time(int(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        made["cookies"] = cookies
    if request.query:
        made["queryStringParameters"] = _query(request.query)
    if parameters:
        made["pathParameters"] = parameters
    if request.body:
        made["body"], made["isBase64Encoded"] = _body(request.body, headers.get("content-type", ""))
    return made


def _headers(request: Request, port: str) -> tuple[dict[str, str], list[str]]:
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        if name == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
        elif name in headers:
            headers[name] += "," + value
        elif name not in _HOP_BY_HOP:
            headers[name] = value
    forwarded = headers.get("x-forwarded-for")
    headers["content-length"] = str(len(request.body))
    headers["x-forwarded-for"] = f"{forwarded}, {request.client}" if forwarded else request.client
    headers["x-forwarded-proto"] = "http"
    headers["x-forwarded-port"] = port
    return headers, cookies


def _query(query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def _body(body: bytes, content_type: str) -> tuple[str, bool]:
    kind, _, rest = content_type.lower().partition(";")
    charset = rest.partition("charset=")[2].partition(";")[0].strip(' "')
    if (kind.strip() in _TEXT_TYPES or kind.startswith("text/")) and charset in {"", "utf-8", "us-ascii"}:
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass  # base64 loses nothing, and a signature over the bytes can still be checked
    return base64.b64encode(body).decode(), True


@lru_cache(maxsize=2)
def _time(second: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))


def response(payload: bytes) -> Response | None:
    """The HTTP answer that a function's result asks for; None if it asks for something that cannot be."""
    try:
        result = json.loads(payload)
    except ValueError:
        return Response(200, payload, _JSON)
    except RecursionError:
        return None
    if not isinstance(result, dict) or "statusCode" not in result:
        # no statusCode: the whole result is the body of a 200
        return Response(200, result.encode() if isinstance(result, str) else payload, _JSON)
    status = result["statusCode"]
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status)
    body = result.get("body")
    body = "" if body is None else body
    headers, cookies = result.get("headers") or {}, result.get("cookies") or []
    if not isinstance(status, int) or not 200 <= status <= 599 or not isinstance(body, str):
        return None
    if not isinstance(headers, dict) or not isinstance(cookies, list):
        return None
    try:
        data = base64.b64decode(body, validate=True) if result.get("isBase64Encoded") else body.encode()
        fields = [(str(name), _header_text(value)) for name, value in headers.items()]
        fields += [("Set-Cookie", _header_text(cookie)) for cookie in cookies]
    except (ValueError, binascii.Error):
        return None
    if not any(name.lower() == "content-type" for name, _ in fields):
        fields += _PLAIN
    return Response(status, data, fields)


def _header_text(value: object) -> str:
    """A header's value as text; ValueError for what would break the answer apart or is no value at all."""
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, dict | list) or value is None or "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("not a header value")
    return text


def cors_headers(cors: Cors, origin: str | None) -> list[tuple[str, str]]:
    """What a response to this origin carries; nothing for an origin that is not allowed."""
    allowed = _allowed_origin(cors, origin)
    if allowed is None:
        return []
    headers = [("Access-Control-Allow-Origin", allowed)]
    if cors.expose:
        headers.append(("Access-Control-Expose-Headers", ",".join(cors.expose)))
    if cors.credentials:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    return headers


def preflight(cors: Cors, request: Request) -> Response | None:
    """The gateway's own answer to a CORS preflight; None if the request is none."""
    if request.method != "OPTIONS" or request.header("access-control-request-method") is None:
        return None
    origin = request.header("origin")
    if origin is None:
        return None
    allowed = _allowed_origin(cors, origin)
    if allowed is None:
        return Response(204)
    headers = [("Access-Control-Allow-Origin", allowed)]
    if cors.methods:
        headers.append(("Access-Control-Allow-Methods", ",".join(cors.methods)))
    if cors.headers:
        headers.append(("Access-Control-Allow-Headers", ",".join(cors.headers)))
    if cors.max_age is not None:
        headers.append(("Access-Control-Max-Age", str(cors.max_age)))
    if cors.credentials:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    return Response(204, b"", headers)


def _allowed_origin(cors: Cors, origin: str | None) -> str | None:
    if origin is None:
        return None
    if "*" in cors.origins:
        return "*"
    for allowed in cors.origins:
        # https://* allows every origin of that scheme
        if origin == allowed or (allowed.endswith("://*") and origin.startswith(allowed[:-1])):
            return origin
    return None


def is_cors_header(name: str) -> bool:
    """Whether API Gateway takes this header of a function away when the API has a CORS configuration."""
    return name.lower().startswith("access-control-")


def header_bytes(request: Request) -> int:
    """The size that API Gateway limits to 10,240: request line and header values."""
    return len(request.method) + len(request.target) + sum(len(value) for _, value in request.headers)
