"""The clipped sum of a step's people, computed anew by plain autograd, person by person.

The definitions of clipping stand here a second time on purpose: what trains has no part in it.
One person's loss is the mean over the present records; its gradient is cut to the clip over all
parameters together; sums are in float64.

The run's own sum was computed in float32. How far it may honestly be from this one, in L2:

    addition   2^-24 (sqrt(n) + 16) times the sum of n people's lengths: the rounding of n
               additions, whose errors are as good as independent (Higham and Mary 2019, SIAM J.
               Sci. Comput. 41(5)), and of what is computed in blocks
    weights    what the sum moves by if each weight moves by 2^-18 of itself up and down: 64 times
               the rounding of a weight, so that what float32 does within the network is less, and
               a person who sits at a kink of the network is counted with what the kink moves
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lethe.attacks.run.steps import RunStep
from lethe.attacks.run.work import CALL, counted
from lethe.attacks.statistics import Counts, Floats
from lethe.core.errors import TrainingRefused
from lethe.data.batches import PersonData
from lethe.training.person_randomness import PersonRandomness, draws_at_random, part_of_people

LossFn = Callable[[Tensor, Tensor], Tensor]
Gradients = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], dict[str, Tensor]]

ROUNDING = 2.0**-24  # of float32
_MARGIN = 1.0 + 2.0**-20  # a clipped gradient is this much shorter than the clip
_NUDGE = 2.0**-18  # of each weight
_NEAR = 1e-3  # of the clip: a norm so near it may be counted either way
_VALUES_AT_ONCE = 1 << 21
_LOUD = 0.3  # noise, in clips, from which one person at a kink is nothing beside it
_NUDGED_SHARE = 8  # one person of so many is nudged where noise is loud
_COUNTED = 16  # people whose work is counted
_PASSES = 3  # of a sum: as it is, and moved up and down


@dataclass(frozen=True)
class StepSum:
    """The sum of a step's people, and how far the run's own may be from it.

    Attributes:
        total: float64 [coordinates], in the order of the model's parameters.
        person: the same of one of them alone, whoever it is.
        doubt: bound on the distance in L2 of what float32 makes of it.
        within: the least and the most that the count of people within the clip may be, less half
            of the people.
    """

    total: Floats
    person: Floats
    doubt: float
    within: tuple[float, float]


class PersonSums:
    """Sums of one model's steps; `model` is left as it was.

    Args:
        seed: public, of the plan: what the model draws for whom as it trains is made of it.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, data: PersonData, *, seed: int = 0
    ) -> None:
        self._model, self._loss_fn, self._data, self._seed = model, loss_fn, data, seed
        own = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
        self.trained, self.sizes = list(own), tuple(own.values())
        self._type = torch.float64
        self._vectorized = True
        self._at_random = False

    @property
    def coordinates(self) -> int:
        return sum(self.sizes)

    def known(self, step: RunStep) -> bool:
        """Whether the same people give the same sum: not where what a network draws is unknown.

        Settles also how gradients are computed: in float32 where the network takes nothing
        else, one by one where it cannot be vectorized.
        """
        few = np.arange(min(2, len(self._data)))
        self._at_random = len(few) > 0 and draws_at_random(self._model, self._data.features[0])
        weights = self._weights(step, 0.0)
        for kind, vectorized in (
            (torch.float64, True),
            (torch.float32, True),
            (torch.float64, False),
            (torch.float32, False),
        ):
            self._type, self._vectorized = kind, vectorized
            try:
                once, again = (self._sum(step, few, weights)[0] for _ in range(2))
            except TrainingRefused:
                return False
            except (RuntimeError, TypeError, ValueError):
                continue
            return bool(np.array_equal(once, again))
        raise RuntimeError("No person's gradient can be computed anew.")

    @property
    def _at_once(self) -> int:
        """People whose gradients are there at the same time."""
        record = int(self._data.features[:1].numel())
        return max(1, _VALUES_AT_ONCE // (self.coordinates + 4 * record + 1))

    def operations(self, step: RunStep) -> float:
        """How much work `of` is for one person of many, in operations (`work`)."""
        people = np.arange(min(_COUNTED, len(self._data)))
        found = counted(self._sum, step, people, self._weights(step, 0.0))
        count = max(1, len(people))
        # Of people who come together, the calls are as many as of a few.
        together = max(count, min(self._at_once, len(step.drawn))) if self._vectorized else count
        return (found.operations / count + CALL * found.calls / together) * _PASSES

    def of(self, step: RunStep, *, noise: float, random: np.random.Generator) -> StepSum:
        """The sum of the step's people.

        Args:
            noise: its standard deviation in clips: how exactly the doubt must be known.
            random: for the signs of what the weights are moved by.
        """
        people = step.drawn
        weights = self._weights(step, 0.0)
        total, norms = self._sum(step, people, weights)
        person, _ = self._sum(step, random.permutation(people)[:1], weights)
        nudged, times = people, 1
        if noise >= _LOUD and len(people) >= 64 * _NUDGED_SHARE:
            nudged, times = random.permutation(people)[::_NUDGED_SHARE], _NUDGED_SHARE
        still = total
        if times > 1:
            still = self._sum(step, nudged, weights)[0]
        signs = int(random.integers(2**31))
        moved = 0.0
        for size in (_NUDGE, -_NUDGE):
            there = self._sum(step, nudged, self._weights(step, size, signs))[0]
            moved += float(np.linalg.norm(there - still)) * times
        lengths = float(np.minimum(norms, step.clip_norm).sum())
        added = ROUNDING * (math.sqrt(len(people)) + 16) * lengths
        low = int((norms <= step.clip_norm * (1 - _NEAR)).sum())
        high = int((norms <= step.clip_norm * (1 + _NEAR)).sum())
        half = len(people) / 2
        return StepSum(total, person, moved + added, (low - half, high - half))

    def _weights(self, step: RunStep, nudge: float, signs: int = 0) -> dict[str, Tensor]:
        """Every parameter and buffer in the type of the sums, trained ones moved by `nudge`."""
        random = torch.Generator().manual_seed(signs)
        found: dict[str, Tensor] = {}
        for name, value in [*self._model.named_parameters(), *self._model.named_buffers()]:
            kept = step.weights.get(name, value).detach()
            if kept.is_floating_point():
                kept = kept.to(self._type)
            if nudge and name in self.trained:
                sign = torch.randint(2, kept.shape, generator=random) * 2 - 1
                kept = kept * (1 + nudge * sign.to(kept.dtype))
            found[name] = kept
        return found

    def _sum(
        self, step: RunStep, people: Counts, weights: Mapping[str, Tensor]
    ) -> tuple[Floats, Floats]:
        """Clipped sum float64 [coordinates], and everybody's norm [people] before clipping."""
        own = {name: weights[name] for name in self.trained}
        fixed = {name: value for name, value in weights.items() if name not in own}
        gradients = self._gradients(fixed)
        total = torch.zeros(self.coordinates, dtype=torch.float64)
        norms = [torch.zeros(0, dtype=torch.float64)]
        was_training = self._model.training
        self._model.train()
        try:
            for part in torch.from_numpy(people).split(self._at_once) if len(people) else ():
                features, mask, labels = self._data.batch(part)
                if labels.is_floating_point():
                    labels = labels.to(self._type)
                if features.is_floating_point():
                    features = features.to(self._type)
                with self._drawing(step, part):
                    found = gradients(own, features, mask, labels)
                rows = torch.cat([found[n].flatten(1).double() for n in self.trained], dim=1)
                norms.append(rows.norm(dim=1))
                longest = (norms[-1] * _MARGIN).clamp_min(torch.finfo(torch.float32).tiny)
                total += (step.clip_norm / longest).clamp_max(1.0) @ rows
        finally:
            self._model.train(was_training)
        return total.numpy(), torch.cat(norms).numpy()

    def _drawing(self, step: RunStep, part: Tensor) -> AbstractContextManager[object]:
        if not self._at_random:
            return nullcontext()
        return PersonRandomness(self._seed, step.number, self._data.tokens[part.numpy()])

    def _gradients(self, fixed: dict[str, Tensor]) -> Gradients:
        def loss(own: dict[str, Tensor], x: Tensor, present: Tensor, y: Tensor) -> Tensor:
            outputs = functional_call(self._model, {**fixed, **own}, (x,))
            losses = self._loss_fn(outputs, y).masked_fill(~present, 0.0)
            return losses.sum() / present.sum().clamp_min(1)

        one = grad(loss)
        if self._vectorized:
            how = "different" if self._at_random else "error"
            vectorized: Gradients = vmap(one, in_dims=(None, 0, 0, 0), randomness=how)
            return vectorized

        def one_by_one(own: dict[str, Tensor], *people: Tensor) -> dict[str, Tensor]:
            each = []
            for at, person in enumerate(zip(*people, strict=True)):
                with part_of_people(slice(at, at + 1)):
                    each.append(one(own, *person))
            return {name: torch.stack([found[name] for found in each]) for name in own}

        return one_by_one
