"""What is said of a training, and to whom: charged figures to all, exact ones to the operator.

The one place that decides which numbers of people leave a training. Nothing else that a trainer
gives is counted or measured on people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pyroaring import BitMap

from lethe.config import private_reports
from lethe.config.params import Params
from lethe.data.batches import RecordData
from lethe.privacy.figures import FiguresPlan
from lethe.privacy.noise.sampling import Keystream
from lethe.training.evaluate import evaluated
from lethe.training.figures import Figures, count, release
from lethe.training.trainer import Reserved, Shards, Trained

NO_FIGURES = "none: reporting.epsilon is 0"


@dataclass(frozen=True)
class Figured:
    """What leaves: fields of the report, and plots by name."""

    report: dict[str, Any]
    plots: Mapping[str, bytes] = field(repr=False)


def figures_of(
    figures: FiguresPlan | None,
    shards: Shards,
    reservation: Reserved | None,
    trained: Trained,
    *,
    keystream: Keystream | None = None,
) -> Figured:
    """The charged figures of a training, drawn now; or none, where none were reserved.

    Guarantees: counts nobody but the people of `reservation`; what is returned is made of the
        noisy counts alone.

    Args:
        keystream: for tests alone; from the system if not given.
    """
    if figures is None or reservation is None:
        empty = pd.DataFrame
        plots = {
            "roc": empty({"fpr": [], "tpr": []}, dtype=float),
            "calibration": empty({"predicted": [], "observed": []}, dtype=float),
        }
        return Figured({"figures": NO_FIGURES, "metrics": {}}, _csv(plots))
    exact = _counted(figures, shards, reservation.admitted, trained)
    made = Figures.of(release(exact, keystream or Keystream.from_system()), figures)
    said = {**figures.price(), "run_id": reservation.run_id}
    plots = {"roc": made.roc, "calibration": made.calibration}
    return Figured({"figures": said, "metrics": made.metrics}, _csv(plots))


def keep_exact(
    params: Params, shards: Shards, reservation: Reserved, trained: Trained, *, left_out: int
) -> None:
    """The same, exact, in the operator's private files."""
    found: dict[str, Any] = {
        "left_out": left_out,
        "records": shards.people.records,
        "run_id": reservation.run_id,
        "subjects": len(shards.people),
    }
    if trained.predicted is not None:
        classes = len(shards.encoder.classes)
        evaluation = evaluated(trained.predicted, shards.held_out, classes=classes)
        found["metrics"] = evaluation.metrics
        curves = {"roc": evaluation.roc, "calibration": evaluation.calibration}
        for name, curve in curves.items():
            private_reports.write_file(
                params.root, f"{name}.csv", curve.to_csv(index=False).encode()
            )
    private_reports.write(params.root, "train", found)


def _counted(figures: FiguresPlan, shards: Shards, charged: BitMap, trained: Trained) -> Any:
    inside = np.isin(shards.held_out.tokens, np.array(charged, dtype=np.uint32))
    held_out = RecordData(
        shards.held_out.features[inside],
        shards.held_out.labels[inside],
        shards.held_out.tokens[inside],
    )
    predicted = None if trained.predicted is None else trained.predicted[inside]
    paying = np.isin(shards.people.tokens, np.array(charged, dtype=np.uint32))
    records = shards.people.mask.sum(1).numpy().astype(np.int64)
    return count(figures, predicted, held_out, trained=records[paying])


def _csv(curves: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    """Every row says that it is charged."""
    found = {}
    for name, curve in curves.items():
        marked = curve.assign(private=True)[["private", *curve.columns]]  # DVC draws the last
        found[f"{name}.csv"] = marked.to_csv(index=False).encode()
    return found
