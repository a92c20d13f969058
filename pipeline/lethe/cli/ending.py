"""What a command that was ended says: what stands, and how to go on."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lethe.cli.terminal import say
from lethe.config import workspace
from lethe.core.ends import Ended
from lethe.stages import STAGES

_HELPER = "assist"  # its leader speaks for it
_AGAIN = "What was not finished was taken back, or is finished when you give the command again."
_KEYS = "what has subject keys was removed"
_STANDS = {
    "run": f"The stages that were done stand, a training keeps its last checkpoint, and {_KEYS}. "
    "`lethe run` goes on.",
    "sweep": "Trainings that were charged stay so, and .lethe/private/reports/sweep.json has those "
    "that were done. `lethe sweep` begins anew.",
    "erase": "The steps that were done stand, and nobody has a receipt for what is not. "
    "`lethe erase run` goes on.",
    "retain": "The steps that were done stand. `lethe retain` goes on.",
    "pod": "The run goes on with its stage in the next pod.",
}
_STAGE = (
    f"What the stage had not finished is not there, and {_KEYS}, unless a scheduled run holds it. "
    "`lethe run` goes on."
)
_TRAIN = "What was reserved stays so, and the last checkpoint is kept. `lethe run` goes on from it."


def closing_sentence(ended: Ended, words: Sequence[str]) -> str:
    """What stands after the command `words` was ended.

    Args:
        words: the command line after `lethe`.
    """
    how = "its output was closed" if ended.name == "SIGPIPE" else f"ended by {ended.name}"
    command = next((word for word in words if not word.startswith("-")), "")
    stage = _TRAIN if command == "train" else _STAGE
    return f"{how}. {stage if command in STAGES else _STANDS.get(command, _AGAIN)}"


def leave(ended: Ended) -> NoReturn:
    """Says it, and exits with 128 + the signal."""
    words = sys.argv[1:]
    if words[:1] != [_HELPER]:
        message = closing_sentence(ended, words)
        if words[:1] and words[0] in STAGES:
            workspace.write_failure(Path.cwd(), ended.exit_code, message)
        with suppress(OSError):  # the terminal is gone, or nobody reads
            say(f"lethe: {message}", err=True)
    sys.exit(ended.exit_code)
