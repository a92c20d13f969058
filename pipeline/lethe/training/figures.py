"""Figures of a training that may leave: counted in whole numbers, made noisy, then worked out.

`count` is the only function here that sees people; `release` adds the noise; everything below
`Figures.of` is made of the noisy counts alone and costs nothing more. What a person can change is
said, and priced, by `lethe.privacy.figures`.

Every held-out person counts once: their records, at most K of them, share it. So accuracy, base
rate and AUC are those of a person's average record, and a person with many records moves them no
more than one with a single record.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lethe.data.batches import RecordData
from lethe.privacy.figures import FiguresPlan
from lethe.privacy.noise.chacha import bits_on
from lethe.privacy.noise.discrete import SCALE
from lethe.privacy.noise.discrete_gaussian import DiscreteGaussian
from lethe.privacy.noise.sampling import Keystream

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

# Public: edges of the classes of scores, as log odds; even odds are one, so that accuracy is exact.
_EDGES = np.array([-3.5, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3.5])
EDGES: Reals = 1 / (1 + np.exp(-_EDGES))
CLASSES = len(EDGES) + 1  # of scores
_DRAWS = 1000  # for the intervals
_CONFIDENCE_95 = 1.96
_CLEAR = 4.0  # a count that is divided by is at least so many standard deviations of its noise


@dataclass(frozen=True)
class Counted:
    """Counts in steps; exact, and for nobody to see, or with their noise.

    Shapes: scores int64 [histograms, CLASSES, 2] by label; right int64 [2], wrong and right, of
        several classes alone; held_out, subjects and records one number each.
    """

    scores: Integers
    right: Integers
    held_out: int
    subjects: int
    records: int

    def vector(self) -> Integers:
        return np.concatenate(
            [self.scores.ravel(), self.right, [self.held_out, self.subjects, self.records]]
        ).astype(np.int64)

    def of_vector(self, vector: Integers) -> "Counted":
        """The same counts, each with the number at its place in `vector`."""
        ends = np.cumsum([self.scores.size, self.right.size])
        scores, right, rest = np.split(vector, ends)
        held_out, subjects, records = map(int, rest)
        return Counted(scores.reshape(self.scores.shape), right, held_out, subjects, records)


def count(
    plan: FiguresPlan,
    predicted: Reals | None,
    held_out: RecordData,
    *,
    trained: Integers,
) -> Counted:
    """The exact counts, in steps.

    Guarantee: adding or removing one person, held out or trained, with any records, moves
        `vector` by at most sqrt(plan.groups) * plan.unit in L2.

    Args:
        predicted: [n] the probability of the positive class for each held-out record, or
            [n, classes]; None where nothing was measured.
        held_out: n records of the people who are charged, and of nobody else.
        trained: [people] how many records each of them trained with.
    """
    unit, limit = plan.unit, plan.records_per_person
    trained = np.minimum(np.asarray(trained, dtype=np.int64), limit)
    histograms = plan.outputs
    scores = np.zeros((histograms, CLASSES, 2), dtype=np.int64)
    right = np.zeros(0 if histograms == 1 else 2, dtype=np.int64)
    measured = predicted is not None and len(held_out) > 0
    if predicted is not None and measured:
        used = _place_of_record(held_out.tokens) < limit
        shares = _shares(held_out.tokens[used], unit)
        labels = held_out.labels[used].astype(np.int64)
        given = predicted[used]
        for number in range(histograms):
            one = given if given.ndim == 1 else given[:, 1 if histograms == 1 else number]
            theirs = labels if histograms == 1 else (labels == number).astype(np.int64)
            np.add.at(scores[number], (np.searchsorted(EDGES, one, side="right"), theirs), shares)
        if len(right):
            np.add.at(right, (given.argmax(1) == labels).astype(np.int64), shares)
    return Counted(
        scores=scores,
        right=right,
        held_out=unit * len(np.unique(held_out.tokens)),
        subjects=unit * len(trained),
        records=(unit // limit) * int(trained.sum()),
    )


def release(exact: Counted, keystream: Keystream) -> Counted:
    """The counts with noise: this may leave, once, if it was reserved for everybody in them.

    Guarantee: each count has a discrete Gaussian number of steps of its own added, of parameter
        2^24; no count is left without.
    """
    vector = exact.vector()
    drawn = DiscreteGaussian(bits_on(torch.device("cpu"), keystream)).draw(len(vector))
    return exact.of_vector(vector + drawn.numpy().astype(np.int64))


def _place_of_record(tokens: npt.NDArray[np.uint32]) -> Integers:
    """0 for a person's first record, 1 for the next, whatever lies between them."""
    found: Integers = pd.Series(tokens).groupby(tokens).cumcount().to_numpy().astype(np.int64)
    return found


def _shares(tokens: npt.NDArray[np.uint32], unit: int) -> Integers:
    """How many steps each record counts: of one person at most `unit` together."""
    _, place, records = np.unique(tokens, return_inverse=True, return_counts=True)
    found: Integers = unit // records[place].astype(np.int64)
    return found


