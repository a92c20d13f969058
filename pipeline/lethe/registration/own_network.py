"""A network of the user's own in a served model: the one that needs PyTorch where it is served."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lethe.registration.matrices import Float32Array, Network
from lethe.training.description import Description
from lethe.training.models import load_model


def load_own(folder: Path, *, model: str, hidden: Sequence[int]) -> tuple[Description, Network]:
    """Raises: NotFound, FileDamaged, ParamsInvalid: as `load_model`."""
    description, network = load_model(folder, model=model, hidden=hidden)

    def outputs(encoded: Float32Array) -> Float32Array:
        with torch.no_grad():
            made: Float32Array = network(torch.from_numpy(encoded)).numpy()
        return made

    return description, outputs
