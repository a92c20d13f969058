"""DVC as a library, beside other people's output.

As it is imported, DVC binds its log to the streams that the process has at that moment. A
notebook, a test or a scheduler gives the process others later, and closes the first ones: a
warning then ends DVC with an error of the logging.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOGGERS = ("dvc", "dvc_objects", "dvc_data")


@contextmanager
def opened_repo(root: Path) -> Iterator[Any]:
    """A `dvc.repo.Repo` over a workspace, whose log goes to this moment's streams."""
    from dvc.repo import Repo

    _log_here()
    with Repo(str(root)) as repo:
        yield repo


def _log_here() -> None:
    for handler in (each for name in _LOGGERS for each in logging.getLogger(name).handlers):
        if isinstance(handler, logging.StreamHandler):
            # Not `setStream`: it flushes the stream before, which may be closed.
            handler.stream = sys.stderr if handler.level >= logging.WARNING else sys.stdout
