"""Whole trainings on made-up people, read off what each of their steps releases.

What no look at a single step shows shows here: what a sum is divided by, whether a step is
taken at all, whether noise is added once, and what `train` refuses to begin.
"""

import math
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
from pyroaring import BitMap
from torch import nn

from lethe.attacks import adaptive, replay
from lethe.attacks.statistics import (
    Check,
    Floats,
    at_most,
    holds,
    improbable,
    mean_p,
    pairwise_correlation_p,
    poisson_checks,
    shape_p,
    variance_p,
)
from lethe.core.errors import TrainingRefused
from lethe.data.batches import PersonData
from lethe.privacy.plan import Plan
from lethe.training.engines.contract import LossFn, trainable_parameters

SHARE_TOLERANCE = 0.1  # of a share; quiet noise stays within it by 35 standard deviations
_MOST_RECORDS = 16  # of a made-up person
_TOGETHER = 10  # made-up people: fewer than are drawn, so that a step has several parts


def check_loop(
    plan: Plan,
    data: PersonData,
    model: nn.Module,
    loss_fn: LossFn,
    *,
    engine: str,
    classes: int,
    device: str,
    processes: int,
    random: np.random.Generator,
) -> list[Check]:
    """Whole trainings: with next to no noise, with the plan's noise, and on the run's model."""
    quiet = partial(_quiet_checks, plan, processes=processes, random=random)
    crowd, counted = quiet("loop.crowd", people=128, steps=192)
    lonely, alone = quiet("loop.lonely", people=1, steps=128)
    loud = _loud_checks(plan, processes=processes)
    # Few of the run's people, with nothing in their places: only noise can come out.
    own = replay.released_sums(
        plan,
        replay.without_records(replay.first(data, 64)),
        deepcopy(model),
        loss_fn,
        steps=4,
        engine=engine,
        classes=classes,
        device=device,
        processes=processes,
    )
    coordinates = sum(p.numel() for p in trainable_parameters(model))
    scale = replay.noise_scale(plan, coordinates) * own.clips[:, None] / plan.clip_norm
    tensors = [variance_p((part / scale).ravel()) for part in own.tensors()]
    return [
        *crowd,
        *lonely,
        *loud,
        improbable(
            "loop.own_model",
            [*tensors, pairwise_correlation_p(own.sums / scale)] if len(own.sums) else [0.0],
            meaning="every layer of the run's model gets the plan's noise in every step",
        ),
        *([] if plan.adaptive is None else [adaptive.check_clip_moves([counted, alone])]),
    ]


def _quiet_checks(
    plan: Plan, name: str, *, people: int, steps: int, processes: int, random: np.random.Generator
) -> tuple[list[Check], Floats]:
    """Reads off who was drawn how often in each step, and what a share was divided by.

    Beside the checks: the noise of the counts that moved an adaptive clip, in its unit.
    """
    # So low a rate would draw nobody in a replay that ends; the run's own is checked above.
    rate = max(plan.sample_rate, 1 / 64)
    quiet = replace(plan, noise_multiplier=replay.QUIET, sample_rate=rate)
    quiet = adaptive.moving_clip(quiet, steps)
    records = min(plan.records_per_person, _MOST_RECORDS)
    made, lengths = replay.made_up_people(
        people, records=records, clip_norm=plan.clip_norm, spare=16
    )
    width = people + 16
    found = replay.released_sums(
        quiet,
        made,
        replay.TwoHeads(width),
        replay.output_as_loss,
        steps=steps,
        physical_batch=_TOGETHER,
        processes=processes,
    )
    taken = len(found.sums)
    left, right = found.tensors()
    # Whoever is not at the first clip's full length is not cut by a clip that moved, either.
    shares = np.where(lengths < plan.clip_norm, lengths, found.clips[:, None])
    heads = np.stack([left[:, :people], right[:, :people]]) * math.sqrt(2) / shares
    whole = np.round(heads)
    drawn = whole[0].astype(np.int64).clip(0, None)
    overlaps = (drawn[0 : taken - 1 : 2] * drawn[1::2]).sum(1)
    silent = int((np.abs(found.sums[:, people:width]).max(1, initial=0.0) == 0).sum())
    within = (drawn * np.where(lengths < plan.clip_norm, 0.5, -0.5)).sum(1)
    counted = adaptive.count_noise(quiet, found.clips, within)
    checks = [
        holds(
            f"{name}.steps",
            taken == steps == found.trained.steps and silent == 0,
            meaning="every step is taken and has noise, also one that draws nobody",
        ),
        at_most(
            f"{name}.shares",
            float(np.abs(heads - whole).max(initial=0.0)) if taken else math.inf,
            SHARE_TOLERANCE,
            meaning="a person's share is clipped as a whole and divided by the expected batch",
        ),
        at_most(
            f"{name}.nobody_twice",
            float(np.abs(whole).max(initial=0.0)),
            1,
            meaning="nobody counts more than once in a step",
        ),
        *poisson_checks(name, drawn.sum(1), drawn.sum(0), overlaps, rate, random),
    ]
    return checks, counted


