"""Per-person gradients of one layer, from its input and its output's gradient.

Each rule answers two questions about a layer without a gradient for each person being
kept: how long is each person's gradient, and what is the sum of all of them, each
multiplied by that person's factor. A person's records, and all positions of a sequence
or an image, are summed: they are one contribution.

With `a` the input and `g` the output's gradient of one person, over positions t:
a linear layer's gradient is sum_t g_t a_t^T, and its squared length is
sum_{t,s} (g_t . g_s)(a_t . a_s), which needs no gradient (Goodfellow 2015,
arXiv:1510.01799; Li et al. 2022, arXiv:2110.05679). The factors then go into one more
product of the same `g` and `a` instead of a second backward pass (Bu et al. 2023,
book-keeping, arXiv:2210.00038).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F


@dataclass
class Call:
    """One call of a layer: what came in, and the gradient of what came out."""

    inputs: tuple[Any, ...]
    gradient: Tensor


class Rule(Protocol):
    """What a kind of layer knows about its per-person gradients.

    Shapes: every tensor of `calls` has the records of `persons` people in order along its
        first axis, as many for each; `factors` is [persons]. Gradients come in the order of
        the layer's trainable parameters.
    """

    def squared_norms(self) -> Tensor:
        """[persons] squared length of each person's gradient of this layer."""

    def weighted_sum(self, factors: Tensor) -> list[Tensor]:
        """Sum over people of each one's gradient times the person's factor."""


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _by_person(tensor: Tensor, persons: int) -> Tensor:
    """[persons * k, ..., d] → [persons, k * ..., d]."""
    return tensor.reshape(persons, -1, tensor.shape[-1])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Positions of several calls of one layer in a row; of one call without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _gram_products(g: Tensor, a: Tensor, *, bias: bool) -> Tensor:
    """[persons] sum over pairs of positions of (g_t . g_s)((a_t . a_s) + bias)."""
    positions = g.shape[1]
    if positions == 1:
        inner = a.square().sum(-1) + float(bias)
        return (g.square().sum(-1) * inner).sum(-1)
    gram = torch.bmm(a, a.transpose(1, 2))
    if bias:
        gram += 1.0
    return torch.bmm(g, g.transpose(1, 2)).mul_(gram).sum((1, 2))


class MatrixRule:
    """Layers whose gradient is sum_t g_t a_t^T: linear, and convolution by its patches."""

    def __init__(self, g: Tensor, a: Tensor, *, weight: Tensor | None, bias: bool) -> None:
        """`g` [persons, t, out] and `a` [persons, t, in]; `weight` gives the shape, if trained."""
        self.g, self.a, self.weight, self.bias = g, a, weight, bias
        self._direct: Tensor | None = None

    def squared_norms(self) -> Tensor:
        if self.weight is None:
            return self.g.sum(1).square().sum(-1)
        positions, wide, high = self.g.shape[1], self.a.shape[2], self.g.shape[2]
        # Pairs of positions, or the gradient itself: whichever is the smaller product.
        if positions * (wide + high) <= wide * high:
            return _gram_products(self.g, self.a, bias=self.bias)
        direct = torch.bmm(self.g.transpose(1, 2), self.a)
        norms = direct.square().sum((1, 2))
        if self.bias:
            norms = norms + self.g.sum(1).square().sum(-1)
        if direct.numel() <= self.a.numel() + self.g.numel():
            self._direct = direct  # no larger than what is kept anyway
        return norms

    def weighted_sum(self, factors: Tensor) -> list[Tensor]:
        persons = factors.shape[0]
        out: list[Tensor] = []
        scaled = self.g * factors.view(persons, 1, 1)
        if self.weight is not None:
            if self._direct is not None:
                total = factors @ self._direct.flatten(1)
            else:
                total = scaled.flatten(0, 1).t() @ self.a.flatten(0, 1)
            out.append(total.reshape(self.weight.shape))
        if self.bias:
            out.append(scaled.sum((0, 1)))
        return out


class PerPersonRule:
    """Any layer: each person's gradient, which is what the other rules avoid."""

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        """Each is [persons, *parameter shape]."""
        self.gradients = list(gradients)

    def squared_norms(self) -> Tensor:
        return torch.stack([g.flatten(1).square().sum(1) for g in self.gradients]).sum(0)

    def weighted_sum(self, factors: Tensor) -> list[Tensor]:
        return [torch.tensordot(factors, g, dims=1) for g in self.gradients]


class EmbeddingRule:
    """A table of vectors: positions that look up the same row share a gradient."""

    def __init__(self, module: nn.Embedding, g: Tensor, ids: Tensor) -> None:
        """`g` [persons, t, d], `ids` [persons, t]."""
        if module.padding_idx is not None:
            g = g * (ids != module.padding_idx).unsqueeze(-1)
        self.g, self.ids, self.rows = g, ids, module.num_embeddings

    def squared_norms(self) -> Tensor:
        same = self.ids.unsqueeze(1) == self.ids.unsqueeze(2)
        return (torch.bmm(self.g, self.g.transpose(1, 2)) * same).sum((1, 2))

    def weighted_sum(self, factors: Tensor) -> list[Tensor]:
        scaled = (self.g * factors.view(-1, 1, 1)).flatten(0, 1)
        table = scaled.new_zeros(self.rows, scaled.shape[1])
        return [table.index_add_(0, self.ids.flatten(), scaled)]


