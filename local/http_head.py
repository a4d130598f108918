"""The request line and the headers of HTTP/1.1, read in exactly one way or not at all."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_VERSION = re.compile(r"HTTP/[02-9]\.\d")
NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ONCE = frozenset({"host", "content-length", "transfer-encoding"})


class RefusedError(Exception):
    """The request cannot be accepted; the status says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request's line and headers, and how its body is delimited."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    protocol: str
    length: int  # of the body in bytes; -1 means chunked
    keep_alive: bool
    expects_continue: bool


def parse_head(data: bytes, max_body: int) -> Head:
    """Read everything before the blank line; refuses what two parsers could read differently."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    first, *lines = text.split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        version = first.rpartition(" ")[2]
        raise RefusedError(505 if _VERSION.fullmatch(version) else 400)
    headers: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for entry in lines:
        name, colon, value = entry.partition(":")
        if not colon or NAME.fullmatch(name) is None or _BAD_VALUE.search(value):
            raise RefusedError(400)
        name = name.lower()
        if name in seen and name in _ONCE:
            raise RefusedError(400)
        seen[name] = value = value.strip(" \t")
        headers.append((name, value))
    modern = line[3] == "1"
    if modern and "host" not in seen:
        raise RefusedError(400)
    connection = seen.get("connection", "").lower()
    return Head(
        method=line[1],
        target=_origin_form(line[2]),
        headers=headers,
        protocol="HTTP/1.1" if modern else "HTTP/1.0",
        length=_body_length(seen, max_body, modern=modern),
        keep_alive="close" not in connection if modern else "keep-alive" in connection,
        expects_continue=modern and seen.get("expect", "").lower() == "100-continue",
    )


def _origin_form(target: str) -> str:
    """/path?query, also out of the absolute form that proxies are sent; the other forms are refused."""
    if target.startswith("/"):
        path = target
    elif target.lower().startswith(("http://", "https://")):
        try:
            parts = urlsplit(target)
        except ValueError as error:
            raise RefusedError(400) from error
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    else:
        raise RefusedError(400)
    if "#" in path:
        raise RefusedError(400)
    return path


def _body_length(headers: dict[str, str], max_body: int, *, modern: bool) -> int:
    """The body's length in bytes, -1 for chunked; refused if it is ambiguous or too much."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or not modern:
            raise RefusedError(400)
        if coding.lower() != "chunked":
            raise RefusedError(501)
        return -1
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise RefusedError(400)
    if int(length) > max_body:
        raise RefusedError(413)
    return int(length)