def _loud_checks(plan: Plan, *, processes: int) -> list[Check]:
    """The plan's own noise, for two numbers of people, in coordinates in which no person is.

    One of them comes twice: two runs under one key would be alike.
    """
    steps, spare = 40, 256
    records = min(plan.records_per_person, _MOST_RECORDS)
    moving_clip = adaptive.moving_clip(plan, steps)
    runs = []
    for people in (1, 1, 256):
        made, _ = replay.made_up_people(
            people, records=records, clip_norm=plan.clip_norm, spare=spare
        )
        found = replay.released_sums(
            moving_clip,
            made,
            replay.TwoHeads(people + spare),
            replay.output_as_loss,
            steps=steps,
            physical_batch=_TOGETHER,
            processes=processes,
        )
        scale = replay.noise_scale(plan, 2 * (people + spare)) * found.clips[:, None]
        scale = scale / plan.clip_norm
        runs.append([head[:, people:] / scale for head in found.tensors()])
    every = [np.concatenate(heads, axis=1).ravel() for heads in runs]
    rows = np.concatenate([head for heads in runs for head in heads])
    return [
        improbable(
            "loop.noise_scale",
            [p for values in every for p in (variance_p(values), mean_p(values), shape_p(values))],
            meaning="each step releases the plan's noise, whoever was drawn",
        ),
        improbable(
            "loop.noise_in_each_step",
            [variance_p(row) for row in rows],
            meaning="no step has less noise than another",
        ),
        improbable(
            "loop.noise_independent",
            pairwise_correlation_p(rows),
            meaning="no two steps, layers or runs share noise",
        ),
    ]


def check_refusals(plan: Plan) -> list[Check]:
    """Trainings that the guarantee does not cover, on made-up people: each must be refused."""
    records = plan.records_per_person
    made, _ = replay.made_up_people(4, records=records, clip_norm=plan.clip_norm, spare=4)
    wide, _ = replay.made_up_people(4, records=records + 1, clip_norm=plan.clip_norm, spare=4)
    same = PersonData(made.features, made.mask, made.labels, np.zeros(4, dtype=np.uint32))
    asked: dict[str, tuple[PersonData, replay.Admission, str]] = {
        "unreserved": (
            made,
            replay.Admission("replay", BitMap(made.tokens[:-1])),
            "nobody trains for whom no budget is reserved",
        ),
        "place_twice": (
            same,
            replay.Admission("replay", BitMap(same.tokens)),
            "nobody has two places",
        ),
        "too_many_records": (
            wide,
            replay.Admission("replay", BitMap(wide.tokens)),
            "nobody brings more records than the plan allows",
        ),
    }
    return [
        holds(f"refusal.{name}", _refused(plan, people, admission), meaning=meaning)
        for name, (people, admission, meaning) in asked.items()
    ]


def _refused(plan: Plan, people: PersonData, admission: replay.Admission) -> bool:
    try:
        replay.released_sums(
            plan,
            people,
            replay.TwoHeads(people.features.shape[2]),
            replay.output_as_loss,
            steps=1,
            admission=admission,
        )
    except TrainingRefused:
        return True
    return False
