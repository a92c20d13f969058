"""Canaries in a twin of the plan: whole trainings of made-up people, each put in by a coin.

The worst case that a clip allows: a canary has a direction of the gradient all to itself, and
its clipped gradient is exactly the clip in it. Where the coin leaves it out, its direction shows
a training without it. Two adversaries look:

    steps    sees every noisy sum. A canary's score is the exact privacy loss of the plan's steps
             at what is seen in its direction, with each step's noise as wide as it is found to be
    model    sees the released model alone, made by the declared optimizer; the score is the
             canary's loss, with the sign turned

Under a sound mechanism directions share nothing: each is drawn and noised by itself. So one
training has as many trials as canaries, and the bounds of `tradeoff` hold with their confidence;
that trainings differ in the noise that was measured makes counts vary less, not more (Hoeffding
1956, Ann. Math. Statist. 27(3)). The bound of `one_run` holds whatever directions share.

The trainings run through the code that trains, on nobody's data, under fresh keys. Nothing of a
person is in what they release, so they cost no budget, and what they measure may be shown.
"""

import math
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from pyroaring import BitMap

from lethe.attacks import adaptive, replay
from lethe.attacks.one_run import Guessed, best_bound
from lethe.attacks.statistics import ALPHA, Check, Floats
from lethe.attacks.tradeoff import Bounded, bounded
from lethe.config.training import Optimizer
from lethe.data.batches import PersonData
from lethe.privacy.accounting import epsilon_pld
from lethe.privacy.plan import Plan
from lethe.training import loop
from lethe.training.engines.contract import trainable_parameters
from lethe.training.parallel import Admission

MOST_STEPS = 20_000  # of a twin: beyond it, a shorter training is one that costs no more
_MOST_VALUES = 4_000_000  # of a training: steps times canaries
_MOST_TAKEN = 10_000  # steps of one adversary's trainings together
_LEAST_CANARIES = 128  # or a coin may put in nobody
_SPARE = 128  # directions by which each step's noise is measured
_RECORDS = 4  # of a canary with many
_LOUDEST = 1e3  # length of a record, in clips
_LEAST_NOISE = 1e-3  # in clips: of a step that is found to have none
# A canary with one record, and one with many: what treats them unlike shows.
KINDS = ("one_record", "many_records")
VIEWS = ("steps", "model")
# At the plan's delta, guesses refute nothing with the confidence of an audit: what happens with
# probability delta may show everything. The plan has an epsilon at each delta.
STRICT_DELTA = 1e-12


