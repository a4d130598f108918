"""A TCP proxy that can lose what passes it, for tests of broken connections to Postgres."""

import select
import socket
import threading


class Door:
    """A way to a server on 127.0.0.1 that can lose one question, or the answer to one question."""

    def __init__(self, target: int) -> None:
        """Open it, on `port`; `target` is the server's port."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._word = b""
        self._question = False
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, word: str, *, question: bool) -> None:
        """Cut the next connection on which this word is said: before it has passed, or when its answer is there."""
        self._question, self._word = question, word.encode()

    def lost(self) -> bool:
        """Whether that has happened."""
        return not self._word

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        losing, answer = False, b""
        try:
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                while True:
                    ready, _, _ = select.select([client, server], [], [])
                    if client in ready:
                        data = client.recv(65536)
                        if self._word and self._word in data:
                            losing, self._word = True, b""
                        if not data or (losing and self._question):
                            return
                        server.sendall(data)
                    if server in ready:
                        data = server.recv(65536)
                        answer += data if losing else b""
                        # ReadyForQuery: the server is done, and what it did is committed
                        if not data or (losing and answer.endswith(b"Z\0\0\0\5I")):
                            return
                        if not losing:
                            client.sendall(data)
        except OSError:
            return  # the server is gone, and with us now the client's connection
