"""Is what runs the mechanism that the plan, and so the accounting, describes?

Four looks, all with fresh keys, through the code that trains:

    sampling   only who is drawn, over many draws: Poisson over everybody in the run
    clipping   single steps on the run's model and people, with and without one of them
    noise      what is added to a sum, on the run's model
    loop       whole trainings on made-up people, in `whole_training`

Each statistical test alarms on a sound mechanism with probability `statistics.ALPHA` at
most. What depends on real people (clipping) is a ratio to the clip and is not private.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from lethe.attacks import adaptive, replay
from lethe.attacks.attack import Attack, Target, register
from lethe.attacks.clipping import PEOPLE_AT_ONCE, StepOf, check_clipping, flat, variants
from lethe.attacks.statistics import (
    Check,
    Floats,
    at_most,
    binomial_p,
    holds,
    improbable,
    mean_p,
    pairwise_correlation_p,
    poisson_checks,
    shape_p,
    variance_p,
)
from lethe.attacks.whole_training import check_loop, check_refusals
from lethe.core.errors import LetheError
from lethe.data.batches import PersonData
from lethe.privacy.noise.sampling import Keystream
from lethe.privacy.plan import MECHANISM, Plan
from lethe.training import loop
from lethe.training.engines import choose
from lethe.training.engines.contract import LossFn

_GRID_VALUES = 4_096  # of a sum at least, to hold against the grid of discrete noise
_NOISE_VALUES = 60_000
_DRAWN_NUMBERS = 40_000_000


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
    processes: int = 1,
) -> list[Check]:
    """Every check of the mechanism; `data` is who trained, `model` what came out.

    Args:
        processes: over how many the run was trained; whole trainings are replayed so.

    What cannot be replayed is a failed check: nothing is known to hold there. The model
    is left as it was.
    """
    model = deepcopy(model).to(device).eval()

    def step_of(plan: Plan) -> loop.DpStep:
        shape = tuple(data.features.shape[2:])
        made = choose.make_engine(engine, model, loss_fn, record_shape=shape, classes=classes)
        return loop.DpStep(plan, model.eval(), made, Keystream.from_system())

    looks: dict[str, Callable[[], list[Check]]] = {
        "sampling": lambda: check_sampling(step_of, plan, len(data), random=random),
        "clipping": lambda: check_clipping(
            step_of, plan, data, loss_fn, replays=replays, random=random
        ),
        "noise": lambda: check_noise(step_of, plan, data),
        "loop": lambda: check_loop(
            plan,
            data,
            model,
            loss_fn,
            engine=engine,
            classes=classes,
            device=device,
            processes=processes,
            random=random,
        ),
        "refusal": lambda: check_refusals(plan),
    }
    if plan.adaptive is not None:
        looks["count"] = lambda: adaptive.check_count(
            step_of(plan), data, loss_fn, people_like=variants, replays=replays, random=random
        )
    found: list[Check] = []
    for name, look in looks.items():
        try:
            with replay.one_thread():
                found += look()
        except (LetheError, RuntimeError, ValueError, IndexError) as error:
            meaning = f"the code that trains can be replayed; it ended with {type(error).__name__}"
            found.append(holds(f"{name}.replay", False, meaning=meaning))
    return found


@register
class MechanismReplay(Attack):
    """The code that trains, replayed on the run's model and people with fresh keys."""

    name = "mechanism"
    covers = ("sampling", "clipping", "noise", "loop", "refusal", "count")
    mechanisms = (MECHANISM,)

    def run(self, target: Target) -> list[Check]:
        plan = target.plan
        if not isinstance(plan, Plan):
            meaning = "what says that it is DP-SGD has a plan of DP-SGD"
            return [holds("loop.replay", False, meaning=meaning)]
        return check_mechanism(
            plan,
            target.data,
            target.model,
            target.loss_fn,
            engine=str(target.report.get("engine")),
            classes=target.encoder.outputs,
            replays=target.declared.replays,
            random=np.random.default_rng(),  # from the operating system's randomness
            device=target.device,
            processes=int(target.report.get("processes", 1)),
        )


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
        *poisson_checks("sampling", counts, totals, overlaps, plan.sample_rate, random),
        improbable(
            "sampling.fresh_keys",
            1.0
            if plan.sample_rate == 1
            else binomial_p(len(one & other), people, plan.sample_rate**2),
            meaning="two runs draw independently of each other",
        ),
    ]