def _linear(module: nn.Linear, calls: Sequence[Call], persons: int) -> Rule:
    g = _joined([_by_person(c.gradient, persons) for c in calls])
    a = _joined([_by_person(c.inputs[0], persons) for c in calls])
    return _matrix(module, g, a)


def _matrix(module: Any, g: Tensor, a: Tensor) -> MatrixRule:
    bias = module.bias is not None and module.bias.requires_grad
    weight = module.weight if module.weight.requires_grad else None
    return MatrixRule(g, a, weight=weight, bias=bias)


def _conv(module: Any, calls: Sequence[Call], persons: int) -> Rule:
    gradients, patches = [], []
    for call in calls:
        columns = unfolded(module, call.inputs[0])
        patches.append(_by_person(columns.transpose(1, 2), persons))
        gradients.append(_by_person(call.gradient.flatten(2).transpose(1, 2), persons))
    return _matrix(module, _joined(gradients), _joined(patches))


def unfolded(module: Any, x: Tensor) -> Tensor:
    """The patches that a convolution looks at: [n, channels * kernel, positions]."""
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
        kernel, stride = (1, *module.kernel_size), (1, *module.stride)
        dilation, padding = (1, *module.dilation), (0, *module.padding)
    else:
        kernel, stride = module.kernel_size, module.stride
        dilation, padding = module.dilation, module.padding
    return F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)


def _embedding(module: nn.Embedding, calls: Sequence[Call], persons: int) -> Rule:
    g = _joined([_by_person(c.gradient, persons) for c in calls])
    ids = _joined([c.inputs[0].reshape(persons, -1) for c in calls])
    return EmbeddingRule(module, g, ids)


def _norm(module: Any, calls: Sequence[Call], persons: int) -> Rule:
    """Layer and group normalization: scale and shift act on the normalized input."""
    scale: Tensor | float = 0.0
    shift: Tensor | float = 0.0
    for call in calls:
        x, g = call.inputs[0], call.gradient
        if isinstance(module, nn.LayerNorm):
            normal = F.layer_norm(x, module.normalized_shape, eps=module.eps)
            shape = (persons, -1, *module.normalized_shape)
            scale = scale + (g * normal).reshape(shape).sum(1)
            shift = shift + g.reshape(shape).sum(1)
        else:
            normal = F.group_norm(x, module.num_groups, eps=module.eps)
            shape = (persons, x.shape[0] // persons, x.shape[1], -1)
            scale = scale + (g * normal).reshape(shape).sum((1, 3))
            shift = shift + g.reshape(shape).sum((1, 3))
    found = [(module.weight, scale), (module.bias, shift)]
    return PerPersonRule(
        [g for p, g in found if p is not None and p.requires_grad and isinstance(g, Tensor)]
    )


def per_person(module: nn.Module, calls: Sequence[Call], persons: int) -> Rule:
    """The rule for a layer that has none: vectorized over people by `torch.func`."""
    named = dict(trainable(module))
    fixed = {n: t for n, t in module.state_dict(keep_vars=True).items() if n not in named}
    totals: list[Tensor] | None = None
    for call in calls:
        inputs = tuple(
            x.detach().reshape(persons, -1, *x.shape[1:]) if isinstance(x, Tensor) else x
            for x in call.inputs
        )
        axes = tuple(0 if isinstance(x, Tensor) else None for x in inputs)
        g = call.gradient.reshape(persons, -1, *call.gradient.shape[1:])

        def one(g: Tensor, *inputs: Any) -> dict[str, Tensor]:
            def forward(parameters: dict[str, Tensor]) -> Tensor:
                out: Tensor = functional_call(module, {**parameters, **fixed}, inputs)
                return out

            pulled = vjp(forward, {n: p.detach() for n, p in named.items()})
            found: dict[str, Tensor] = pulled[1](g)[0]
            return found

        found = vmap(one, in_dims=(0, *axes), randomness="error")(g, *inputs)
        gradients = [found[name] for name in named]
        totals = (
            gradients if totals is None else [a + b for a, b in zip(totals, gradients, strict=True)]
        )
    return PerPersonRule(totals or [])


RuleMaker = Callable[[Any, Sequence[Call], int], Rule]


def rule_maker(module: nn.Module) -> RuleMaker:
    """The cheapest correct rule for a layer; an exact type, since a subclass may differ."""
    kind = type(module)
    if kind is nn.Linear:
        return _linear
    if kind in (nn.Conv1d, nn.Conv2d):
        plain: Any = module
        if (
            plain.groups == 1
            and plain.padding_mode == "zeros"
            and plain.padding not in ("same", "valid")
        ):
            return _conv
    if kind is nn.Embedding:
        return _embedding
    if kind in (nn.LayerNorm, nn.GroupNorm):
        return _norm
    return per_person
