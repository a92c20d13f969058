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
book-keeping, arXiv:2210.00038). Where the gradient itself is no larger than what went in,
as in most convolutions, it is made once and serves both (their mixed choice).
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

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        """Adds to `totals` everybody's gradient times the person's factor."""


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _by_person(tensor: Tensor, persons: int) -> Tensor:
    """[persons * k, ..., d] → [persons, k * ..., d]."""
    return tensor.reshape(persons, -1, tensor.shape[-1])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Positions of several calls of one layer in a row; of one call without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _squares(tensor: Tensor) -> Tensor:
    """[persons, ...] → [persons] sum of squares, in one pass that keeps no squares."""
    return torch.linalg.vector_norm(tensor.flatten(1), dim=1).square_()


def _gram_products(g: Tensor, a: Tensor, *, bias: bool) -> Tensor:
    """[persons] sum over pairs of positions of (g_t . g_s)((a_t . a_s) + bias)."""
    if g.shape[1] == 1:
        return _squares(g) * (_squares(a) + float(bias))
    gram = torch.bmm(a, a.transpose(1, 2))
    if bias:
        gram += 1.0
    return torch.bmm(g, g.transpose(1, 2)).mul_(gram).flatten(1).sum(1)


class MatrixRule:
    """Layers whose gradient is sum_t g_t a_t^T: linear, and convolution by its patches."""

    def __init__(
        self,
        g: Tensor,
        a: Tensor,
        *,
        weight: bool,
        bias: bool,
        shaped: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`g` [persons, t, out] and `a` [persons, t, in]; which of the two are trained.

        Args:
            shaped: a sum [out, in] as the weight is shaped; a matrix if None.
        """
        self.g, self.a, self.weight, self.bias, self.shaped = g, a, weight, bias, shaped
        self._direct: Tensor | None = None

    def squared_norms(self) -> Tensor:
        if not self.weight:
            return _squares(self.g.sum(1))
        positions, wide, high = self.g.shape[1], self.a.shape[2], self.g.shape[2]
        # The gradient itself, if it is about as small as what is kept anyway; or pairs of
        # positions, which are few then.
        if positions == 1 or wide * high > 2 * positions * (wide + high):
            return _gram_products(self.g, self.a, bias=self.bias)
        self._direct = torch.bmm(self.g.transpose(1, 2), self.a)
        norms = _squares(self._direct)
        return norms.add_(_squares(self.g.sum(1))) if self.bias else norms

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        by_row = factors.repeat_interleave(self.g.shape[1])
        if self.weight:
            self._add_matrix(totals[0], factors, by_row.unsqueeze(1))
        if self.bias:
            totals[-1].addmv_(self.g.flatten(0, 1).t(), by_row)

    def _add_matrix(self, total: Tensor, factors: Tensor, by_row: Tensor) -> None:
        if self._direct is not None:
            found = torch.mv(self._direct.flatten(1).t(), factors).view(self._direct.shape[1:])
            total.add_(found if self.shaped is None else self.shaped(found))
            return
        g, a = self.g.flatten(0, 1), self.a.flatten(0, 1)
        if a.shape[1] < g.shape[1]:  # multiply the factors into the narrower of the two
            a = a * by_row
        else:
            g = g * by_row
        if self.shaped is None:
            total.addmm_(g.t(), a)
        else:
            total.add_(self.shaped(g.t() @ a))


class PerPersonRule:
    """Any layer: each person's gradient, which is what the other rules avoid."""

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        """Each is [persons, *parameter shape]."""
        self.gradients = list(gradients)

    def squared_norms(self) -> Tensor:
        return torch.stack([_squares(g) for g in self.gradients]).sum(0)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        for total, g in zip(totals, self.gradients, strict=True):
            total.add_(torch.tensordot(factors, g, dims=1))


class EmbeddingRule:
    """A table of vectors: positions that look up the same row share a gradient."""

    def __init__(self, module: nn.Embedding, g: Tensor, ids: Tensor) -> None:
        """`g` [persons, t, d], `ids` [persons, t]."""
        if module.padding_idx is not None:
            g = g * (ids != module.padding_idx).unsqueeze(-1)
        self.g, self.ids = g, ids

    def squared_norms(self) -> Tensor:
        same = self.ids.unsqueeze(1) == self.ids.unsqueeze(2)
        return torch.bmm(self.g, self.g.transpose(1, 2)).mul_(same).flatten(1).sum(1)

    def add_weighted(self, factors: Tensor, totals: Sequence[Tensor]) -> None:
        scaled = (self.g * factors.view(-1, 1, 1)).flatten(0, 1)
        totals[0].index_add_(0, self.ids.flatten(), scaled)


def _linear(module: nn.Linear, calls: Sequence[Call], persons: int) -> Rule:
    g = _joined([_by_person(c.gradient, persons) for c in calls])
    a = _joined([_by_person(c.inputs[0], persons) for c in calls])
    return MatrixRule(g, a, weight=module.weight.requires_grad, bias=_has_bias(module))


def _has_bias(module: Any) -> bool:
    return module.bias is not None and module.bias.requires_grad


def _conv(module: Any, calls: Sequence[Call], persons: int) -> Rule:
    gradients = [_by_person(c.gradient.flatten(2).transpose(1, 2), persons) for c in calls]
    looked_at = [_by_person(patches(module, c.inputs[0]), persons) for c in calls]
    shape = (module.out_channels, *module.kernel_size, module.in_channels)

    def shaped(matrix: Tensor) -> Tensor:
        return matrix.view(shape).movedim(-1, 1)

    return MatrixRule(
        _joined(gradients),
        _joined(looked_at),
        weight=module.weight.requires_grad,
        bias=_has_bias(module),
        shaped=shaped,
    )


def patches(module: Any, x: Tensor) -> Tensor:
    """What a convolution looks at: [n, positions, kernel * channels], channels innermost.

    With the channels innermost a patch is a few long runs of memory; `F.unfold` takes it
    number by number and is several times slower.
    """
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    before, after = _padding(module)
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
        before, after = (0, *before), (0, *after)
    n, channels, high, wide = x.shape
    if any(before) or any(after):
        shape = (n, before[0] + high + after[0], before[1] + wide + after[1], channels)
        padded = x.new_zeros(shape)
        inside = padded[:, before[0] : before[0] + high, before[1] : before[1] + wide]
        inside.copy_(x.permute(0, 2, 3, 1))
    else:
        padded = x.permute(0, 2, 3, 1).contiguous()
    size = [
        (total - d * (k - 1) - 1) // s + 1
        for total, k, s, d in zip(padded.shape[1:3], kernel, stride, dilation, strict=True)
    ]
    apart, down, along, _ = padded.stride()
    by_place = (down * stride[0], along * stride[1])
    in_patch = (down * dilation[0], along * dilation[1])
    view = padded.as_strided((n, *size, *kernel, channels), (apart, *by_place, *in_patch, 1))
    return view.reshape(n, size[0] * size[1], -1)


def _padding(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and after, along each axis."""
    if module.padding == "valid":
        none = (0,) * len(module.kernel_size)
        return none, none
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        before = tuple(each // 2 for each in total)
        return before, tuple(t - b for t, b in zip(total, before, strict=True))
    return module.padding, module.padding


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
        if plain.groups == 1 and plain.padding_mode == "zeros":
            return _conv
    if kind is nn.Embedding:
        return _embedding
    if kind in (nn.LayerNorm, nn.GroupNorm):
        return _norm
    return per_person
