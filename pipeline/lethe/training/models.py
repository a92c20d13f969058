"""What is trained: logistic regression, a multilayer perceptron, or the user's own module.

A model takes records as rows, [n, features] to [n, outputs], and treats each row by
itself. Its architecture and first weights may depend on public numbers only.

Guarantee: the module and function that are called come from `params.yaml`, never from a file
    that a cache or a remote gave; what such a file says is compared, not followed.
"""

import importlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.core.errors import FileDamaged, ParamsInvalid
from lethe.core.files import RESTORE
from lethe.training.description import WEIGHTS, Architecture, Description, content
from lethe.training.reading import ReadsElsewhere, code_alone

LossFn = Callable[[Tensor, Tensor], Tensor]
Model = nn.Module


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
        network.load_state_dict(load(content(path)))
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise FileDamaged(
            f"{path} has not the weights of the model beside it ({type(error).__name__}). {RESTORE}"
        ) from None
    return description, network.eval()


def build_model(architecture: Architecture, *, root: Path = Path(), seed: int = 0) -> nn.Module:
    """A new model with data-independent first weights: the same ones wherever it is built.

    Args:
        seed: public, of the first weights alone; it decides no draw and no noise.
        architecture: of `params.yaml`, or compared with it (`load_model`): its module is called.
        root: the workspace's, where `module:function` is imported from; Lethe's own models need
            none.

    Raises:
        ParamsInvalid: the user's module or function is absent, gives no module, or reads
            something else than code.
    """
    a = architecture
    with _seeded(seed):
        if a.model == "logistic":
            return _mlp(a.features, (), a.outputs)
        if a.model == "mlp":
            return _mlp(a.features, a.hidden, a.outputs)
        try:
            with code_alone(root.absolute()):
                return _own(a, root.absolute())
        except ReadsElsewhere as reading:
            raise ParamsInvalid(
                f"training.model={a.model!r} {reading} while it makes the network. First weights "
                "may know nothing of people: make them in code, of torch's random numbers, which "
                "are seeded. What is public and short can be a module of its own."
            ) from None


def refuse_unrepeatable(
    network: nn.Module, architecture: Architecture, *, root: Path, seed: int
) -> None:
    """Before anything is drawn: no audit could make first weights again that differ each time.

    Raises:
        ParamsInvalid: built again, the network has others.
    """
    first = network.state_dict()
    again = build_model(architecture, root=root, seed=seed).state_dict()
    if first.keys() != again.keys() or not all(torch.equal(first[n], again[n]) for n in first):
        raise ParamsInvalid(
            f"training.model={architecture.model!r} makes other first weights each time, from the "
            "same seed. Draw them with PyTorch's, NumPy's or Python's own generator."
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All that a model may draw first weights with, from a public seed; afterwards as before."""
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


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
