"""A network of the user's own, tried on records of nothing but zeros before people's are read."""

import sys
import traceback
from pathlib import Path

import torch

from lethe.config.training import Training
from lethe.core.errors import LetheError, ParamsInvalid
from lethe.training.description import Architecture
from lethe.training.engines.choose import refuse_unclippable
from lethe.training.models import build_model, refuse_unrepeatable

_RECORDS = 3


def try_out(training: Training, *, features: int, outputs: int, root: Path) -> None:
    """Builds the declared model and gives it records of the encoded shape.

    Raises:
        ParamsInvalid: it cannot be imported, called or fed; or its outputs are of another shape.
        TrainingRefused: it cannot be clipped by person.
    """
    declared = f"training.model={training.model!r}"
    given = f"{_RECORDS} records of {features} numbers"
    layers, seed = (
        Architecture.of(training, features=features, outputs=outputs),
        training.initial_seed,
    )
    try:
        network = build_model(layers, root=root, seed=seed)
        refuse_unrepeatable(network, layers, root=root, seed=seed)
    except LetheError:
        raise
    except Exception as error:  # noqa: BLE001 - it is anybody's code
        raise ParamsInvalid(
            f"{declared} cannot be built for {features} features and {outputs} outputs: "
            f"{_cause(error, root)}."
        ) from None
    refuse_unclippable(network)
    try:
        with torch.no_grad():
            made = network(torch.zeros(_RECORDS, features))
    except Exception as error:  # noqa: BLE001 - likewise
        raise ParamsInvalid(f"{declared} cannot take {given}: {_cause(error, root)}.") from None
    shape = tuple(getattr(made, "shape", ()))
    if shape != (_RECORDS, outputs):
        raise ParamsInvalid(
            f"{declared} makes {shape or type(made).__name__} of {given}; the label needs "
            f"({_RECORDS}, {outputs}), a row for each record."
        )


def _cause(error: Exception, root: Path) -> str:
    """The kind of an error, and the last line of the workspace's own code that led to it.

    Not its words: nobody knows what such code has read.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__} at {Path(error.filename).name}:{error.lineno}"
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root.resolve())]
    own = [frame for frame in own if not Path(frame.filename).is_relative_to(sys.prefix)]
    at = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{at}"
