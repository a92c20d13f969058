"""Runs `lethe retain` again and again, each killed -9 after its first mark, until one ends.

As `erase_and_die` does. One run is killed between the deletion from the source and its mark as
well, where what was done could be forgotten, and one between the new shards and theirs.
"""

import datetime as dt
import os
import signal

from erase_and_die import dying, until_one_ends

from lethe.config.params import load_params
from lethe.rights import retention_service
from lethe.rights.retention_stores import RetentionStores  # imported before anything is forked
from lethe.stores.requests.requests import Requests


def one_run(killed: int) -> None:
    for name in ("receive", "mark", "resolve", "close"):
        setattr(Requests, name, dying(getattr(Requests, name)))
    if killed == 3:
        RetentionStores.erase_expired = dying(RetentionStores.erase_expired)  # type: ignore[method-assign]
    RetentionStores.remake = once(RetentionStores.remake)  # type: ignore[method-assign]
    summary = retention_service.run(
        load_params(),
        clock=lambda: dt.datetime.now(dt.UTC),
        report=lambda said: print(said, flush=True),
    )
    print("waiting", len(summary.waiting), "problems", summary.problems, flush=True)


def once(remake):  # type: ignore[no-untyped-def]
    """Dies after the shards were made, the first time."""

    def made(self) -> None:  # type: ignore[no-untyped-def]
        remake(self)
        try:
            os.close(os.open(".lethe/remade", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return made


if __name__ == "__main__":
    until_one_ends(one_run)
