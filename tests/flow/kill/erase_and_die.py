"""Runs `lethe erase run` again and again, each killed -9 after its first mark, until one ends.

One process imports, and forks a run after another: the imports are what takes long. One run is
killed between the retraining and its mark as well, where a second one could be paid for.
Prints what the runs said, and how many were killed.
"""

import datetime as dt
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lethe.config.params import load_params
from lethe.rights import erasure_service
from lethe.rights.workspace_stores import WorkspaceStores  # imported before anything is forked
from lethe.stores.requests.requests import Requests


def dying(done: Callable[..., Any]) -> Callable[..., Any]:
    def write(*args: Any, **options: Any) -> Any:
        done(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return write


def one_run(killed: int) -> None:
    for name in ("mark", "resolve", "close", "join"):
        setattr(Requests, name, dying(getattr(Requests, name)))
    trained = killed and Path("reports/register.json").stat().st_mtime > STARTED
    if not trained:
        WorkspaceStores.retrain = dying(WorkspaceStores.retrain)  # type: ignore[method-assign]
    erasure_service.run(
        load_params(),
        clock=lambda: dt.datetime.now(dt.UTC),
        report=lambda said: print(said, flush=True),
    )


def until_one_ends(one: Callable[[int], None]) -> None:
    """Forks one run after another, each with the number that were killed before it."""
    killed = 0
    while True:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                one(killed)
                code = 0
            except Exception:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            print(f"killed {killed} times", flush=True)
            raise SystemExit(os.waitstatus_to_exitcode(status))
        killed += 1
        if killed > 100:
            raise SystemExit("a run that is killed after its first mark never gets on")


STARTED = dt.datetime.now().timestamp()
if __name__ == "__main__":
    until_one_ends(one_run)
