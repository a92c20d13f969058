"""What lets a user wait is named: after five seconds, and with how long it may take at most."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lethe.core.notices import notice

SILENCE_S = 5.0  # whoever waits longer learns for what
CONNECT_S = 10  # for a server to take a connection
PATIENCE_S = 30  # for the other writers of a database of Lethe's own


@contextmanager
def waiting(what: str, *, at_most_s: float | None = None) -> Iterator[None]:
    """Says on stderr what is waited for, once the block has taken `SILENCE_S`.

    Args:
        what: as in "Waiting for …"; no value of a person.
        at_most_s: when the wait is given up.
    """
    limit = f", up to {at_most_s:g} s" if at_most_s is not None else ""
    said = threading.Timer(SILENCE_S, notice, [f"Waiting for {what}{limit}."])
    said.daemon = True
    said.start()
    try:
        yield
    finally:
        said.cancel()
