"""Requests through the gateway: a warm balance and a transfer, measured against a handler that does nothing.

In every round all kinds take turns of a few requests, so that whatever else the machine does meets all of them alike. A
ratio is taken of the medians of one round; the result is the median over the rounds.
"""

import json
import re
import secrets
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import urlsplit

from bench.people import Person, fund, sign_up
from bench.stand import TRIVIAL_PATH, Stand

AIMS = {"trivial": None, "wallet": 2.5, "transfer": 4.0}  # median as a multiple of the trivial handler's, at most
CLIENTS = (1, 4)
TURN = 10  # requests of one kind, by each client, before the next kind has its turn
PURSE = 1_000_000_000  # minor units that each sender starts with; a transfer moves one
LEAST_HITS = 0.9  # of the balances have to come from the cache, or it is not the warm read that was measured

type Samples = dict[str, list[float]]  # seconds, by kind


class Client:
    """One keep-alive connection and the person on it. Answers are read with as little work as can be."""

    def __init__(self, stand: Stand, sender: Person, payee: Person) -> None:
        parts = urlsplit(stand.api)
        self._host = parts.netloc
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sender = sender
        self._payee = payee
        self.reads = 0
        self.hits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def turn(self, kind: str) -> list[float]:
        """A few requests of a kind, one after the other; the seconds that each took."""
        return [self._send(kind) for _ in range(TURN)]

    def _send(self, kind: str) -> float:
        """From the first byte of the request to the last one of its answer."""
        request = self._request(kind)
        started = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _complete(answer):
            more = self._socket.recv(65536)
            if not more:
                raise RuntimeError(f"{kind}: the connection ended")
            answer += more
        taken = time.perf_counter() - started
        if answer[9:12] != (b"201" if kind == "transfer" else b"200"):
            raise RuntimeError(f"{kind}: {answer.decode(errors='replace')}")
        if kind == "wallet":
            self.reads += 1
            self.hits += b"okane-cache: hit\r\n" in answer.lower()
        return taken

    def _request(self, kind: str) -> bytes:
        first = {
            "trivial": f"GET {TRIVIAL_PATH}",
            "wallet": "GET /v1/wallets/INR",
            "transfer": "POST /v1/transfers",
        }[kind]
        lines = [f"{first} HTTP/1.1", f"Host: {self._host}", f"Authorization: Bearer {self._sender.token}"]
        body = ""
        if kind == "transfer":
            body = json.dumps({"to": f"@{self._payee.handle}", "amount": 1, "currency": "INR"})
            key = f"bench-{secrets.token_hex(12)}"
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", f"Idempotency-Key: {key}"]
        return "\r\n".join([*lines, "", body]).encode()


def _complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def measure(stand: Stand, rounds: int, seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each number of clients and kind: p50 and p99 in ms, and the ratio to the trivial handler.

    seconds: what one round takes, with each number of clients. RuntimeError if anything but success is answered.
    """
    with ExitStack() as open_clients:
        clients = []
        for _ in range(max(CLIENTS)):
            sender, payee = sign_up(stand), sign_up(stand)
            fund(stand, sender, PURSE)
            clients.append(open_clients.enter_context(Client(stand, sender, payee)))
        pool = open_clients.enter_context(ThreadPoolExecutor(max(CLIENTS)))
        _round(pool, clients, seconds)  # starts the workers, and connects them
        found: dict[int, list[Samples]] = {count: [] for count in CLIENTS}
        for number in range(rounds):
            for count in CLIENTS:
                found[count].append(_round(pool, clients[:count], seconds))
            say(f"requests: round {number + 1} of {rounds}")
    hits = sum(client.hits for client in clients) / sum(client.reads for client in clients)
    if hits < LEAST_HITS:
        raise RuntimeError(f"only {hits:.1%} of the balances came from the cache")
    return [_row(count, kind, samples) for count, samples in found.items() for kind in AIMS]


def _round(pool: ThreadPoolExecutor, clients: list[Client], seconds: float) -> Samples:
    samples: Samples = {kind: [] for kind in AIMS}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for kind, mine in samples.items():
            for taken in pool.map(lambda client, kind=kind: client.turn(kind), clients):
                mine += taken
    return samples


def _row(clients: int, kind: str, rounds: list[Samples]) -> dict[str, Any]:
    every = sorted(taken for samples in rounds for taken in samples[kind])
    ratios = [statistics.median(samples[kind]) / statistics.median(samples["trivial"]) for samples in rounds]
    return {
        "clients": clients,
        "request": kind,
        "p50_ms": round(statistics.median(every) * 1000, 3),
        "p99_ms": round(every[int(len(every) * 0.99)] * 1000, 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "aim": AIMS[kind],
        "requests": len(every),
    }
