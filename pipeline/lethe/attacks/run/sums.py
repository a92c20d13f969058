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
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lethe.attacks.run.steps import RunStep
from lethe.attacks.statistics import Counts, Floats
from lethe.data.batches import PersonData

LossFn = Callable[[Tensor, Tensor], Tensor]
Gradients = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], dict[str, Tensor]]

ROUNDING = 2.0**-24  # of float32
_MARGIN = 1.0 + 2.0**-20  # a clipped gradient is this much shorter than the clip
_NUDGE = 2.0**-18  # of each weight
_NEAR = 1e-3  # of the clip: a norm so near it may be counted either way
_VALUES_AT_ONCE = 1 << 21
_LOUD = 0.3  # noise, in clips, from which one person at a kink is nothing beside it
_NUDGED_SHARE = 8  # one person of so many is nudged where noise is loud


@dataclass(frozen=True)
class StepSum:
    """The sum of a step's people, and how far the run's own may be from it.

    Attributes:
        total: float64 [coordinates], in the order of the model's parameters.
        doubt: bound on the distance in L2 of what float32 makes of it.
        within: the least and the most that the count of people within the clip may be, less half
            of the people.
    """

    total: Floats
    doubt: float
    within: tuple[float, float]


class PersonSums:
    """Sums of one model's steps; `model` is left as it was."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, data: PersonData) -> None:
        self._model, self._loss_fn, self._data = model, loss_fn, data
        own = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
        self.trained, self.sizes = list(own), tuple(own.values())
        self._type = torch.float64
        self._vectorized = True

    @property
    def coordinates(self) -> int:
        return sum(self.sizes)

    def known(self, step: RunStep) -> bool:
        """Whether the same people give the same sum: not where the network draws at random.

        Settles also how gradients are computed: in float32 where the network takes nothing
        else, one by one where it cannot be vectorized.
        """
        few = np.arange(min(2, len(self._data)))
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
            except (RuntimeError, TypeError, ValueError) as error:
                if "randomness" in str(error):
                    return False
                continue
            return bool(np.array_equal(once, again))
        raise RuntimeError("No person's gradient can be computed anew.")

    def of(self, step: RunStep, *, noise: float, random: np.random.Generator) -> StepSum:
        """The sum of the step's people.

        Args:
            noise: its standard deviation in clips: how exactly the doubt must be known.
            random: for the signs of what the weights are moved by.
        """
        people = step.drawn
        total, norms = self._sum(step, people, self._weights(step, 0.0))
        nudged, times = people, 1
        if noise >= _LOUD and len(people) >= 64 * _NUDGED_SHARE:
            nudged, times = random.permutation(people)[::_NUDGED_SHARE], _NUDGED_SHARE
        still = total
        if times > 1:
            still = self._sum(step, nudged, self._weights(step, 0.0))[0]
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
        return StepSum(total, moved + added, (low - half, high - half))

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
        record = int(self._data.features[:1].numel())
        at_once = max(1, _VALUES_AT_ONCE // (self.coordinates + 4 * record + 1))
        was_training = self._model.training
        self._model.train()
        try:
            for part in torch.from_numpy(people).split(at_once) if len(people) else ():
                features, mask, labels = self._data.batch(part)
                if labels.is_floating_point():
                    labels = labels.to(self._type)
                if features.is_floating_point():
                    features = features.to(self._type)
                found = gradients(own, features, mask, labels)
                rows = torch.cat([found[n].flatten(1).double() for n in self.trained], dim=1)
                norms.append(rows.norm(dim=1))
                longest = (norms[-1] * _MARGIN).clamp_min(torch.finfo(torch.float32).tiny)
                total += (step.clip_norm / longest).clamp_max(1.0) @ rows
        finally:
            self._model.train(was_training)
        return total.numpy(), torch.cat(norms).numpy()

    def _gradients(self, fixed: dict[str, Tensor]) -> Gradients:
        def loss(own: dict[str, Tensor], x: Tensor, present: Tensor, y: Tensor) -> Tensor:
            outputs = functional_call(self._model, {**fixed, **own}, (x,))
            losses = self._loss_fn(outputs, y).masked_fill(~present, 0.0)
            return losses.sum() / present.sum().clamp_min(1)

        one = grad(loss)
        if self._vectorized:
            vectorized: Gradients = vmap(one, in_dims=(None, 0, 0, 0), randomness="error")
            return vectorized

        def one_by_one(own: dict[str, Tensor], *people: Tensor) -> dict[str, Tensor]:
            each = [one(own, *person) for person in zip(*people, strict=True)]
            return {name: torch.stack([found[name] for found in each]) for name in own}

        return one_by_one