@dataclass(frozen=True)
class Figures:
    """What is said of a training, made of noisy counts: `metrics`, and the points of two curves."""

    metrics: dict[str, dict[str, Any]]
    roc: pd.DataFrame
    calibration: pd.DataFrame

    @classmethod
    def of(cls, noisy: Counted, plan: FiguresPlan) -> "Figures":
        """Post-processing: the same noisy counts give the same figures."""
        people = SCALE / plan.unit  # standard deviation of a count, in people
        scores = noisy.scores / plan.unit
        records = SCALE / (plan.unit // plan.records_per_person)
        metrics = {
            "held_out_subjects": _counted(noisy.held_out / plan.unit, people),
            "subjects": _counted(noisy.subjects / plan.unit, people),
            "records": _counted(noisy.records / (plan.unit // plan.records_per_person), records),
        }
        measured = _measured(scores, noisy.right / plan.unit)
        spread = _spread(scores, noisy.right / plan.unit, people)
        for name, value in measured.items():
            enough = _enough(scores, people, name)
            if enough and spread.get(name) is not None:
                metrics[name] = _shown(value, spread[name])
        shown = scores[0] if len(scores) == 1 and "auc" in metrics else np.zeros((CLASSES, 2))
        return cls(metrics, _roc(shown), _calibration(shown, people))


def _counted(value: float, deviation: float) -> dict[str, Any]:
    """A count, never below 0, and where the true one lies with 95 % confidence."""
    reach = _CONFIDENCE_95 * deviation
    low, high = (max(0, round(value + side * reach)) for side in (-1, 1))
    return {"value": max(0, round(value)), "private": True, "low": low, "high": high}


def _shown(value: float, deviation: float) -> dict[str, Any]:
    reach = _CONFIDENCE_95 * deviation
    low, middle, high = (
        round(min(1.0, max(0.0, each)), 4) for each in (value - reach, value, value + reach)
    )
    return {"value": middle, "private": True, "low": low, "high": high}


def _measured(scores: Reals, right: Reals) -> dict[str, float]:
    """accuracy, base rate and AUC of counts in people; those that cannot be are left out."""
    found: dict[str, float] = {}
    total = scores[0].sum()
    if total <= 0:
        return found
    if len(scores) == 1:
        middle = int(np.searchsorted(EDGES, 0.5, side="right"))
        found["accuracy"] = (scores[0, :middle, 0].sum() + scores[0, middle:, 1].sum()) / total
        found["base_rate"] = scores[0, :, 1].sum() / total
    else:
        found["accuracy"] = right[1] / right.sum() if right.sum() > 0 else math.nan
        found["base_rate"] = max(each[:, 1].sum() for each in scores) / total
    areas = [_area(each) for each in scores]
    found["auc"] = float(np.mean(areas))
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _area(scores: Reals) -> float:
    """AUC of scores rounded to their class: who is in the same counts as half."""
    negative, positive = scores[:, 0], scores[:, 1]
    if negative.sum() <= 0 or positive.sum() <= 0:
        return math.nan
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def _enough(scores: Reals, people: float, name: str) -> bool:
    """Whether what a figure divides by stands clear of its noise."""
    noise = _CLEAR * people * math.sqrt(CLASSES)
    if name != "auc":
        return bool(scores[0].sum() >= noise * math.sqrt(2))
    return all(bool((each.sum(0) >= noise).all()) for each in scores)


def _spread(scores: Reals, right: Reals, people: float) -> dict[str, float]:
    """Standard deviations of the figures, by who happens to be held out and by the noise.

    By simulation from the noisy counts; its generator decides nothing that is private.
    """
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    shares = [_law(each) for each in scores]
    total = max(1, round(float(scores[0].sum())))
    for _ in range(_DRAWS):
        drawn = np.stack([random.multinomial(total, share.ravel()) for share in shares])
        again = drawn.reshape(scores.shape) + random.normal(0, people, scores.shape)
        sure = right
        if len(right):
            rate = min(1.0, max(0.0, right[1] / max(right.sum(), 1.0)))
            hits = random.binomial(total, rate)
            sure = np.array([total - hits, hits]) + random.normal(0, people, 2)
        for name, value in _measured(again, sure).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.std(values)) for name, values in found.items()}


def _law(scores: Reals) -> Reals:
    """Noisy counts as probabilities."""
    kept = np.maximum(scores, 0)
    if kept.sum() <= 0:
        kept = np.ones_like(scores)
    found: Reals = kept / kept.sum()
    return found


def _roc(scores: Reals) -> pd.DataFrame:
    """From the highest class of scores to the lowest; a share is kept between 0 and 1, rising."""
    if scores.sum() <= 0:
        return pd.DataFrame({"fpr": [], "tpr": []}, dtype=float)
    rates = np.cumsum(scores[::-1], axis=0) / scores.sum(0)
    rates = np.maximum.accumulate(np.clip(np.vstack([[0.0, 0.0], rates]), 0, 1), axis=0)
    return pd.DataFrame({"fpr": rates[:, 0], "tpr": rates[:, 1]}).round(4)


def _calibration(scores: Reals, people: float) -> pd.DataFrame:
    """The share that came true in each class of scores that stands clear of the noise."""
    bounds = np.concatenate([[0.0], EDGES, [1.0]])
    predicted = (bounds[:-1] + bounds[1:]) / 2
    total = scores.sum(1)
    clear = total >= _CLEAR * people * math.sqrt(2)
    observed = np.clip(scores[clear, 1] / total[clear], 0, 1)
    return pd.DataFrame({"predicted": predicted[clear], "observed": observed}).round(4)
