"""Is what runs the mechanism that the plan, and so the accounting, describes?

Four looks, all with fresh keys, through the code that trains:

    sampling   only who is drawn, over many draws: Poisson over everybody in the run
    clipping   single steps on the run's model and people, with and without one of them
    noise      what is added to a sum, on the run's model
    loop       whole trainings on made-up people, read off their released steps

Each statistical test alarms on a sound mechanism with probability `statistics.ALPHA` at
most. What depends on real people (clipping) is a ratio to the clip and is not private.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from pyroaring import BitMap
from torch import Tensor, nn

from pipeline.attacks import replay
from pipeline.attacks.statistics import (
    Check,
    Floats,
    at_most,
    binomial_p,
    holds,
    improbable,
    mean_p,
    normal_scores,
    pairwise_correlation_p,
    shape_p,
    variance_p,
)
from pipeline.errors import LetheError, TrainingRefused
from pipeline.training import clipping, loop
from pipeline.training.batches import PersonData
from pipeline.training.contract import LossFn, trainable_parameters, zero_sums
from pipeline.training.plan import Plan
from pipeline.training.sampling import Keystream

CLIP_TOLERANCE = 1e-4  # of the clip: float32 sums of a few hundred people
REFERENCE_TOLERANCE = 1e-3  # of the clip: another order of the same float32 operations
SHARE_TOLERANCE = 0.1  # of a share; quiet noise stays within it by 35 standard deviations
_PEOPLE_AT_ONCE = 512
_REFERENCE_PEOPLE = 24
_NOISE_VALUES = 60_000
_DRAWN_NUMBERS = 40_000_000
_MOST_RECORDS = 16  # of a made-up person
_TOGETHER = 10  # made-up people: fewer than are drawn, so that a step has several parts


def check_mechanism(
    plan: Plan,
    data: PersonData,
    model: nn.Module,
    loss_fn: LossFn,
    *,
    engine: str,
    classes: int,
    replays: int,
    random: np.random.Generator,
    device: str = "cpu",
) -> list[Check]:
    """Every check of the mechanism; `data` is who trained, `model` what came out.

    What cannot be replayed is a failed check: nothing is known to hold there. The model
    is left as it was.
    """
    model = deepcopy(model).to(device).eval()

    def step_of(plan: Plan) -> loop.DpStep:
        shape = tuple(data.features.shape[2:])
        made = clipping.make_engine(engine, model, loss_fn, record_shape=shape, classes=classes)
        return loop.DpStep(plan, model.eval(), made, Keystream.from_system())

    looks: dict[str, Callable[[], list[Check]]] = {
        "sampling": lambda: check_sampling(step_of, plan, len(data), random=random),
        "clipping": lambda: check_clipping(
            step_of, plan, data, loss_fn, replays=replays, random=random
        ),
        "noise": lambda: check_noise(step_of, plan, data),
        "loop": lambda: check_loop(
            plan, data, model, loss_fn, engine=engine, classes=classes, device=device, random=random
        ),
        "refusal": lambda: check_refusals(plan),
    }
    found: list[Check] = []
    for name, look in looks.items():
        try:
            with replay.one_thread():
                found += look()
        except (LetheError, RuntimeError, ValueError, IndexError) as error:
            meaning = f"the code that trains can be replayed; it ended with {type(error).__name__}"
            found.append(holds(f"{name}.replay", False, meaning=meaning))
    return found


StepOf = Callable[[Plan], loop.DpStep]


def check_sampling(
    step_of: StepOf, plan: Plan, people: int, *, random: np.random.Generator
) -> list[Check]:
    """Draws again and again among as many people as trained; looks at positions alone."""
    draws = int(np.clip(_DRAWN_NUMBERS // max(1, people), 200, 2000))
    step = step_of(plan)
    counts = np.zeros(draws, dtype=np.int64)
    totals = np.zeros(people, dtype=np.int64)
    overlaps = np.zeros(draws // 2, dtype=np.int64)
    twice = outside = 0
    earlier = np.zeros(people, dtype=bool)
    for number in range(draws):
        drawn = step.draw(people)
        counts[number] = len(drawn)
        known = drawn[(drawn >= 0) & (drawn < people)]
        outside += len(drawn) - len(known)
        np.add.at(totals, known, 1)
        here = np.zeros(people, dtype=bool)
        here[known] = True
        twice += len(known) - int(here.sum())
        if number % 2:
            overlaps[number // 2] = int((here & earlier).sum())
        earlier = here
    one, other = (set(step_of(plan).draw(people).tolist()) for _ in range(2))
    return [
        at_most("sampling.nobody_twice", twice, 0, meaning="nobody is twice in one draw"),
        at_most("sampling.known", outside, 0, meaning="only people of the run are drawn"),
        *_poisson_checks("sampling", counts, totals, overlaps, plan.sample_rate, random),
        improbable(
            "sampling.fresh_keys",
            1.0
            if plan.sample_rate == 1
            else binomial_p(len(one & other), people, plan.sample_rate**2),
            meaning="two runs draw independently of each other",
        ),
    ]


def _poisson_checks(
    name: str,
    counts: npt.NDArray[np.int64],
    totals: npt.NDArray[np.int64],
    overlaps: npt.NDArray[np.int64],
    rate: float,
    random: np.random.Generator,
) -> list[Check]:
    """Each person in each draw by a coin of its own.

    Shapes: counts [draws] of people, totals [people] of draws, overlaps [draws // 2] of
        people who are in both of two draws in a row.
    """
    draws, people = len(counts), len(totals)
    sizes = normal_scores(counts, people, rate, random=random)
    shares = normal_scores(totals, draws, rate, random=random)
    common = normal_scores(overlaps, people, rate**2, random=random)
    return [
        improbable(
            f"{name}.rate",
            binomial_p(int(counts.sum()), draws * people, rate),
            meaning="people are drawn as often as the plan says",
        ),
        improbable(
            f"{name}.sizes",
            [variance_p(sizes), shape_p(sizes)],
            meaning="the number drawn is binomial; a shuffled epoch's never varies",
        ),
        improbable(
            f"{name}.people",
            [variance_p(shares), shape_p(shares)],
            meaning="everybody is drawn at the same rate, and no more evenly than by chance",
        ),
        improbable(
            f"{name}.independent",
            [mean_p(common), binomial_p(int(overlaps.sum()), len(overlaps) * people, rate**2)],
            meaning="who was drawn before is drawn again as often as anybody",
        ),
    ]


def check_clipping(
    step_of: StepOf,
    plan: Plan,
    data: PersonData,
    loss_fn: LossFn,
    *,
    replays: int,
    random: np.random.Generator,
) -> list[Check]:
    """Steps of the run's own people, with and without one of them, and against plain autograd.

    That one is a person as they are, one whose only record stands in all K places, and one
    with records far outside the domain.
    """
    tight = replace(plan, clip_norm=plan.clip_norm * 1e-3)
    moved, alone, apart, repeated = 0.0, 0.0, 0.0, 0.0
    for clip_plan in (plan, tight):
        step, clip = step_of(clip_plan), clip_plan.clip_norm
        device = next(step.model.parameters()).device
        for _ in range(replays):
            drawn = torch.from_numpy(random.permutation(step.draw(len(data)))[:_PEOPLE_AT_ONCE])
            others = data.batch(drawn, device)
            person = data.batch(torch.from_numpy(random.integers(len(data), size=1)), device)
            without = _flat(step.clipped_sum(*others))
            for one in _variants(person, step.model):
                both = [torch.cat(pair) for pair in zip(others, one, strict=True)]
                shift = _flat(step.clipped_sum(*both)) - without
                own = _flat(step.clipped_sum(*one))
                expected, norm = _reference(step.model, loss_fn, one, clip)
                moved = _worse(moved, _length(shift) / clip)
                apart = _worse(apart, _length(own - expected) / clip)
                if norm > clip:
                    alone = _worse(alone, abs(_length(own) / clip - 1))
            once = _flat(step.clipped_sum(*(t[:, :1] for t in person)))
            full = _flat(step.clipped_sum(*_in_all_places(person)))
            repeated = _worse(repeated, _length(full - once) / clip)
            few = tuple(t[:_REFERENCE_PEOPLE] for t in others)
            expected, _ = _reference(step.model, loss_fn, few, clip)
            error = _length(_flat(step.clipped_sum(*few)) - expected)
            apart = _worse(apart, error / clip / max(1.0, math.sqrt(len(few[0]))))
    return [
        at_most(
            "clipping.sensitivity",
            moved,
            1 + CLIP_TOLERANCE,
            meaning="one person moves the sum by the clip at most (in clips)",
        ),
        at_most(
            "clipping.full_length",
            alone,
            CLIP_TOLERANCE,
            meaning="a person beyond the clip is cut to it exactly (relative error)",
        ),
        at_most(
            "clipping.per_person",
            apart,
            REFERENCE_TOLERANCE,
            meaning="the sum is that of each person's own clipped gradient (error in clips)",
        ),
        at_most(
            "clipping.records_count_once",
            repeated,
            CLIP_TOLERANCE,
            meaning="a record that stands in all K places counts as once (error in clips)",
        ),
    ]


Batch = tuple[Tensor, Tensor, Tensor]


def _in_all_places(person: Batch) -> Batch:
    """The person's first record in each of the K places."""
    features, mask, labels = person
    places = mask.shape[1]
    shape = [1, places, *([1] * (features.ndim - 2))]
    return features[:, :1].repeat(shape), mask[:, :1].repeat(1, places), labels[:, :1].repeat(
        1, places
    )  # fmt: skip


def _variants(person: Batch, model: nn.Module) -> list[Batch]:
    features, mask, labels = person
    found = [person, _in_all_places(person)]
    # Where records are row numbers of a table, far outside the domain is outside the table.
    if not any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules()):
        for label in (labels, torch.zeros_like(labels), torch.ones_like(labels)):
            found.append((features * 1e4, torch.ones_like(mask), label))
    return found


