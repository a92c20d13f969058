"""The declared optimizer once more, in plain tensors: what the releases of a run make of weights.

It shares no line with the one that trains. In float32 and in the order in which PyTorch's own
documentation has it, so that on the same processor the result is the same to the last bit.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lethe.config.training import Optimizer

EPSILON = 2.0**-23  # of float32
_BETAS, _ADAM_EPSILON = (0.9, 0.999), 1e-8


class OwnOptimizer:
    """SGD with momentum, or Adam; a schedule; an average of the iterates.

    Attributes:
        weights: of the trainable parameters, in the model's order.
        slack: for each, by how much another processor's rounding may have led away from it.
    """

    def __init__(self, declared: Optimizer, steps: int, weights: Sequence[Tensor]) -> None:
        self._declared, self._steps, self.done = declared, steps, 0
        self.weights = [weight.detach().clone() for weight in weights]
        self.slack = [0.0 for _ in self.weights]
        self._first: list[Tensor | None] = [None] * len(self.weights)
        self._second = [torch.zeros_like(weight) for weight in self.weights]
        self._average = [torch.zeros_like(weight) for weight in self.weights]
        # An error stays in a moving mean for 1/(1 - keep) steps. Adam divides by the root of a mean
        # of a thousand steps' squares.
        lasts = 1 / (1 - declared.momentum)
        self._lasts = 1024.0 if declared.name == "adam" else 8.0 * lasts

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Moves the weights by one release that was divided by the expected batch."""
        rate = self._declared.learning_rate
        if self._declared.schedule == "cosine":
            rate = rate * (0.5 * (1 + math.cos(math.pi * self.done / self._steps)))
        else:
            rate = rate * 1.0
        self.done += 1
        for at, gradient in enumerate(gradients):
            before = self.weights[at].clone()
            if self._declared.name == "adam":
                self._adam(at, gradient, rate)
            else:
                self._sgd(at, gradient, rate)
            weight, keep = self.weights[at], self._declared.averaging
            if keep:
                self._average[at].mul_(keep).add_(weight, alpha=1 - keep)
            moved = self._lasts * _largest(weight - before)
            self.slack[at] += EPSILON * (_largest(weight) + moved)

    def _sgd(self, at: int, gradient: Tensor, rate: float) -> None:
        momentum = self._declared.momentum
        if momentum:
            kept = self._first[at]
            gradient = gradient.clone() if kept is None else kept.mul_(momentum).add_(gradient)
            self._first[at] = gradient
        self.weights[at].add_(gradient, alpha=-rate)

    def _adam(self, at: int, gradient: Tensor, rate: float) -> None:
        (one, two), done = _BETAS, float(self.done)
        first, second = self._first[at], self._second[at]
        if first is None:
            first = self._first[at] = torch.zeros_like(gradient)
        first.lerp_(gradient, 1 - one)
        second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        spread = (second.sqrt() / (1 - two**done) ** 0.5).add_(_ADAM_EPSILON)
        self.weights[at].addcdiv_(first, spread, value=-(rate / (1 - one**done)))

    def released(self) -> list[Tensor]:
        """The weights that the declared averaging makes of all steps so far."""
        keep = self._declared.averaging
        if not keep or not self.done:
            return self.weights
        return [average / (1 - keep**self.done) for average in self._average]

    def restore(self, state: Mapping[str, Tensor], *, done: int) -> None:
        """Goes on from what was recorded of the optimizer; `state` has its names.

        Raises: LookupError: a part of the state is missing.
        """
        self.done = done
        self._average = [state[f"average.{at}"].clone() for at in range(len(self.weights))]
        for at in range(len(self.weights)):
            if self._declared.name == "adam":
                self._first[at] = state[f"{at}.exp_avg"].clone()
                self._second[at] = state[f"{at}.exp_avg_sq"].clone()
            elif self._declared.momentum:
                self._first[at] = state[f"{at}.momentum_buffer"].clone()

    def state(self) -> dict[str, Tensor]:
        """By the names that `restore` reads."""
        found = {f"average.{at}": each for at, each in enumerate(self._average)}
        for at, first in enumerate(self._first):
            if self._declared.name == "adam":
                found[f"{at}.exp_avg_sq"] = self._second[at]
            if first is not None:
                name = "exp_avg" if self._declared.name == "adam" else "momentum_buffer"
                found[f"{at}.{name}"] = first
        return found


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
