"""What is trained: logistic regression, a multilayer perceptron, or the user's own module.

A model takes records as rows, [n, features] to [n, outputs], and treats each row by
itself. Its architecture and first weights may depend on public numbers only.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.config.training import Training
from lethe.core.errors import ParamsInvalid

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"

LossFn = Callable[[Tensor, Tensor], Tensor]
Model = nn.Module


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the model again, without `params.yaml`."""

    model: str
    hidden: tuple[int, ...]
    features: int
    outputs: int

    @classmethod
    def of(cls, training: Training, *, features: int, outputs: int) -> "Architecture":
        return cls(training.model, tuple(training.hidden), features, outputs)

    def to_data(self) -> dict[str, Any]:
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Architecture":
        return cls(data["model"], tuple(data["hidden"]), data["features"], data["outputs"])


def load_model(folder: Path) -> nn.Module:
    """The trained model of a folder with `model.json` and `weights.safetensors`, to be asked.

    Raises:
        ParamsInvalid: as `build_model`.
    """
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    model = build_model(Architecture.from_data(described["architecture"]))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


def build_model(architecture: Architecture, *, root: Path | None = None) -> nn.Module:
    """A new model with data-independent first weights.

    Args:
        root: where `module:function` is imported from; the working directory by default.

    Raises:
        ParamsInvalid: the user's module or function is absent, or gives no module.
    """
    a = architecture
    if a.model == "logistic":
        return _mlp(a.features, (), a.outputs)
    if a.model == "mlp":
        return _mlp(a.features, a.hidden, a.outputs)
    return _own(a, root or Path.cwd())


def loss_for(outputs: int) -> LossFn:
    """Loss of each record, [n]: logistic for one output, cross-entropy for several."""
    return binary_loss if outputs == 1 else class_loss


def binary_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs[..., 0], labels, reduction="none")


def class_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def probabilities(outputs: Tensor) -> Tensor:
    """[n] probability of the positive class, or [n, classes]."""
    return outputs[..., 0].sigmoid() if outputs.shape[-1] == 1 else outputs.softmax(-1)


def _mlp(features: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = features
    for size in hidden:
        # Bounded activations keep gradients short, so that less is lost to the clip
        # (Papernot et al. 2021, arXiv:2007.14191).
        layers += [nn.Linear(width, size), nn.Tanh()]
        width = size
    last = nn.Linear(width, outputs)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    return nn.Sequential(*layers, last)


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))


def _own(architecture: Architecture, root: Path) -> nn.Module:
    name = architecture.model
    module_name, _, function_name = name.partition(":")
    with _importable(root):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise ParamsInvalid(
                f"training.model={name!r}: no module {error.name!r} in {root}."
            ) from None
        function = getattr(module, function_name, None)
        if not callable(function):
            raise ParamsInvalid(
                f"training.model={name!r}: {module_name} has no function {function_name!r}."
            )
        model = function(architecture.features, architecture.outputs)
    if not isinstance(model, nn.Module):
        raise ParamsInvalid(
            f"training.model={name!r} returned {type(model).__name__}, not a torch.nn.Module."
        )
    return model
