"""Upstash Redis over REST: one command is one HTTP request, on one kept-alive connection, with one deadline over all of it.

Not the `upstash-redis` package: its 0.8 ms of CPU for a request is four times this module's, it takes 130 ms to import,
and it bounds neither the time nor the size of an answer (docs/decisions.md).
"""

import http.client
import json
import select
import time
from typing import Any
from urllib.parse import urlsplit

from okane_common import outside
from okane_common.settings import Secret

IDLE_SECONDS = 30.0  # a connection that has rested for longer is replaced: something on its way has forgotten it
MAX_BYTES = 1024 * 1024  # of an answer; the largest that we ask for is a page of history


class Failed(Exception):
    """Redis could not be reached, did not answer in time or refused. The text says which and holds no data."""


class Upstash:
    """One database and the connection to it, for the life of an environment."""

    def __init__(self, url: str, token: Secret) -> None:
        self._path = urlsplit(url).path or "/"
        self._headers = {"Authorization": f"Bearer {token.reveal()}", "Content-Type": "application/json"}
        self._server = outside.Server(url)
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0

    def execute(self, command: list[Any], seconds: float) -> Any:
        """The result of one command within `seconds` of wall clock, DNS and TLS included. Raises Failed.

        Redis may still carry it out after it was given up here.
        """
        deadline = time.monotonic() + seconds
        body = json.dumps(command).encode()
        try:
            connection = self._ready(deadline)
            answer = outside.exchange(connection, deadline, MAX_BYTES, "POST", self._path, body, self._headers)
            good = answer.status == http.client.OK and answer.whole
            result = json.loads(answer.content)["result"] if good else None
        except (*outside.FAULTS, ValueError, KeyError, TypeError, RecursionError) as error:
            # all but the first two: an answer that is not the protocol's
            self._drop()  # what may still come belongs to this command and must not answer the next
            raise Failed(type(error).__name__) from error
        if not good:
            self._drop()
            raise Failed(f"HTTP {answer.status}, {len(answer.content)} bytes")
        self._used_at = time.monotonic()
        return result

    def _ready(self, deadline: float) -> http.client.HTTPConnection:
        """The connection, new if the old one has rested too long or was ended by the other side."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            rested = time.monotonic() - self._used_at > IDLE_SECONDS
            # nothing is owed to us, so whatever can be read is the end
            if not rested and not select.select([connection.sock], [], [], 0)[0]:
                return connection
            self._drop()
        self._connection = self._server.connect(deadline)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
