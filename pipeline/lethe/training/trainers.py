"""The kinds of training there are, by the name that `training.method` of `params.yaml` has."""

import difflib
from collections.abc import Callable
from typing import Any

from lethe.config.training import Training
from lethe.core.errors import ParamsInvalid
from lethe.training.dpsgd import DpSgd
from lethe.training.trainer import Trainer

TRAINERS: dict[str, Callable[[], Trainer[Any]]] = {"dpsgd": DpSgd}


def trainer_of(training: Training) -> Trainer[Any]:
    """The declared kind of training.

    Raises:
        ParamsInvalid: there is none of that name; names those that there are.
    """
    made = TRAINERS.get(training.method)
    if made is None:
        near = difflib.get_close_matches(training.method, TRAINERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ParamsInvalid(
            f"training.method {training.method!r} is none of {', '.join(TRAINERS)}{hint}"
        )
    return made()