def check_noise(step_of: StepOf, plan: Plan, data: PersonData) -> list[Check]:
    """Adds noise to sums of nobody, of few and of many of the run's people."""
    step, second = step_of(plan), step_of(plan)
    device = next(step.model.parameters()).device
    zeros = step.zeros()
    shapes = replay.gradients(plan, zeros)
    coordinates = sum(z.numel() for z in shapes)
    draws = int(np.clip(math.ceil(_NOISE_VALUES / coordinates), 4, 4000))
    scale = replay.noise_scale(plan, coordinates)
    rows = np.array([_noise(step, zeros, scale) for _ in range(draws)])
    other = _noise(second, zeros, scale)
    sizes = {
        count: step.clipped_sum(*data.batch(torch.arange(min(count, len(data))), device))
        for count in (1, 16, PEOPLE_AT_ONCE)
    }
    by_size = [
        variance_p(np.array([_noise(step, sums, scale) for _ in range(max(4, draws // 4))]).ravel())
        for sums in sizes.values()
    ]
    ends = np.cumsum([min(z.numel(), _NOISE_VALUES) for z in shapes])[:-1]
    by_tensor = [variance_p(part.ravel()) for part in np.split(rows, ends, axis=1)]
    few = np.concatenate([rows[:40], other[None]])
    # One value in a hundred is small enough for float32 to show what lies beside the grid.
    releases = math.ceil(_GRID_VALUES / coordinates)
    grid = [step.noisy(sums) for sums in (zeros, *sizes.values()) for _ in range(releases)]
    grid.append(second.noisy(zeros))
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
        *(_grid_checks(grid, scale / 2**24) if plan.noise == "discrete" else []),
    ]


def _grid_checks(released: Sequence[Sequence[Tensor]], step: float) -> list[Check]:
    """Discrete noise: is everything a whole number of the one step that the plan's fields give?

    A float32 shows it within half a standard deviation, where it is finer than the grid.
    """
    values = np.concatenate([flat(tensors).float().numpy() for tensors in released])
    exact = values.astype(np.float64)
    away = np.abs(exact - np.round(exact / step) * step)
    # What float32 takes off; and the step is known to 2^-40 of itself.
    allowed = np.spacing(np.abs(values)) * (0.5 + 1e-6) + np.abs(exact) * 2.0**-38
    return [
        at_most(
            "noise.grid",
            int((~(away <= allowed)).sum()),
            0,
            meaning="what is released lies on the plan's public grid, whatever the data",
        )
    ]


def _noise(step: loop.DpStep, sums: Sequence[Tensor], scale: float) -> Floats:
    """(noisy - exact) / scale of each coordinate, of very large tensors the first ones."""
    noisy, exact = (replay.gradients(step.plan, part) for part in (step.noisy(sums), sums))
    parts = [
        (n.double() - s.double()).flatten()[:_NOISE_VALUES]
        for n, s in zip(noisy, exact, strict=True)
    ]
    values: Floats = torch.cat(parts).cpu().numpy() / scale
    return values


def _repeats(values: Floats) -> int:
    """How many runs of three values were there before; by chance one in 2^69 pairs of runs."""
    runs = np.lib.stride_tricks.sliding_window_view(values.astype(np.float32), 3)
    return len(runs) - len(np.unique(np.ascontiguousarray(runs).view("V12")))
