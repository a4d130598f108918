"""A network that takes its time: a TCP proxy before a local port, which holds everything sent to it back for a while.

    python -m bench.delay PORT MILLISECONDS      prints its own port; ends with its standard input

The delay is put on the way there only, so that a round trip takes the given time longer. One thread for each connection and
direction: nothing waits for anything else, and a thread's sleep is exact to some 0.1 ms, where an event loop's is not.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


@contextmanager
def delayed(port: int, milliseconds: float) -> Iterator[int]:
    """The port of such a proxy, in a process of its own, as long as the block takes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.delay", str(port), str(milliseconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # ends when we do, however that happens
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the proxy has no pipes")
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _relay(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Until either side ends. What is asked for here is a dialogue, so one piece at a time is enough."""
    with suppress(OSError):
        while piece := source.recv(65536):
            if seconds:
                time.sleep(seconds)
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, seconds: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((HOST, port))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_relay, args=(client, server, seconds), daemon=True).start()
        threading.Thread(target=_relay, args=(server, client, 0.0), daemon=True).start()


def _main(port: int, milliseconds: float) -> None:
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(listener, port, milliseconds / 1000), daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    _main(int(sys.argv[1]), float(sys.argv[2]))
