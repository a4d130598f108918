"""Clients in networks of their own. All of 127.0.0.0/8 is this machine, and the gateway passes the peer's address on."""

import copy
import http.client
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.contract import CheckedApi

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, and quickly made


def addresses() -> Iterator[str]:
    """Addresses of this machine, each of them a network to the platform; 127.0.0.1 is none of them."""
    for number in range(250 * 250):
        yield f"127.1.{number // 250}.{number % 250 + 1}"


def from_address(address: str) -> httpx.HTTPTransport:
    """Connections that come from an address of 127.0.0.0/8. Skips the test where this machine has only one of them, as macOS."""
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        pytest.skip(f"this machine is not {address}")
    return httpx.HTTPTransport(local_address=address, verify=_NO_TLS)


class Networks:
    """Clients that share the contract of `api`, each in a network that nobody has been in before."""

    def __init__(self, api: CheckedApi) -> None:
        self._api = api
        self._addresses = addresses()
        self.latest = ""
        self._open: list[httpx.Client] = []

    def address(self) -> str:
        """A network without a client."""
        self.latest = next(self._addresses)
        return self.latest

    def new(self) -> CheckedApi:
        """A client in the next network."""
        client = copy.copy(self._api)
        client._http = httpx.Client(timeout=30, trust_env=False, transport=from_address(self.address()))
        self._open.append(client._http)
        return client

    def close(self) -> None:
        """Close the clients."""
        for client in self._open:
            client.close()


class Guess(NamedTuple):
    """A password that somebody in the network of `source` tries for an address."""

    source: str
    email: str
    password: str = "not the password"


def guess_all(url: str, guesses: Sequence[Guess], threads: int) -> Counter[int]:
    """Make the guesses at POST /v1/auth/login, dealt out to threads that start together. -> how often each status came"""
    together = threading.Barrier(threads)

    def some(number: int) -> Counter[int]:
        together.wait(60)
        return _guess(url, guesses[number::threads])

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(some, range(threads)), Counter[int]())


def _guess(url: str, guesses: Sequence[Guess]) -> Counter[int]:
    """One after the other; connections are kept while the network stays the same."""
    host, found, at = urlsplit(url).netloc, Counter[int](), ""
    connection = http.client.HTTPConnection(host)
    for guess in guesses:
        if guess.source != at:
            connection.close()
            at = guess.source
            connection = http.client.HTTPConnection(host, timeout=60, source_address=(at, 0))
        body = json.dumps({"email": guess.email, "password": guess.password})
        connection.request("POST", "/v1/auth/login", body.encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        found[answer.status] += 1
    with closing(connection):
        return found
