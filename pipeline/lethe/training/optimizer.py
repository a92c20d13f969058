"""From private gradients to weights: post-processing, which cannot change the guarantee."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lethe.config.training import Optimizer
from lethe.training.engines.contract import trainable_parameters


class Updater:
    """SGD with momentum or Adam, a learning-rate schedule, and an average of the iterates."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, steps: int) -> None:
        self._parameters = trainable_parameters(model)
        self._declared, self._steps, self._done = optimizer, steps, 0
        rate = optimizer.learning_rate
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self._parameters, lr=rate)
            if optimizer.name == "adam"
            else torch.optim.SGD(self._parameters, lr=rate, momentum=optimizer.momentum)
        )
        self._average = [torch.zeros_like(p) for p in self._parameters]

    def step(self, gradients: Sequence[Tensor]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._declared.learning_rate * self._share()
        for p, g in zip(self._parameters, gradients, strict=True):
            p.grad = g
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        keep = self._declared.averaging
        if keep:
            with torch.no_grad():
                for average, p in zip(self._average, self._parameters, strict=True):
                    average.mul_(keep).add_(p, alpha=1 - keep)

    def finish(self) -> None:
        """Puts the averaged weights into the model, if averaging was asked for."""
        keep = self._declared.averaging
        if not keep or not self._done:
            return
        # The average started from zero, not from the first weights: divide that out.
        seen = 1 - keep**self._done
        with torch.no_grad():
            for average, p in zip(self._average, self._parameters, strict=True):
                p.copy_(average / seen)

    def _share(self) -> float:
        """Of the learning rate, at this step."""
        if self._declared.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * self._done / self._steps))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that `restore` needs to go on exactly here: tensors by name, and plain JSON."""
        tensors = {f"average.{i}": each for i, each in enumerate(self._average)}
        for i, kept in self._optimizer.state_dict()["state"].items():
            tensors |= {f"{i}.{name}": t for name, t in kept.items() if isinstance(t, Tensor)}
        return tensors, {"declared": asdict(self._declared), "done": self._done}

    def restore(self, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
        """Raises: ValueError: the state is of another optimizer or model."""
        if words["declared"] != asdict(self._declared):
            raise ValueError("of another optimizer")
        averages = [tensors[f"average.{i}"] for i in range(len(self._parameters))]
        kept: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            place, _, of = name.partition(".")
            if place != "average":
                kept.setdefault(int(place), {})[of] = tensor
        shapes = {i: p.shape for i, p in enumerate(self._parameters)}
        found = {i: t.shape for i, t in enumerate(averages)}
        # A scalar is Adam's count of steps.
        strange = [
            t for i, of in kept.items() for t in of.values() if t.ndim and t.shape != shapes[i]
        ]
        if found != shapes or strange:
            raise ValueError("of another model")
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self._average = [
            a.to(p.device, copy=True) for a, p in zip(averages, self._parameters, strict=True)
        ]
        self._done = int(words["done"])
