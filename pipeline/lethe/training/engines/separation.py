"""Does a model treat each record by itself? Tried on made-up records, in the mode that trains.

People are clipped one by one, which bounds nothing where one person's record changes what another
one's gradient is. So outputs, and losses, of records that stay are compared bit for bit nearly:

    beside others   passes of one size and one seed, in which half of the records are others;
                    every two places of a batch are in different halves of some pass
    of other sizes  passes of some of the records, with all random numbers fixed
    afterwards      the same pass again, and all that the model keeps between passes

Not excluded: a model is a program. One that mixes only from a certain day or number of passes on
that it reads from outside, at one single size of the batch, or for values that are not tried,
passes. The audit looks again, at the run's own steps.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lethe.core.errors import TrainingRefused
from lethe.training.engines.contract import LossFn, trainable_parameters
from lethe.training.engines.fixed_randomness import FixedRandomness, seeded
from lethe.training.engines.kept_state import SHARED, changed, kept_state

SAME_SIZE = 1e-5  # of the largest output: other rows may choose another kernel's rounding
OTHER_SIZE = 1e-3
USUAL, EXTREME = "usual", "extreme"

Make = Callable[[int, str, torch.Generator], Tensor]


@dataclass(frozen=True)
class TriedRecords:
    """What a model is tried on.

    Attributes:
        make: so many records of the kind `USUAL` or `EXTREME`, [n, ...]; made of nobody's data.
        classes: of the label; 1 for a label of 0.0 and 1.0.
        sizes: of the batches, in records; the largest is looked at most closely.
    """

    make: Make
    classes: int
    sizes: Sequence[int]

    def labels(self, count: int, numbers: torch.Generator) -> Tensor:
        found = torch.randint(0, max(self.classes, 2), (count,), generator=numbers)
        return found.float() if self.classes == 1 else found


def refuse_mixing(model: nn.Module, loss_fn: LossFn, tried: TriedRecords) -> None:
    """Tries a copy of the model, with other weights too; the model stays as it is.

    Raises:
        TrainingRefused: it mixes records, keeps something of them, changes what it is given, or
            cannot be fed; names the layer where it is known, and the next step.
    """
    with _to_try(model) as (copies, copied):
        refuse_keeping(copies, tried, copied=copied)
        network = copies()
        for moved in (False, True):
            if moved:  # a last layer that begins at zero shows nothing of what is before it
                _move_weights(network)
            for training in (True, False) if moved else (True,):
                network.train(training)
                for size in tried.sizes:
                    _Passes(network, loss_fn, tried, size).refuse(
                        closely=training and moved and size == max(tried.sizes)
                    )


def refuse_keeping(copies: Callable[[], nn.Module], tried: TriedRecords, *, copied: bool) -> None:
    """Refuses a model that is another one after other records have passed.

    What is made once, of shapes and constants alone (a mask, a table of positions), may be kept.
    """
    numbers, size = _numbers(), max(tried.sizes)
    one, other = (tried.make(size, kind, numbers) for kind in (USUAL, EXTREME))
    for training in (True, False):
        first, second = copies().train(training), copies().train(training)
        device = next(first.parameters()).device
        before = kept_state(first)
        kept = []
        for network, records in ((first, one), (second, other), (first, other)):
            with seeded():
                fed(network, records.to(device))
            kept.append(kept_state(network))
        moved = {
            *changed(kept[0], kept[2]),
            *(changed(kept[0], kept[1]) if copied else changed(before, kept[0])),
            *(name for name in changed(before, kept[0]) if name.startswith(SHARED)),
        }
        if moved:
            _refuse_kept(first, min(moved))


def _refuse_kept(model: nn.Module, name: str) -> None:
    what = "Buffer" if name in dict(model.named_buffers()) else "Attribute"
    if name.startswith(SHARED):
        what, name = "Variable", name.removeprefix(SHARED)
    raise TrainingRefused(
        f"{what} {name!r} changes with the data that passes, or with each pass, without noise. "
        "Keep no statistics, counters or generators in the model."
    )


def fed(model: nn.Module, records: Tensor) -> Tensor:
    """The outputs. Raises: TrainingRefused: the model does not take such records."""
    try:
        made = model(records)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise TrainingRefused(
            f"The model does not take records of {records.shape[1:].numel()} float32 "
            f"features ({type(error).__name__}). Correct training.model; a layer that needs whole "
            "numbers takes x.long()."
        ) from None
    if not isinstance(made, Tensor) or made.shape[:1] != records.shape[:1]:
        raise TrainingRefused(
            f"The model gives no row of its own for each of {len(records)} records. Correct "
            "training.model."
        )
    return made


class _Passes:
    """Passes of one size through one model in one mode."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, tried: TriedRecords, size: int) -> None:
        self.model, self.loss_fn, self.size = model, loss_fn, size
        self.device = next(model.parameters()).device
        numbers = _numbers()
        self.records = {kind: tried.make(size, kind, numbers) for kind in (USUAL, EXTREME)}
        self.records["other"] = tried.make(size, USUAL, numbers)
        self.label = tried.labels(size, numbers)
        self.other_label = tried.labels(size, numbers)
        self.numbers = numbers

    def refuse(self, *, closely: bool) -> None:
        base = self._alike(self.records[USUAL], self.label)
        if _apart(base, self._alike(self.records[USUAL], self.label), SAME_SIZE).any():
            raise TrainingRefused(
                "The model gives the same records other outputs in a second pass under the same "
                "seed: it keeps something between passes, or draws randomness that PyTorch does "
                "not. Use torch's own random functions."
            )
        kinds = ("other", EXTREME)
        for number, chosen in enumerate(self._halves(closely=closely)):
            replaced = self.records[kinds[number % 2]]
            records, label = self.records[USUAL].clone(), self.label.clone()
            records[chosen], label[chosen] = replaced[chosen], self.other_label[chosen]
            apart = _apart(base[~chosen], self._alike(records, label)[~chosen], SAME_SIZE)
            if apart.any():
                self._refuse_beside(records, ~chosen)
        if self.size > 1:
            self._refuse_by_size()

    def _halves(self, *, closely: bool) -> Iterator[Tensor]:
        """Whom to replace: each bit of the place and its contrary, or a few by chance."""
        places = torch.arange(self.size)
        if self.size == 1:
            return
        bits = math.ceil(math.log2(self.size))
        whole = closely or bits <= 4
        for bit in range(bits) if whole else ():
            chosen = (places >> bit) % 2 == 1
            # Of each half both kinds of replacements are tried, in one of the two orders.
            yield from (chosen, ~chosen) if bit % 2 else (~chosen, chosen)
        for _ in range(2 if whole else 4):
            chosen = torch.rand(self.size, generator=self.numbers) < 0.5
            chosen[int(torch.randint(self.size, (), generator=self.numbers))] = False
            yield chosen

    def _refuse_by_size(self) -> None:
        with FixedRandomness():
            base = self._alike(self.records[USUAL], self.label)
        sizes = {1, 2, 3, self.size // 2, self.size // 2 + 1, self.size - 1}
        for size in sorted(s for s in sizes if 0 < s < self.size):
            few = torch.randperm(self.size, generator=self.numbers)[:size].sort().values
            with FixedRandomness():
                alone = self._alike(self.records[USUAL][few], self.label[few])
            if _apart(base[few], alone, OTHER_SIZE).any():
                raise TrainingRefused(
                    f"The model gives a record another output in a batch of {size} than in one of "
                    f"{self.size}{self._mode}: people mix, and no person can be clipped. Compute "
                    "nothing over the batch or of its size, and draw by torch's functions alone."
                )

    def _refuse_beside(self, records: Tensor, same: Tensor) -> None:
        layer = self._first_apart(records, same)
        where = f", seen first in what layer {layer[0]} ({layer[1]}) gives" if layer else ""
        raise TrainingRefused(
            f"The model gives a record another output when other people's records are beside it"
            f"{where}, in a batch of {self.size}{self._mode}: people mix, and no person can be "
            "clipped. Compute nothing over the batch: LayerNorm and GroupNorm look at one record."
        )

    def _first_apart(self, records: Tensor, same: Tensor) -> tuple[str, str] | None:
        """The innermost layer, in the order of their ends, whose outputs differ first."""
        given = self.records[USUAL]
        seen = [_outputs_of_layers(self.model, each.to(self.device)) for each in (given, records)]
        for (name, kind, one), (_, _, other) in zip(*seen, strict=False):
            comparable = one.shape == other.shape and len(one) == self.size
            if comparable and _apart(one[same], other[same], SAME_SIZE).any():
                return name or "(model)", kind
        return None

    @property
    def _mode(self) -> str:
        return " in training mode" if self.model.training else " in evaluation mode"

    def _alike(self, records: Tensor, label: Tensor) -> Tensor:
        """[records, outputs + 1]: outputs and losses under one seed."""
        given = records.to(self.device)
        before = given.clone()
        with seeded(), torch.no_grad():
            outputs = fed(self.model, given)
            losses = self.loss_fn(outputs, label.to(self.device))
        if not torch.equal(given, before):
            raise TrainingRefused(
                "The model changes the records that it is given in place. Let its first layer make "
                "a new tensor (inplace=False)."
            )
        rows = outputs.flatten(1)
        if losses.shape != rows.shape[:1]:  # refused by the engines, which ask for one a record
            return rows
        return torch.cat([rows, losses.unsqueeze(1).to(rows.dtype)], 1)


def _apart(one: Tensor, other: Tensor, tolerance: float) -> Tensor:
    """[n] whether rows differ by more than so much of the largest value."""
    if not one.numel():
        return torch.zeros(len(one), dtype=torch.bool)
    a, b = (t.detach().flatten(1).double() for t in (one, other))
    largest = torch.nan_to_num(torch.maximum(a.abs(), b.abs()), posinf=0.0).max()
    same = torch.isclose(a, b, rtol=0.0, atol=float(largest) * tolerance, equal_nan=True)
    return ~same.all(1)


def _outputs_of_layers(model: nn.Module, records: Tensor) -> list[tuple[str, str, Tensor]]:
    found: list[tuple[str, str, Tensor]] = []

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, _: object, made: object) -> None:
            if isinstance(made, Tensor) and made.ndim:
                found.append((name, type(module).__name__, made.detach().clone()))

        return keep

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        with seeded(), torch.no_grad():
            model(records)
    finally:
        for each in hooks:
            each.remove()
    return found


@contextmanager
def _to_try(model: nn.Module) -> Iterator[tuple[Callable[[], nn.Module], bool]]:
    """Gives copies to try; of a model that cannot be copied itself, put right afterwards."""
    try:
        copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - it is anybody's code
        was_training = model.training
        weights = [p.detach().clone() for p in model.parameters()]
        try:
            yield lambda: model, False
        finally:
            model.train(was_training)
            with torch.no_grad():
                for p, weight in zip(model.parameters(), weights, strict=True):
                    p.copy_(weight)
    else:
        yield lambda: copy.deepcopy(model), True


def _move_weights(model: nn.Module) -> None:
    """By about as much as weights of their size begin with."""
    numbers = _numbers()
    with torch.no_grad():
        for p in trainable_parameters(model):
            width = p.numel() / max(1, len(p)) if p.ndim > 1 else 16.0
            p.add_(torch.randn(p.shape, generator=numbers).to(p) * 0.5 / math.sqrt(width))


def _numbers() -> torch.Generator:
    return torch.Generator().manual_seed(0)