@dataclass(frozen=True)
class Twin:
    """Of which plan trainings are run, by what, and how wide.

    Attributes:
        optimizer: as declared; it makes the model that the second adversary sees.
        engine: that computed the run's gradients.
        canaries: coins in each training, half of each kind.
        runs: trainings for each of the two adversaries.
    """

    plan: Plan
    optimizer: Optimizer
    engine: str
    canaries: int
    runs: int

    @classmethod
    def of(cls, plan: Plan, optimizer: Optimizer, *, engine: str = "auto", trials: int) -> "Twin":
        """So many coins for each adversary, in as few trainings as memory allows.

        Of a plan with more than `MOST_STEPS` steps, the first of them are trained: what they
        show is shown by all of them, too. There are fewer coins where they would take more than
        10,000 steps, but for a single training.
        """
        short = replace(plan, steps=min(plan.steps, MOST_STEPS))
        width = int(np.clip(_MOST_VALUES // short.steps, _LEAST_CANARIES, 2048))
        width = min(width, max(_LEAST_CANARIES, 2 * math.ceil(trials / 2)))
        runs = min(math.ceil(trials / width), max(1, _MOST_TAKEN // short.steps))
        return cls(short, optimizer, engine, width, runs)


@dataclass(frozen=True)
class Scores:
    """Of one kind of canary: a score and a coin each, in random order."""

    scores: Floats
    included: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What one adversary learned of one kind of canary.

    Attributes:
        rates: bounds from how often canaries are found and missed.
        guessed: the bound of one run at 95 % and the plan's delta; to be looked at.
        refuted: that bound at the confidence of an audit, at `STRICT_DELTA`.
    """

    rates: Bounded
    guessed: Guessed
    refuted: Guessed

    @classmethod
    def of(cls, parts: Sequence[Scores], plan: Plan, *, alpha: float) -> "Measured":
        scores = np.concatenate([each.scores for each in parts])
        included = np.concatenate([each.included for each in parts])
        return cls(
            bounded(scores[included], scores[~included], plan, alpha=alpha),
            best_bound(scores, included, delta=plan.delta, alpha=0.05),
            best_bound(scores, included, delta=STRICT_DELTA, alpha=alpha),
        )


def measured(twin: Twin, *, alpha: float = ALPHA) -> dict[str, Measured]:
    """By view and kind, such as `steps.one_record`; every bound at confidence 1 - `alpha`."""
    found: dict[str, list[Scores]] = {}
    with replay.one_thread():
        for _ in range(twin.runs):
            for view, score in (("steps", _steps_scores), ("model", _model_scores)):
                for kind, scores in score(twin).items():
                    found.setdefault(f"{view}.{kind}", []).append(scores)
    return {name: Measured.of(parts, twin.plan, alpha=alpha) for name, parts in found.items()}


def checks(found: Mapping[str, Measured], plan: Plan, *, claimed: float) -> list[Check]:
    """Three checks for each: the claim by its definition, the plan by its trade-off, and the
    coins of all canaries together.

    Args:
        claimed: epsilon at the plan's delta; never below the true one of a sound mechanism.
    """
    strict = epsilon_pld([plan.event], STRICT_DELTA)
    made = []
    for name, each in found.items():
        rates = each.rates
        for of, value, limit, meaning in (
            (
                "epsilon",
                rates.epsilon,
                claimed,
                "no canary is found more often than the claimed epsilon allows",
            ),
            (
                "tradeoff",
                rates.allowed,
                rates.rates.misses,
                "canaries are missed as often as the plan's noise and sampling make sure",
            ),
            (
                "coins",
                each.refuted.epsilon,
                strict,
                "of all coins together no more are guessed than the plan allows",
            ),
        ):
            passed, rate = bool(value <= limit), 1 - rates.confidence
            made.append(
                Check(f"canaries.{name}.{of}", passed, value, limit, rate, "at most", meaning)
            )
    return made


@dataclass(frozen=True)
class _People:
    """Made-up people, and which direction is whose.

    Attributes:
        data: whom the coins put in.
        directions: kind → [canaries / 2] directions.
        included: kind → [canaries / 2] coins.
        spare: directions of nobody, by which the noise of a step is measured.
    """

    data: PersonData
    directions: Mapping[str, npt.NDArray[np.int64]]
    included: Mapping[str, npt.NDArray[np.bool_]]
    spare: npt.NDArray[np.int64]
    width: int


def _people(plan: Plan, canaries: int) -> _People:
    """Canaries in random directions: the mechanism cannot know their layout."""
    half = canaries // 2
    width = 2 * half + _SPARE
    parts = np.split(np.random.default_rng().permutation(width), [half, 2 * half])
    coins = np.unpackbits(np.frombuffer(os.urandom(canaries), np.uint8))[: 2 * half].astype(bool)
    inside = np.flatnonzero(coins)
    records = min(plan.records_per_person, _RECORDS)
    features = torch.zeros(len(inside), records, width)
    mask = torch.zeros(len(inside), records, dtype=torch.bool)
    for number, canary in enumerate(inside.tolist()):
        count = 1 if canary < half else records
        features[number, :count, parts[canary // half][canary % half]] = _LOUDEST * plan.clip_norm
        mask[number, :count] = True
    labels = torch.from_numpy(np.random.default_rng().integers(0, 2, size=mask.shape)).float()
    data = PersonData(features, mask, labels, np.arange(len(inside), dtype=np.uint32))
    return _People(
        data,
        dict(zip(KINDS, parts[:2], strict=True)),
        dict(zip(KINDS, np.split(coins, 2), strict=True)),
        parts[2],
        width,
    )


def _steps_scores(twin: Twin) -> dict[str, Scores]:
    """The exact privacy loss of what every step released in each direction."""
    plan = adaptive.moving_clip(twin.plan, twin.plan.steps)
    people = _people(plan, twin.canaries)
    found = replay.released_sums(
        plan,
        people.data,
        replay.TwoHeads(people.width),
        replay.output_as_loss,
        steps=plan.steps,
        engine=twin.engine,
    )
    heads = [_centred(head / found.clips[:, None], people.spare) for head in found.tensors()]
    # A canary's gradient is the same in both heads; what is noised less counts for more.
    weights = [1 / np.square(noise) for _, noise in heads]
    whole = (weights[0] + weights[1])[:, None]
    seen = sum(w[:, None] * head for w, (head, _) in zip(weights, heads, strict=True)) / whole
    losses = _losses(seen * math.sqrt(2), np.sqrt(2 / whole), plan.sample_rate).sum(0)
    return _by_kind(people, losses)


def _centred(head: Floats, spare: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Each step less the noise that all directions share; and [steps] how much noise is left."""
    centred = head - head[:, spare].mean(1, keepdims=True)
    noise = np.sqrt(np.square(centred[:, spare]).mean(1))
    return centred, noise.clip(min=_LEAST_NOISE)


def _losses(seen: Floats, noise: Floats, rate: float) -> Floats:
    """log of how much more probable each value is with the canary; [steps, directions].

    Args:
        seen: in clips.
        noise: [steps, 1], standard deviations in clips.
    """
    exponent: Floats = (2 * seen - 1) / (2 * np.square(noise))
    if rate == 1:
        return exponent
    mixed: Floats = np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)
    return mixed


def _model_scores(twin: Twin) -> dict[str, Scores]:
    """How far the released weights went along each direction."""
    plan = adaptive.moving_clip(twin.plan, twin.plan.steps)
    plan = replace(plan, delta=min(plan.delta, 1e-9))  # which would refuse few people
    people = _people(plan, twin.canaries)
    model = replay.TwoHeads(people.width)
    before = deepcopy(model.state_dict())
    task = loop.Task(plan, people.data, model, replay.output_as_loss, twin.engine)
    trained = loop.train(
        task, Admission("replay", BitMap(people.data.tokens)), twin.optimizer, loop.Execution()
    ).model
    moved = [
        (before[name] - part.detach()).double().flatten().numpy()
        for name, part in trained.state_dict().items()
    ]
    if len(moved) != len(trainable_parameters(model)):
        raise ValueError("every part of the twin is trained")
    return _by_kind(people, moved[0] + moved[1])


def _by_kind(people: _People, scores: Floats) -> dict[str, Scores]:
    # Directions are in random order already, so that parts of them are alike.
    return {kind: Scores(scores[people.directions[kind]], people.included[kind]) for kind in KINDS}
