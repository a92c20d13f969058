"""Membership inference: do the model's losses show who was in training?

The attacker holds a person's records and the released model and guesses "in" where the
person's mean loss is low (Yeom et al. 2018, arXiv:1709.01604). Whatever rule it uses, an
(epsilon, delta) claim bounds it: for every set S of scores, P_in(S) <= e^epsilon P_out(S)
+ delta, and the other way round (Kairouz et al. 2015, arXiv:1311.0776). A rule that is
better than that contradicts the claim.

Its numbers are computed from people's data without noise: they are NOT private.
"""

import math
import random as system_random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pyroaring import BitMap
from torch import nn

from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.statistics import (
    Check,
    Floats,
    auc,
    clopper_pearson,
    number,
    roc,
    tpr_at,
)
from lethe.core.errors import NotFinite
from lethe.data.batches import PersonData
from lethe.training.engines.contract import LossFn

# Fixed before anything is seen: shares of a group's people that a threshold takes for members.
REGISTERED_FPRS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
REPORTED_FPRS = (0.001, 0.01, 0.1)
CONTRADICTION_ALPHA = 1e-7
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Reached:
    """What the attack reached."""

    people_in: int
    people_out: int
    auc: float
    auc_standard_error: float
    tpr: dict[float, float]
    epsilon_lower_bound: float
    fpr_curve: Floats
    tpr_curve: Floats

    def to_data(self) -> dict[str, Any]:
        return {
            "attempted": True,
            "auc": self.auc,
            "auc_standard_error": self.auc_standard_error,
            "confidence": 1 - CONTRADICTION_ALPHA,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "kind": "loss threshold, per person",
            "people_in": self.people_in,
            "people_out": self.people_out,
            "private": False,
            "tpr_at_fpr": {f"{level:g}": reached for level, reached in self.tpr.items()},
        }

    def check(self, epsilon: float) -> Check:
        """Contradicts if the lower bound is above what is claimed."""
        return Check(
            name="membership",
            passed=self.epsilon_lower_bound <= epsilon,
            statistic=self.epsilon_lower_bound,
            threshold=epsilon,
            false_alarm_rate=CONTRADICTION_ALPHA,
            kind="at most",
            meaning="no loss threshold finds members better than the claimed epsilon allows",
        )


def person_losses(
    model: nn.Module, loss_fn: LossFn, data: PersonData, *, people: int = 4096
) -> Floats:
    """Mean loss of each person who has a record, as float64; `people` at a time.

    Raises:
        NotFinite: a loss is NaN or infinite.
    """
    device = next(model.parameters()).device
    model.eval()
    found = []
    with torch.no_grad():
        for positions in torch.arange(len(data)).split(people):
            features, mask, labels = data.batch(positions, device)
            losses = loss_fn(model(features.flatten(0, 1)), labels.flatten())
            kept = losses.view(mask.shape).masked_fill(~mask, 0.0).double().sum(1)
            count = mask.sum(1)
            found.append((kept / count)[count > 0].cpu().numpy())
    whole: Floats = np.concatenate(found) if found else np.zeros(0)
    if not np.isfinite(whole).all():
        raise NotFinite(
            f"The model gives {int((~np.isfinite(whole)).sum())} people a loss that is NaN or "
            "infinite. It cannot be audited; lower the learning rate and train again."
        )
    return whole


def chosen(people: int, count: int) -> npt.NDArray[np.int64]:
    """`count` of `people` places, by the operating system's randomness, in random order."""
    picked = system_random.SystemRandom().sample(range(people), min(count, people))
    return np.array(picked, dtype=np.int64)


def attack(losses_in: Floats, losses_out: Floats, *, delta: float) -> Reached:
    """Guesses membership by a threshold on the loss.

    Shapes: one mean loss a person, both [people] in random order; at least two each.
    """
    scores_in, scores_out = -losses_in, -losses_out
    area, error = auc(scores_in, scores_out)
    fpr, tpr = roc(scores_in, scores_out)
    return Reached(
        people_in=scores_in.size,
        people_out=scores_out.size,
        auc=area,
        auc_standard_error=error,
        tpr={level: tpr_at(fpr, tpr, level) for level in REPORTED_FPRS},
        epsilon_lower_bound=empirical_epsilon(
            scores_in, scores_out, delta=delta, alpha=CONTRADICTION_ALPHA
        ),
        fpr_curve=fpr,
        tpr_curve=tpr,
    )


