"""Lethe's own networks without PyTorch: a few matrices from safetensors, multiplied by numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from lethe.core.errors import FileDamaged
from lethe.core.files import RESTORE
from lethe.training.description import WEIGHTS, Architecture, content

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Outputs = Float32Array | Float64Array
# Encoded records [n, features] → what the model gives before it is made a probability [n, outputs].
Network = Callable[[Float32Array], Outputs]
OWN = frozenset({"logistic", "mlp"})  # the models that are matrices; others are modules of users'


@dataclass(frozen=True)
class Matrices:
    """Layers with a tanh between: weight [out, in] and bias [out] each, as PyTorch keeps them.

    In double precision: sums of wide layers would else differ by more than a millionth.
    """

    layers: tuple[tuple[Float64Array, Float64Array], ...]

    @classmethod
    def load(cls, folder: Path, architecture: Architecture) -> "Matrices":
        """Raises: NotFound, FileDamaged: not the weights of that architecture."""
        path = folder / WEIGHTS
        hidden = architecture.hidden if architecture.model == "mlp" else ()
        widths = (architecture.features, *hidden, architecture.outputs)
        shapes = {
            name: shape
            for at, (before, after) in enumerate(pairwise(widths))
            for name, shape in (
                (f"{2 * at}.weight", (after, before)),  # a tanh stands between two layers
                (f"{2 * at}.bias", (after,)),
            )
        }
        try:
            found = load(content(path))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, type(error).__name__) from None
        given = {name: (each.shape, each.dtype) for name, each in found.items()}
        if given != {name: (shape, np.dtype(np.float32)) for name, shape in shapes.items()}:
            raise _damaged(path, "other names, shapes or types")
        return cls(
            tuple(
                (
                    found[f"{2 * at}.weight"].astype(np.float64),
                    found[f"{2 * at}.bias"].astype(np.float64),
                )
                for at in range(len(hidden) + 1)
            )
        )

    def __call__(self, encoded: Float32Array) -> Float64Array:
        out = encoded.astype(np.float64)
        for at, (weight, bias) in enumerate(self.layers):
            out = (np.tanh(out) if at else out) @ weight.T + bias
        return out


def probabilities(outputs: Outputs) -> npt.NDArray[np.float64]:
    """[n, 1] probability of the positive class, or [n, classes]; the same as in training."""
    exact = outputs.astype(np.float64)
    if exact.shape[1] == 1:
        return 0.5 * (1.0 + np.tanh(0.5 * exact))  # the logistic function, which cannot overflow
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    made: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return made


def _damaged(path: Path, why: str) -> FileDamaged:
    return FileDamaged(f"{path} has not the weights of the model beside it ({why}). {RESTORE}")
