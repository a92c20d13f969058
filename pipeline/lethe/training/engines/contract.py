"""What a clipping engine is held to, and what all of them share.

One person's loss is the mean loss of that person's present records: one contribution,
whatever the number of records. Its gradient is clipped to `clip_norm` in L2 over all
parameters together. Absent records (mask false) and people without any have none.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from lethe.core.errors import NotFinite, TrainingRefused

LossFn = Callable[[Tensor, Tensor], Tensor]  # outputs [n, …], labels [n] → losses [n]

# Rounding in float32 may not carry a clipped gradient beyond the clip.
_MARGIN = 1.0 + 2.0**-20


class Engine(Protocol):
    """One way to compute the per-person clipped sum; `model` and `loss_fn` are its own."""

    name: str

    def __call__(
        self, features: Tensor, mask: Tensor, labels: Tensor, *, clip_norm: float
    ) -> tuple[list[Tensor], Tensor]:
        """Sums everybody's clipped gradient.

        Guarantee: adding or removing one person moves the sum by at most `clip_norm`
            in L2, whatever that person's records are.
        Shapes: features [persons, K, ...], mask bool [persons, K], labels [persons, K];
            returns one tensor for each trainable parameter, in the model's order, and
            the norms [persons] before clipping. No persons: zeros and an empty tensor.
        """


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def zero_sums(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p, requires_grad=False) for p in trainable_parameters(model)]


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """What each person's gradient is multiplied by: min(1, clip_norm / norm)."""
    if not (math.isfinite(clip_norm) and clip_norm > 0):
        raise TrainingRefused(f"clip_norm={clip_norm!r} must be finite and above 0.")
    return (clip_norm / (norms * _MARGIN).clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)


def record_weights(mask: Tensor) -> Tensor:
    """[persons, K]: one over the person's number of present records, 0 for absent ones."""
    present = mask.to(torch.float32)
    return present / present.sum(1, keepdim=True).clamp_min(1.0)


def person_losses(losses: Tensor, mask: Tensor) -> Tensor:
    """[persons] mean loss over each one's present records; `losses` is [persons * K].

    An absent record's loss is left out before it is weighted: it may be anything. A present
    one that is not finite makes the person's whole gradient NaN, which stops the run, also
    where its own gradient is finite.
    """
    persons, records = mask.shape
    kept = losses.view(persons, records).masked_fill(~mask, 0.0)
    weights = record_weights(mask).masked_fill(~kept.detach().isfinite(), math.nan)
    return (kept * weights).sum(1)


def checked_losses(losses: Tensor, rows: int) -> Tensor:
    if losses.shape != (rows,):
        raise TrainingRefused(
            f"The loss gives {tuple(losses.shape)} for {rows} records; it must give one number "
            "for each, not a mean over people."
        )
    return losses


def refuse_not_finite(model: nn.Module) -> None:
    """Before a model leaves: raises NotFinite where a weight is none that can be released."""
    if not all(torch.isfinite(p).all() for p in trainable_parameters(model)):
        raise NotFinite(
            "A weight is NaN or infinite. The run counts as spent; lower the learning rate. To "
            "train again is another charge."
        )
