"""Holds a process at a chosen write of a chosen stage, until a signal comes or it is killed.

On the path of the tests' subprocesses only: `PAUSE_STAGE=train PAUSE_AT=2 PAUSE_FILE=…` stops that
stage before its second write; the file then appears, with the stage's process id.
"""

import os
import sys
import time


def _pause_at_write() -> None:
    stage, at = os.environ.get("PAUSE_STAGE"), int(os.environ.get("PAUSE_AT", "1"))
    if not stage or stage not in sys.orig_argv:
        return
    from pathlib import Path

    from lethe.core import files

    seen = 0
    whole, rename = files.write_whole, Path.rename

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            Path(os.environ["PAUSE_FILE"]).write_text(str(os.getpid()))
            while True:
                time.sleep(0.05)

    def write_whole(*args, **options):  # type: ignore[no-untyped-def]
        count()
        return whole(*args, **options)

    def renamed(self, target):  # type: ignore[no-untyped-def]
        count()
        return rename(self, target)

    files.write_whole = write_whole  # before anything else imports it
    Path.rename = renamed  # type: ignore[method-assign]


_pause_at_write()
