"""The project's own engine: one forward pass, one backward pass, no per-person gradients.

Hooks keep each layer's input; one backward pass gives the gradients of all layers'
outputs and none of the parameters'. Norms come from these two, and so does the clipped
sum, with each person's factor multiplied in (Bu et al. 2023, arXiv:2210.00038).
People are taken some at a time: what is kept then stays in the processor's cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lethe.core.errors import TrainingRefused
from lethe.training.engines.contract import (
    LossFn,
    checked_losses,
    clip_factors,
    person_losses,
    trainable_parameters,
    zero_sums,
)
from lethe.training.engines.kernels import Call, rule_maker, trainable
from lethe.training.person_randomness import part_of_people

# Bytes of the widest layer's activations that a chunk of people may take: on a CPU what a
# core's cache holds; on a GPU, where more at once is faster, what keeps the peak memory low.
_CHUNK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 23}
_FEWEST = 16  # people in a chunk


class _Tape:
    """What the layers' hooks saw in one forward pass."""

    def __init__(self) -> None:
        self.rows: int | None = None  # of the pass that runs; at other times nothing is kept
        self.seen: list[tuple[nn.Module, tuple[Any, ...], tuple[int, ...], GradientEdge]] = []
        self.widest = 0

    @contextmanager
    def listening(self, rows: int) -> Iterator[None]:
        """Forgets what was seen and keeps what the layers see inside, on that many records."""
        self.rows, self.seen = rows, []
        try:
            yield
        finally:
            self.rows = None

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.rows is None:  # a rule that calls the layer once more
            return
        kind = type(module).__name__
        if not isinstance(output, Tensor):
            raise TrainingRefused(
                f"Layer {kind} returns {type(output).__name__}; the bookkeeping engine follows "
                "tensors. Use engine: functional."
            )
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if any(x.shape[:1] != (self.rows,) for x in (*tensors, output)):
            raise TrainingRefused(
                f"Layer {kind} does not keep the records along its first axis; a person's share "
                "in it cannot be separated."
            )
        kept = tuple(x.detach() if isinstance(x, Tensor) else x for x in inputs)
        versions = tuple(x._version for x in tensors)
        # The edge, not the tensor: an in-place activation may overwrite the tensor later.
        self.seen.append((module, kept, versions, get_gradient_edge(output)))
        self.widest = max(self.widest, output[:1].numel())


class BookkeepingEngine:
    """See the module; built for one model, whose layers must not mix people."""

    name = "bookkeeping"

    def __init__(self, model: nn.Module, loss_fn: LossFn, *, chunk: int | None = None) -> None:
        """Args: chunk: people at a time; by the widest layer if None."""
        self.model, self.loss_fn, self.chunk = model, loss_fn, chunk
        self.units = list(_units(model))
        index = {id(p): i for i, p in enumerate(trainable_parameters(model))}
        self._places = {id(u): [index[id(p)] for _, p in trainable(u)] for u in self.units}
        owned = [place for places in self._places.values() for place in places]
        if len(owned) != len(set(owned)):
            raise TrainingRefused(
                "Two layers share a parameter; the bookkeeping engine cannot separate their "
                "shares. Use engine: functional."
            )
        self._widest = 0

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        persons = features.shape[0]
        total = zero_sums(self.model)
        norms = []
        start = 0
        tape = _Tape()
        with self._recorded(tape):
            while start < persons:
                part = slice(start, start + self._size(features))
                data = (features[part], mask[part], labels[part])
                with part_of_people(part):
                    norms.append(self._chunk(tape, *data, clip_norm, total))
                start = part.stop
        return total, torch.cat(norms) if norms else features.new_zeros(0, dtype=torch.float32)

    def _size(self, features: Tensor) -> int:
        if self.chunk is not None:
            return self.chunk
        if not self._widest:
            return _FEWEST  # the first few people show how wide the layers are
        widest = max(self._widest, features[:1, :1].numel())
        most = _CHUNK_BYTES["cuda" if features.is_cuda else "cpu"]
        return max(_FEWEST, most // (4 * widest * features.shape[1]))

    def _chunk(
        self,
        tape: _Tape,
        features: Tensor,
        mask: Tensor,
        labels: Tensor,
        clip_norm: float,
        total: list[Tensor],
    ) -> Tensor:
        persons, records = mask.shape
        rows = persons * records
        with tape.listening(rows), torch.enable_grad():
            outputs = self.model(features.reshape(rows, *features.shape[2:]))
            losses = checked_losses(self.loss_fn(outputs, labels.reshape(rows)), rows)
            loss = person_losses(losses, mask).sum()
        self._widest = tape.widest
        edges = [edge for *_, edge in tape.seen]
        gradients = torch.autograd.grad(loss, edges, allow_unused=True)
        calls: dict[int, list[Call]] = {}
        for (module, inputs, versions, _), gradient in zip(tape.seen, gradients, strict=True):
            if versions != tuple(x._version for x in inputs if isinstance(x, Tensor)):
                raise TrainingRefused(
                    f"The input of layer {type(module).__name__} was changed in place after it "
                    "was used; its gradient is lost."
                )
            if gradient is not None:
                calls.setdefault(id(module), []).append(Call(inputs, gradient))
        rules = [
            (unit, rule_maker(unit)(unit, calls.pop(id(unit)), persons))
            for unit in self.units
            if id(unit) in calls
        ]
        squares = [rule.squared_norms() for _, rule in rules]
        norms = (
            torch.stack(squares).sum(0).clamp_min(0.0).sqrt()
            if squares
            else features.new_zeros(persons, dtype=torch.float32)
        )
        factors = clip_factors(norms, clip_norm)
        for unit, rule in rules:
            rule.add_weighted(factors, [total[place] for place in self._places[id(unit)]])
        return norms

    @contextmanager
    def _recorded(self, tape: _Tape) -> Iterator[None]:
        handles = [unit.register_forward_hook(tape.hook) for unit in self.units]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with trainable parameters of their own; each is one layer."""
    if any(p.requires_grad for p in module.parameters(recurse=False)):
        yield module
        return
    for child in module.children():
        yield from _units(child)
