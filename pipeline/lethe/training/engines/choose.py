"""The sum of everybody's clipped gradients: which engine computes it.

`make_engine` refuses what no engine can clip per person, and tries the chosen engine
against plain gradients, person by person, on a handful of made-up records before it
sees a real one.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from lethe.core.errors import TrainingRefused
from lethe.training.engines.bookkeeping import BookkeepingEngine
from lethe.training.engines.contract import Engine, LossFn, trainable_parameters
from lethe.training.engines.reference import (
    FunctionalEngine,
    OpacusEngine,
    OpacusGhostEngine,
    PlainEngine,
)
from lethe.training.engines.separation import EXTREME, Make, TriedRecords, refuse_mixing
from lethe.training.person_randomness import PersonRandomness

ENGINES = ("bookkeeping", "functional", "opacus_ghost", "opacus")

_MAKERS: dict[str, Callable[[nn.Module, LossFn], Engine]] = {
    "bookkeeping": BookkeepingEngine,
    "functional": FunctionalEngine,
    "opacus": OpacusEngine,
    "opacus_ghost": OpacusGhostEngine,
    "plain": PlainEngine,
}


def refuse_unclippable(model: nn.Module) -> None:
    """Refuses layers under which one person's record changes what others contribute.

    Raises:
        TrainingRefused: names the layer.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        where = f"Layer {name or '(model)'} ({kind})"
        if isinstance(module, _BatchNorm):
            raise TrainingRefused(
                f"{where} normalizes over the batch, so people mix and no person can be clipped. "
                "Use GroupNorm or LayerNorm."
            )
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise TrainingRefused(
                f"{where} keeps running statistics of the data, which are not noised. "
                "Set track_running_stats=False."
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (
            module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        ):
            raise TrainingRefused(
                f"{where} uses max_norm, scale_grad_by_freq or sparse, which depend on the batch."
            )
    if not trainable_parameters(model):
        raise TrainingRefused("The model has no trainable parameter.")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise TrainingRefused(
                f"Parameter {name!r} is of {str(parameter.dtype).removeprefix('torch.')}; clip and "
                "noise are of float32. Make the model with float32 parameters."
            )


def make_engine(
    name: str, model: nn.Module, loss_fn: LossFn, *, record_shape: tuple[int, ...], classes: int
) -> Engine:
    """An engine that was tried on this model; `auto` takes the first that is right.

    Args:
        record_shape: of one record's features, without persons and K.
        classes: of the label; 1 for a label of 0.0 and 1.0.

    Raises:
        TrainingRefused: the model mixes people or keeps something of them in a handful of
            records (`rehearsal` tries the run's own sizes), or the forced engine disagrees with
            plain gradients.
    """
    refuse_unclippable(model)
    refuse_mixing(model, loss_fn, TriedRecords(whole_numbers(record_shape), classes, (6,)))
    probe = _Probe(model, loss_fn, record_shape, classes)
    if name != "auto":
        problem = probe.problem(_MAKERS[name])
        if problem:
            raise TrainingRefused(f"Engine {name} cannot clip this model per person: {problem}")
        return _MAKERS[name](model, loss_fn)
    for candidate in ENGINES:
        if probe.problem(_MAKERS[candidate]) is None:
            return _MAKERS[candidate](model, loss_fn)
    return PlainEngine(model, loss_fn)


def whole_numbers(record_shape: tuple[int, ...]) -> Make:
    """Records of 0 and 1: also row numbers of an embedding can be read from them."""

    def make(count: int, kind: str, numbers: torch.Generator) -> Tensor:
        if kind == EXTREME:
            each = torch.randint(0, 2, (count,), generator=numbers).float()
            return each.view(count, *(1 for _ in record_shape)).expand(count, *record_shape).clone()
        return torch.randint(0, 2, (count, *record_shape), generator=numbers).float()

    return make


class _Probe:
    """Made-up records to try an engine on; nothing of the people's data."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, record_shape: tuple[int, ...], classes: int
    ) -> None:
        self.model, self.loss_fn = model, loss_fn
        device = next(model.parameters()).device
        numbers = torch.Generator().manual_seed(0)
        shape = (3, 2, *record_shape)
        # Small whole numbers: also row numbers of an embedding can be read from them.
        self.features = torch.randint(0, 2, shape, generator=numbers).float().to(device)
        labels = torch.randint(0, max(classes, 2), (3, 2), generator=numbers)
        self.labels = (labels.float() if classes == 1 else labels).to(device)
        self.mask = torch.tensor([[True, True], [True, False], [True, True]], device=device)

    def problem(self, maker: Callable[[nn.Module, LossFn], Engine]) -> str | None:
        """Why an engine is not right for this model; None if it is."""
        was_training = self.model.training
        self.model.train()  # with the same dropout in both
        arguments = (self.features, self.mask, self.labels)
        tokens = np.arange(len(self.mask), dtype=np.uint32)
        try:
            with PersonRandomness(0, 0, tokens):
                expected, norms = PlainEngine(self.model, self.loss_fn)(*arguments, clip_norm=1e-2)
            with PersonRandomness(0, 0, tokens):
                found, own = maker(self.model, self.loss_fn)(*arguments, clip_norm=1e-2)
            agree = torch.allclose(norms, own, rtol=1e-3, atol=1e-5) and all(
                torch.allclose(a, b, rtol=1e-3, atol=1e-6)
                for a, b in zip(expected, found, strict=True)
            )
        except (TrainingRefused, RuntimeError, NotImplementedError, ValueError) as error:
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            self.model.train(was_training)
        return None if agree else "its result differs from plain gradients, person by person."
