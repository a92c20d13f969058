"""How often a run was begun under its one charge: a journal, beside what its steps released.

A charge pays for one training. Whoever trains several times under it and keeps the best has chosen
by what was drawn, which no accounting covers. So a training that took its last step is not begun
anew, and none is begun anew by the process that began it before: an honest one begins again only
where its process was killed, and goes on from its checkpoint.

What this cannot see: a wrapper that kills its own processes, or that removes the journal.
"""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from lethe.core.errors import RunSpent
from lethe.core.files import write_whole

BEGINS = "begins.json"


class BegunAgain(RunSpent):
    """Another training under a charge that has paid for one: the run counts as spent."""


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class Begin:
    """Steps that were `done` when a process began, and whether it took the last one."""

    done: int
    process: str
    ended: bool = False


_BEGINS = TypeAdapter(list[Begin])


class Journal:
    """The begins of the run of one transcript.

    Raises:
        ValueError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / BEGINS
        self.begins: list[Begin] = []
        if self._path.exists():
            try:
                self.begins = _BEGINS.validate_json(self._path.read_bytes())
            except ValidationError:
                raise ValueError("damaged") from None

    def begin(self, done: int, steps: int) -> None:
        """Raises: BegunAgain: it was trained to its end before, or begun by this process."""
        added = Begin(done, process(), ended=done == steps)
        if again(steps, [*self.begins, added]):
            raise BegunAgain(
                "This run was trained before under its one charge: a second training would let "
                "somebody choose the better of two. Its spend is settled and nothing was "
                "released; the same request again is another run, and another charge."
            )
        self._write([*self.begins, added])

    def end(self) -> None:
        """The last step was taken, and the checkpoint has it."""
        last = self.begins[-1]
        self._write([*self.begins[:-1], Begin(last.done, last.process, ended=True)])

    def _write(self, begins: list[Begin]) -> None:
        content = json.dumps([asdict(each) for each in begins]).encode()
        write_whole(self._path, content, private=True)
        self.begins = begins


def again(steps: int, begins: Sequence[Begin]) -> int:
    """How many of the begins had steps to draw that were drawn to the end, or by the process that
    had begun before."""
    return sum(
        each.done < steps
        and any(before.ended or before.process == each.process for before in begins[:at])
        for at, each in enumerate(begins)
    )


def process() -> str:
    """What distinguishes this process from all others, later ones of its number included."""
    return _named(os.getpid())


@cache
def _named(number: int) -> str:
    return f"{number} {secrets.token_hex(8)}"  # a fork has another number, and asks anew
