"""How good a model is on people who did not train it, exactly: for the operator alone.

These numbers are computed from people's data without noise, and nobody whose data trained the model
is in them. What leaves is made by `lethe.training.figures`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score, roc_curve
from torch import nn

from lethe.core.errors import NotFinite
from lethe.data.batches import RecordData
from lethe.training.models import probabilities

_CURVE_POINTS = 200


def predict(model: nn.Module, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[n] probability of the positive class, or [n, classes]."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(features), 65536):
            rows = torch.from_numpy(features[start : start + 65536]).to(device)
            parts.append(probabilities(model(rows)).double().cpu().numpy())
    model.train(was_training)
    found: npt.NDArray[np.float64] = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(found).all():
        raise NotFinite("The model gives NaN or infinite predictions; it is not released.")
    return found


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the held-out people's records, and the points of two curves."""

    metrics: dict[str, float]
    roc: pd.DataFrame
    calibration: pd.DataFrame


def evaluate(model: nn.Module, data: RecordData, *, classes: int) -> Evaluation:
    """AUC, accuracy, log loss and base rate; what one class alone cannot show is left out."""
    return evaluated(predict(model, data.features), data, classes=classes)


def evaluated(scores: npt.NDArray[np.float64], data: RecordData, *, classes: int) -> Evaluation:
    """`evaluate`, of predictions that were made already."""
    labels = data.labels.astype(np.int64)
    metrics: dict[str, float] = {"held_out_records": float(len(data))}
    metrics["held_out_subjects"] = float(len(np.unique(data.tokens)))
    roc = pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    calibration = pd.DataFrame({"predicted": [], "observed": []}, dtype=float)
    if not len(data):
        return Evaluation(metrics, roc, calibration)
    present = len(np.unique(labels))
    if classes <= 2 and scores.ndim == 2:
        scores = scores[:, 1]
    if scores.ndim == 1:
        metrics["accuracy"] = float(accuracy_score(labels, scores >= 0.5))
        metrics["base_rate"] = float(labels.mean())
        metrics["log_loss"] = float(log_loss(labels, scores, labels=[0, 1]))
        if present == 2:
            metrics["auc"] = float(roc_auc_score(labels, scores))
            roc, calibration = _roc(labels, scores), _calibration(labels, scores)
    else:
        known = list(range(classes))
        metrics["accuracy"] = float(accuracy_score(labels, scores.argmax(1)))
        metrics["base_rate"] = float(np.bincount(labels).max() / len(labels))
        metrics["log_loss"] = float(log_loss(labels, scores, labels=known))
        if present == classes:
            metrics["auc"] = float(roc_auc_score(labels, scores, multi_class="ovr", labels=known))
    return Evaluation(metrics, roc, calibration)


def _roc(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> pd.DataFrame:
    """At most 200 points: a point for each record would show single people's scores."""
    fpr, tpr, _ = roc_curve(labels, scores)
    grid = np.linspace(0, 1, _CURVE_POINTS)
    return pd.DataFrame({"fpr": grid, "tpr": np.interp(grid, fpr, tpr)}).round(4)


def _calibration(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> pd.DataFrame:
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    return pd.DataFrame({"predicted": predicted, "observed": observed}).round(4)
