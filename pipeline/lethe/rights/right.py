"""What a right is: what is asked, by when it must be answered, and the steps to its receipt.

`lethe.rights.case` carries any of them out; see there. A new right is a `Right` with its steps.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lethe.core.outcomes import Outcome
from lethe.rights.deadlines import due
from lethe.stores.requests.requests import Request

Do = Callable[[Any, Sequence[Request]], None]  # (the case, whose turn it is)
Look = Callable[[Any, Sequence[Request]], list[list[Outcome]]]


@dataclass(frozen=True)
class Step:
    """One step. `do` is given the requests that have come to it, and marks each that is done.

    A request without the mark gets the step again in the next run, and waits there; with
    `lags` it goes on meanwhile, and only its end waits.
    """

    name: str
    do: Do
    lags: bool = False


def _each_store(case: Any, batch: Sequence[Request]) -> None:
    raise NotImplementedError("a case puts a step for each of its stores here")


EACH_STORE = Step("each store", _each_store)  # stands for a step for each store of people


@dataclass(frozen=True)
class Right:
    """A right that people have, or that the law gives them unasked.

    `asked` and `did` are how receipts say what was asked, and what came of it where anything
    was done. `keeps_records`: the person's own records stay, and only a use for training ends,
    so it is asked for a purpose. `look`: the last look before a receipt; without it every store is
    looked into for the person.
    """

    kind: str
    asked: str
    did: str
    steps: tuple[Step, ...]
    keeps_records: bool = False
    deadline: Callable[[dt.datetime], dt.datetime] = due
    look: Look | None = None