def empirical_epsilon(
    scores_in: Floats, scores_out: Floats, *, delta: float, alpha: float
) -> float:
    """A lower bound on epsilon at `delta` that is too high with probability `alpha` at most.

    The first half of the people picks one rule among the registered thresholds and four
    directions; the other half alone gives the bound, so that picking costs no confidence.
    It takes people's scores as independent given the rule, as audits of one model do
    (Jagielski et al. 2020, arXiv:2006.07709).
    """
    half_in, half_out = scores_in.size // 2, scores_out.size // 2
    if min(half_in, half_out) < 1:
        return 0.0
    first = scores_in[:half_in], scores_out[:half_out]
    second = scores_in[half_in:], scores_out[half_out:]
    levels = [1 - level for level in REGISTERED_FPRS]
    at = np.concatenate([np.quantile(scores, levels) for scores in first])
    # And just above each: many people may have the same loss.
    thresholds = np.unique(np.concatenate([at, np.nextafter(at, np.inf)]))
    rules = [
        _ScoreRule(float(threshold), above, swapped)
        for threshold in thresholds
        for above in (True, False)
        for swapped in (False, True)
    ]
    # Confidence is not claimed of this half; 0.05 ranks rules by what can be shown.
    best = max(rules, key=lambda rule: _bound(*first, rule, delta=delta, alpha=0.05))
    return _bound(*second, best, delta=delta, alpha=alpha)


@dataclass(frozen=True)
class _ScoreRule:
    """The scores above a threshold, or those below; for "in", or swapped for "out"."""

    threshold: float
    above: bool
    swapped: bool


def _bound(
    scores_in: Floats, scores_out: Floats, rule: _ScoreRule, *, delta: float, alpha: float
) -> float:
    """ln((P_in(S) - delta) / P_out(S)) from below, S being the rule's set of scores."""
    groups = (scores_out, scores_in) if rule.swapped else (scores_in, scores_out)
    hits = [int(((g >= rule.threshold) == rule.above).sum()) for g in groups]
    likely, _ = clopper_pearson(hits[0], groups[0].size, alpha=alpha / 2)
    _, unlikely = clopper_pearson(hits[1], groups[1].size, alpha=alpha / 2)
    if likely <= delta:
        return 0.0
    return max(0.0, math.log((likely - delta) / unlikely))


@register
class Membership(Attack):
    """The loss attack on as many people inside as outside."""

    name = "membership"
    covers = ("membership",)

    def run(self, target: Target) -> list[Check]:
        """No check where too few people are inside or outside; the report says so."""
        found = attack_members(target, people=target.declared.subjects)
        if found is None:
            self.measured = {
                "attempted": False,
                "private": False,
                "why": "too few people with records are in, or held out of, training",
            }
            return []
        self.measured = found.to_data()
        # At most 200 points: a point for each person would show single people's losses.
        grid = np.linspace(0, 1, _CURVE_POINTS)
        tpr = np.interp(grid, found.fpr_curve, found.tpr_curve)
        self.curve = pd.DataFrame({"fpr": grid, "tpr": tpr}).round(4)
        return [found.check(number(target.report, "epsilon_rdp"))]


def attack_members(target: Target, *, people: int) -> Reached | None:
    """The attack, or None where there are too few people.

    Whoever is attacked is chosen by the operating system's randomness.
    """
    held_out = target.held_out() - target.manifest
    size = min(people // 2, len(target.data), len(held_out))
    inside = BitMap(target.data.tokens[chosen(len(target.data), size)])
    outside = BitMap(np.array(held_out, dtype=np.uint32)[chosen(len(held_out), size)])
    random = np.random.default_rng()
    losses = [
        random.permutation(person_losses(target.model, target.loss_fn, target.people(tokens)))
        for tokens in (inside, outside)
        if tokens
    ]
    if len(losses) < 2 or min(len(found) for found in losses) < 2:
        return None
    return attack(losses[0], losses[1], delta=target.release.delta)
