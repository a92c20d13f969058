"""A server that freezes when a test says so: it takes connections and packets, and answers none."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Freezing:
    """Stands before a server at a port of this machine, and passes on what both sides say."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._frozen = threading.Event()
        self._ignored = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._frozen.set()

    def thaw(self) -> None:
        self._frozen.clear()

    def ignore(self, connections: int) -> None:
        """Lets so many new ones wait for ever, as a pooler does; those that are open go on."""
        self._ignored = connections

    def close(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                if self._frozen.is_set():
                    continue
                if self._ignored > 0:
                    self._ignored -= 1
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open.append(server)
                for here, there in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with suppress(OSError):
            while content := here.recv(65536):
                if not self._frozen.is_set():
                    there.sendall(content)
            there.shutdown(socket.SHUT_WR)


@contextmanager
def freezing(port: int) -> Iterator[Freezing]:
    """Stands before a port until the block ends."""
    made = Freezing(port)
    try:
        yield made
    finally:
        made.close()
