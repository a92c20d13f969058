"""The engines of others, and the plainest one, behind the contract of `contract.py`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lethe.core.errors import TrainingRefused
from lethe.training.engines.contract import (
    LossFn,
    checked_losses,
    clip_factors,
    person_losses,
    trainable_parameters,
    zero_sums,
)
from lethe.training.person_randomness import part_of_people

_POSITIONWISE = (nn.Linear, nn.LayerNorm)  # take records along an axis of their own


class PlainEngine:
    """Each person by itself, by plain autograd: slow, obvious, what the others must equal."""

    name = "plain"

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        self.model, self.loss_fn = model, loss_fn

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        total = zero_sums(self.model)
        parameters = trainable_parameters(self.model)
        norms = features.new_zeros(features.shape[0], dtype=torch.float32)
        for person in range(features.shape[0]):
            rows = mask.shape[1]
            with part_of_people(slice(person, person + 1)):
                outputs = self.model(features[person])
            losses = checked_losses(self.loss_fn(outputs, labels[person]), rows)
            loss = person_losses(losses, mask[person : person + 1]).sum()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            own = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, found, strict=True)
            ]
            norms[person] = torch.cat([g.flatten() for g in own]).norm()
            factor = clip_factors(norms[person], clip_norm)
            for sum_, g in zip(total, own, strict=True):
                sum_.add_(g * factor)
        return total, norms


class FunctionalEngine:
    """Per-person gradients by `torch.func`: any model, much memory."""

    name = "functional"

    def __init__(self, model: nn.Module, loss_fn: LossFn, *, chunk: int = 64) -> None:
        self.model, self.loss_fn, self.chunk = model, loss_fn, chunk

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        trained = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        fixed: dict[str, Tensor] = dict(self.model.named_buffers())
        fixed |= {n: p for n, p in self.model.named_parameters() if not p.requires_grad}

        def loss(parameters: dict[str, Tensor], x: Tensor, m: Tensor, y: Tensor) -> Tensor:
            outputs = functional_call(self.model, {**parameters, **fixed}, (x,))
            losses = checked_losses(self.loss_fn(outputs, y), m.shape[0])
            return person_losses(losses, m.unsqueeze(0)).sum()

        gradients = vmap(grad(loss), in_dims=(None, 0, 0, 0), randomness="different")
        total = zero_sums(self.model)
        norms = [features.new_zeros(0, dtype=torch.float32)]
        for start in range(0, features.shape[0], self.chunk):
            part = slice(start, start + self.chunk)
            with part_of_people(part):
                found = gradients(trained, features[part], mask[part], labels[part])
            own = [found[name] for name in trained]
            norms.append(_lengths(own))
            _add_weighted(total, own, clip_factors(norms[-1], clip_norm))
        return total, torch.cat(norms)


class OpacusEngine:
    """Opacus's per-sample gradients by hooks; a person's records are summed."""

    name = "opacus"

    def __init__(self, model: nn.Module, loss_fn: LossFn, *, chunk: int = 256) -> None:
        self.model, self.loss_fn, self.chunk = model, loss_fn, chunk

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        total = zero_sums(self.model)
        norms = [features.new_zeros(0, dtype=torch.float32)]
        for start in range(0, features.shape[0], self.chunk):
            part = slice(start, start + self.chunk)
            with part_of_people(part):
                own = self._gradients(features[part], mask[part], labels[part])
            norms.append(_lengths(own))
            _add_weighted(total, own, clip_factors(norms[-1], clip_norm))
        return total, torch.cat(norms)

    def _gradients(self, features: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
        persons, records = mask.shape
        rows = persons * records
        wrapped = GradSampleModule(self.model, batch_first=True, loss_reduction="sum")
        with _opacus(self.model, wrapped):
            outputs = wrapped(features.reshape(rows, *features.shape[2:]))
            losses = checked_losses(self.loss_fn(outputs, labels.reshape(rows)), rows)
            person_losses(losses, mask).sum().backward()
            own = []
            for p in trainable_parameters(self.model):
                found = getattr(p, "grad_sample", None)
                if found is None:
                    own.append(p.new_zeros(persons, *p.shape))
                else:
                    own.append(found.reshape(persons, records, *p.shape).sum(1))
        return own


class OpacusGhostEngine:
    """Opacus's ghost clipping: norms first, then a second backward pass with the factors.

    Its norms are per first axis. So a person of several records must come as one sample
    of several positions, which only layers that act on positions allow.
    """

    name = "opacus_ghost"

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        self.model, self.loss_fn = model, loss_fn
        self.positionwise = all(
            type(m) in _POSITIONWISE
            for m in model.modules()
            if any(p.requires_grad for p in m.parameters(recurse=False))
        )

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        persons, records = mask.shape
        rows = persons * records
        if persons == 0:
            return zero_sums(self.model), features.new_zeros(0, dtype=torch.float32)
        if records > 1 and not (self.positionwise and features.ndim == 3):
            raise TrainingRefused(
                "Opacus's ghost clipping takes several records a person only through layers "
                "that act on positions (Linear, LayerNorm). Use engine: bookkeeping."
            )
        wrapped = GradSampleModuleFastGradientClipping(
            self.model, batch_first=True, loss_reduction="sum", max_grad_norm=clip_norm
        )
        with _opacus(self.model, wrapped), part_of_people(slice(None)):
            outputs = wrapped(features if records > 1 else features[:, 0])
            flat = outputs.reshape(rows, *outputs.shape[2 if records > 1 else 1 :])
            losses = checked_losses(self.loss_fn(flat, labels.reshape(rows)), rows)
            per_person = person_losses(losses, mask)
            per_person.sum().backward(retain_graph=True)
            norms = wrapped.get_norm_sample().detach()
            self.model.zero_grad()
            wrapped.disable_hooks()
            (per_person * clip_factors(norms, clip_norm)).sum().backward()
            total = [
                torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
                for p in trainable_parameters(self.model)
            ]
        return total, norms


@contextmanager
def _opacus(model: nn.Module, wrapped: Any) -> Iterator[None]:
    """Opacus's hooks and what it hangs on the parameters last no longer than the block."""
    was_training = model.training
    model.train()  # its hooks look at nothing otherwise
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        wrapped.to_standard_module()
        model.train(was_training)
        for p in model.parameters():
            p.grad = None
            for name in ("grad_sample", "_norm_sample", "_forward_counter", "_current_grad_sample"):
                if hasattr(p, name):
                    delattr(p, name)
        for module in model.modules():
            if hasattr(module, "activations"):
                del module.activations


def _lengths(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()


def _add_weighted(total: list[Tensor], gradients: list[Tensor], factors: Tensor) -> None:
    for sum_, g in zip(total, gradients, strict=True):
        sum_.add_(torch.tensordot(factors, g, dims=1))
