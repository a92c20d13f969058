"""Kills the process, as a power cut would, at a chosen write of a chosen stage.

Run by `tests.warm` before a command, as its `WARM_FIRST`: `KILL_STAGE=train KILL_AT=2` ends that
stage at its second write, without a chance to clean up. A stage that writes less often
is killed when all is written, before anybody hears that it ended well.
"""

import atexit
import os
import signal
import sys


def _die_at_write() -> None:
    stage, at = os.environ.get("KILL_STAGE"), int(os.environ.get("KILL_AT", "0"))
    if not stage or stage not in sys.orig_argv:
        return
    from pathlib import Path

    from lethe.core import files

    seen = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            die()

    atexit.register(die)

    whole = files.write_whole
    rename = Path.rename

    def write_whole(*args, **options):  # type: ignore[no-untyped-def]
        count()
        return whole(*args, **options)

    def renamed(self, target):  # type: ignore[no-untyped-def]
        count()
        return rename(self, target)

    for name, module in list(sys.modules.items()):
        if name.startswith("lethe.") and getattr(module, "write_whole", None) is whole:
            module.write_whole = write_whole  # type: ignore[attr-defined]
    Path.rename = renamed  # type: ignore[method-assign]


_die_at_write()
