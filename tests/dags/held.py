"""Holds trainings in their middle, each for as long as its file is there.

Run by `tests.warm` before a command, as its `WARM_FIRST`. `HELD` is a folder with the files that
wait for a training, `1` and `2`, say: the first training takes `1`, and so on; what finds none is
not held. A training stands still once it has saved a checkpoint. Its file is then `1.held`, and it
goes on when that is removed.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path


def _hold_trainings() -> None:
    if sys.orig_argv[1:2] != ["lethe"] or "train" not in sys.orig_argv:
        return
    from lethe.training.checkpoint import Checkpoint

    save, held = Checkpoint.save, False

    def save_and_wait(self, *args, **options):  # type: ignore[no-untyped-def]
        nonlocal held
        save(self, *args, **options)
        if not held and (mine := _taken()) is not None:
            held = True  # once: the last step has a checkpoint too
            while mine.exists():
                time.sleep(0.05)

    Checkpoint.save = save_and_wait  # type: ignore[method-assign]


def _taken() -> Path | None:
    """The first file that waits, under its new name; no other training has it."""
    for path in sorted(Path(os.environ["HELD"]).iterdir()):
        if path.suffix != ".held":
            with suppress(FileNotFoundError):
                return path.rename(path.with_suffix(".held"))
    return None


_hold_trainings()
