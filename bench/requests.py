"""Requests through the gateway: a warm balance and a transfer, measured against a handler that does nothing.

Every round runs the same number of each kind in small turns, so that whatever else the machine does meets all of them.
A ratio is taken within its round; the median over the rounds is the result.
"""

import json
import re
import secrets
import socket
import time
from urllib.parse import urlsplit

from bench.stand import TRIVIAL_PATH, Stand

KINDS = ("trivial", "wallet", "transfer")
AIMS = {"wallet": 2.5, "transfer": 4.0}  # p50 as a multiple of the trivial handler's
TURN = 20  # requests of one kind before the next kind has its turn
PURSE = 9_000_000_000  # minor units that each sender starts with


class Client:
    """One keep-alive connection and the person on it. Answers are read with as little work as can be."""

    def __init__(self, stand: Stand, sender: "Sender") -> None:
        parts = urlsplit(stand.api)
        assert parts.hostname and parts.port
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sender = sender
        self._plain = self._request("GET", TRIVIAL_PATH)
        self._wallet = self._request("GET", "/v1/wallets/INR")

    def close(self) -> None:
        self._socket.close()

    def send(self, kind: str) -> float:
        """One request of the kind; the seconds from its first byte to the last byte of the answer."""
        if kind == "transfer":
            body = json.dumps({"to": f"@{self._sender.to}", "amount": 1, "currency": "INR"})
            request = self._request("POST", "/v1/transfers", body, f"bench-{secrets.token_hex(12)}")
        else:
            request = self._plain if kind == "trivial" else self._wallet
        started = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _complete(answer):
            more = self._socket.recv(65536)
            if not more:
                raise RuntimeError(f"{kind}: the connection ended")
            answer += more
        taken = time.perf_counter() - started
        _check(kind, answer)
        return taken

    def _request(self, method: str, path: str, body: str = "", key: str = "") -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"Authorization: Bearer {self._sender.token}",
            "Accept: */*",
        ]
        if body:
            lines += [
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                f"Idempotency-Key: {key}",
            ]
        return "\r\n".join([*lines, "", body]).encode()


def _complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def _check(kind: str, answer: bytes) -> None:
    """What is measured has to be what it is called."""
    expected = {"trivial": b" 200 ", "wallet": b" 200 ", "transfer": b" 201 "}[kind]
    if expected not in answer[:16]:
        raise RuntimeError(f"{kind}: {answer.decode(errors='replace')}")