def _reference(
    model: nn.Module, loss_fn: LossFn, people: Sequence[Tensor], clip: float
) -> tuple[Tensor, float]:
    """The clipped sum by plain autograd, person by person, and the longest gradient.

    On purpose none of the training's own code: what is shared would be wrong in both.
    """
    parameters = trainable_parameters(model)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    longest = 0.0
    for features, mask, labels in zip(*people, strict=True):
        if not mask.any():
            continue
        loss = loss_fn(model(features[mask]), labels[mask]).mean()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        own = _flat(
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, found, strict=True)
            ]
        )
        norm = _length(own)
        longest = max(longest, norm)
        total += own * min(1.0, clip / norm) if norm > 0 else 0.0
    return total, longest


def check_noise(step_of: StepOf, plan: Plan, data: PersonData) -> list[Check]:
    """Adds noise to sums of nobody, of few and of many of the run's people."""
    step, second = step_of(plan), step_of(plan)
    device = next(step.model.parameters()).device
    zeros = zero_sums(step.model)
    coordinates = sum(z.numel() for z in zeros)
    draws = int(np.clip(math.ceil(_NOISE_VALUES / coordinates), 4, 4000))
    scale = plan.noise_multiplier * plan.clip_norm
    rows = np.array([_noise(step, zeros, scale) for _ in range(draws)])
    other = _noise(second, zeros, scale)
    sizes = {
        count: step.clipped_sum(*data.batch(torch.arange(min(count, len(data))), device))
        for count in (1, 16, _PEOPLE_AT_ONCE)
    }
    by_size = [
        variance_p(np.array([_noise(step, sums, scale) for _ in range(max(4, draws // 4))]).ravel())
        for sums in sizes.values()
    ]
    ends = np.cumsum([min(z.numel(), _NOISE_VALUES) for z in zeros])[:-1]
    by_tensor = [variance_p(part.ravel()) for part in np.split(rows, ends, axis=1)]
    few = np.concatenate([rows[:40], other[None]])
    columns = rows[:, np.linspace(0, rows.shape[1] - 1, min(rows.shape[1], 200)).astype(int)].T
    every = rows.ravel()
    return [
        improbable(
            "noise.scale",
            [variance_p(every), mean_p(every), *by_tensor],
            meaning="noise has the variance of the plan in every layer, and mean 0",
        ),
        improbable("noise.shape", shape_p(every), meaning="noise is normal"),
        improbable(
            "noise.any_batch", by_size, meaning="noise is the same however many people were drawn"
        ),
        improbable(
            "noise.independent",
            [pairwise_correlation_p(few), pairwise_correlation_p(columns)],
            meaning="no two draws, no two coordinates and no two runs share noise",
        ),
        at_most(
            "noise.no_repeats",
            _repeats(np.concatenate([every, other])),
            0,
            meaning="no three noise values in a row come twice",
        ),
    ]


def _noise(step: loop.DpStep, sums: Sequence[Tensor], scale: float) -> Floats:
    """(noisy - exact) / scale of each coordinate, of very large tensors the first ones."""
    noisy = step.noisy(sums)
    parts = [
        (n.double() - s.double()).flatten()[:_NOISE_VALUES]
        for n, s in zip(noisy, sums, strict=True)
    ]
    values: Floats = torch.cat(parts).cpu().numpy() / scale
    return values


def _repeats(values: Floats) -> int:
    """How many runs of three values were there before; by chance one in 2^69 pairs of runs."""
    runs = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), 3)
    return len(runs) - len(np.unique(np.ascontiguousarray(runs).view("V12")))


def check_loop(
    plan: Plan,
    data: PersonData,
    model: nn.Module,
    loss_fn: LossFn,
    *,
    engine: str,
    classes: int,
    device: str,
    random: np.random.Generator,
) -> list[Check]:
    """Whole trainings: with next to no noise, with the plan's noise, and on the run's model."""
    crowd = _quiet_checks(plan, "loop.crowd", people=128, steps=192, random=random)
    lonely = _quiet_checks(plan, "loop.lonely", people=1, steps=128, random=random)
    loud = _loud_checks(plan)
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
    )
    scale = plan.noise_multiplier * plan.clip_norm
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
    ]


def _quiet_checks(
    plan: Plan, name: str, *, people: int, steps: int, random: np.random.Generator
) -> list[Check]:
    """Reads off who was drawn how often in each step, and what a share was divided by."""
    # So low a rate would draw nobody in a replay that ends; the run's own is checked above.
    rate = max(plan.sample_rate, 1 / 64)
    quiet = replace(plan, noise_multiplier=replay.QUIET, sample_rate=rate)
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
    )
    taken = len(found.sums)
    left, right = found.tensors()
    heads = np.stack([left[:, :people], right[:, :people]]) * math.sqrt(2) / lengths
    whole = np.round(heads)
    drawn = whole[0].astype(np.int64).clip(0, None)
    overlaps = (drawn[0 : taken - 1 : 2] * drawn[1::2]).sum(1)
    silent = int((np.abs(found.sums[:, people:width]).max(1, initial=0.0) == 0).sum())
    return [
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
        *_poisson_checks(name, drawn.sum(1), drawn.sum(0), overlaps, rate, random),
    ]


def _loud_checks(plan: Plan) -> list[Check]:
    """The plan's own noise, for two numbers of people, in coordinates that are nobody's.

    One of them comes twice: two runs under one key would be alike.
    """
    steps, spare = 40, 256
    records = min(plan.records_per_person, _MOST_RECORDS)
    scale = plan.noise_multiplier * plan.clip_norm
    runs = []
    for people in (1, 1, 256):
        made, _ = replay.made_up_people(
            people, records=records, clip_norm=plan.clip_norm, spare=spare
        )
        found = replay.released_sums(
            plan,
            made,
            replay.TwoHeads(people + spare),
            replay.output_as_loss,
            steps=steps,
            physical_batch=_TOGETHER,
        )
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


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).cpu().double()


def _length(flat: Tensor) -> float:
    return float(flat.norm())


def _worse(one: float, other: float) -> float:
    """The larger of two errors; NaN is the largest."""
    return math.inf if math.isnan(other) else max(one, other)
