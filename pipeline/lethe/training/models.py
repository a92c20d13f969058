"""What is trained: logistic regression, a multilayer perceptron, or the user's own module.

A model takes records as rows, [n, features] to [n, outputs], and treats each row by
itself. Its architecture and first weights may depend on public numbers only.

Guarantee: the module and function that are called come from `params.yaml`, never from a file
    that a cache or a remote gave; what such a file says is compared, not followed.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, JsonValue, TypeAdapter, with_config
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.config.training import Training
from lethe.core.errors import FileDamaged, NotFound, ParamsInvalid
from lethe.core.files import RESTORE, checked, parse_json
from lethe.data.encoding import Encoder

DESCRIPTION = "model.json"  # in a model's folder
WEIGHTS = "weights.safetensors"
_CLOSED = ConfigDict(extra="forbid", strict=True)

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"

LossFn = Callable[[Tensor, Tensor], Tensor]
Model = nn.Module


@with_config(_CLOSED)
@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the model again."""

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
        """Raises: FileDamaged: a field is missing, unknown or of another type."""
        return checked(_ARCHITECTURE, data, of="The architecture")


_ARCHITECTURE = TypeAdapter(Architecture)


@with_config(_CLOSED)
@dataclass(frozen=True)
class _Described:
    architecture: Architecture
    classes: tuple[str, ...]
    encoder: dict[str, JsonValue]
    plan: dict[str, JsonValue]
    run_id: str


_DESCRIBED = TypeAdapter(_Described)


@dataclass(frozen=True)
class Description:
    """What `model.json` says of a model. `plan` is as it was written; `Plan.from_data` checks it.

    A machine that serves models reads this too, and has no accountant.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    encoder: Encoder
    plan: Mapping[str, Any]
    run_id: str

    @classmethod
    def from_bytes(cls, content: bytes, *, of: str = DESCRIPTION) -> "Description":
        """Raises: FileDamaged: a field is missing, unknown, of another type, or contradicts."""
        found = checked(_DESCRIBED, parse_json(content, of=of), of=of)
        encoder = Encoder.from_data(found.encoder)
        sizes = (len(encoder.names), encoder.outputs, encoder.classes)
        if sizes != (found.architecture.features, found.architecture.outputs, found.classes):
            raise FileDamaged(f"{of} has an architecture for another encoding. {RESTORE}")
        return cls(found.architecture, found.classes, encoder, found.plan, found.run_id)

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Raises: NotFound: the folder has none. FileDamaged: as `from_bytes`."""
        return cls.from_bytes(_content(folder / DESCRIPTION), of=str(folder / DESCRIPTION))

    def require(self, model: str, hidden: Sequence[int]) -> None:
        """Compares with what is declared, before anything is built of it.

        Raises:
            FileDamaged: it is a description of another model.
        """
        if (self.architecture.model, self.architecture.hidden) != (model, tuple(hidden)):
            raise FileDamaged(
                f"{DESCRIPTION} is not of the model that is declared ({model!r}). Nothing of it "
                "was loaded. Train again (lethe run) if params.yaml changed; else find out who "
                "wrote it."
            )


def load_model(
    folder: Path, *, model: str, hidden: Sequence[int], root: Path = Path()
) -> tuple[Description, Model]:
    """A trained model, read back from JSON and safetensors.

    Args:
        model, hidden: as `params.yaml` declares them.
        root: as of `build_model`.

    Guarantees: no name in the folder is imported or called; nothing is unpickled.

    Raises:
        NotFound: the folder has no model.
        FileDamaged: a file is damaged, or of another model than is declared.
    """
    description = Description.read(folder)
    description.require(model, hidden)
    network = build_model(description.architecture, root=root)
    path = folder / WEIGHTS
    try:
        network.load_state_dict(load(_content(path)))
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise FileDamaged(
            f"{path} has not the weights of the model beside it ({type(error).__name__}). {RESTORE}"
        ) from None
    return description, network.eval()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist. Run lethe train first.") from None


def build_model(architecture: Architecture, *, root: Path = Path()) -> nn.Module:
    """A new model with data-independent first weights.

    Args:
        architecture: of `params.yaml`, or compared with it (`load_model`): its module is called.
        root: the workspace's, where `module:function` is imported from; Lethe's own models need
            none.

    Raises:
        ParamsInvalid: the user's module or function is absent, or gives no module.
    """
    a = architecture
    if a.model == "logistic":
        return _mlp(a.features, (), a.outputs)
    if a.model == "mlp":
        return _mlp(a.features, a.hidden, a.outputs)
    return _own(a, root.absolute())


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


_loaded: dict[str, Path] = {}  # modules of users' own, and the workspace that each came from


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Imports from `root` first; another workspace's modules of the same names are forgotten."""
    for name in [name for name, place in _loaded.items() if place != root]:
        sys.modules.pop(name, None)
        del _loaded[name]
    before = set(sys.modules)
    importlib.invalidate_caches()
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        _loaded.update({name: root for name in set(sys.modules) - before if _lies_in(name, root)})


def _lies_in(name: str, root: Path) -> bool:
    """Whether a module is the workspace's own, and not of an environment in its folder."""
    file, top = getattr(sys.modules[name], "__file__", None), name.partition(".")[0]
    if file is None or not Path(file).is_relative_to(root):
        return False
    return Path(file).relative_to(root).parts[0] in (top, f"{top}.py")


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
