"""The registered model: the source's own columns in, probabilities out.

It carries its declarations and this package's code with it, so a machine that serves it needs
neither Lethe nor `params.yaml`. What a person's values are made into is the same as in
training: the same generalization, the same encoding.

A registered model is code (this package's, and an own network's) with data beside it: whoever
may write to MLflow's artifacts runs code where it is served. What is data stays data: the code
names the network and the digests of its files, and loads nothing else.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lethe.core.errors import FileDamaged, SchemaMismatch
from lethe.core.files import digests
from lethe.data.encoding import Encoder
from lethe.data.generalize import generalize
from lethe.training.models import load_model, probabilities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow's own imports
    from mlflow.pyfunc import PythonModel, PythonModelContext

PROBABILITY = "probability"
_ROWS_AT_ONCE = 65_536  # bounds the memory of the encoded features


@dataclass(frozen=True)
class Predictor:
    """A trained model with its encoder, free of any registry."""

    encoder: Encoder
    network: nn.Module

    @classmethod
    def load(cls, folder: Path, *, model: str, hidden: Sequence[int]) -> "Predictor":
        """Reads what train wrote: `model.json` and `weights.safetensors`.

        Args:
            model, hidden: what the model is declared to be.

        Raises:
            FileDamaged: the files are damaged, or of another model.
        """
        description, network = load_model(folder, model=model, hidden=hidden)
        return cls(description.encoder, network)

    def predict(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Probabilities of raw records.

        Shapes: raw (n, source columns) -> (n, 1) `probability` of the positive label, or
            (n, classes) with one column a class; same index.

        Raises:
            SchemaMismatch: a column is not given; names each.
            ValueOutsideDomain, NotFinite: as at training, by the declared policy.
        """
        absent = [name for name in input_columns(self.encoder) if name not in raw.columns]
        if absent:
            raise SchemaMismatch(
                f"The model needs the columns {absent}, which are not given. A value that is not "
                "known is given as null."
            )
        features = self.encoder.features
        at = {
            name: raw[column.generalize.age_at]
            for name, column in features.items()
            if column.generalize is not None and column.generalize.age_at is not None
        }
        made = generalize(raw, features, at=at).frame
        names = list(output_columns(self.encoder))
        parts = [np.empty((0, len(names)))]
        with torch.no_grad():
            for start in range(0, len(made), _ROWS_AT_ONCE):
                encoded = self.encoder.encode(made.iloc[start : start + _ROWS_AT_ONCE])
                outputs = probabilities(self.network(torch.from_numpy(encoded)))
                parts.append(outputs.double().numpy().reshape(len(encoded), len(names)))
        return pd.DataFrame(np.concatenate(parts), index=raw.index, columns=names)


class LetheModel(PythonModel):
    """The MLflow face of `Predictor`.

    Args:
        model, hidden: the network, as `params.yaml` declared it at registration.
        sha256: name → digest of the model's files, as they were registered.
    """

    def __init__(self, *, model: str, hidden: Sequence[int], sha256: Mapping[str, str]) -> None:
        self._model, self._hidden, self._sha256 = model, tuple(hidden), dict(sha256)

    def load_context(self, context: PythonModelContext) -> None:
        """Raises: FileDamaged: a file is not the one that was registered."""
        folder = Path(context.artifacts["model"])
        if digests(folder) != self._sha256:
            raise FileDamaged(
                "The model's files are not those that were registered. Nothing of them was "
                "loaded; find out who can write to MLflow's artifacts."
            )
        self._predictor = Predictor.load(folder, model=self._model, hidden=self._hidden)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        return self._predictor.predict(model_input)


def input_columns(encoder: Encoder) -> tuple[str, ...]:
    """The source's columns that the model takes, each once."""
    names: dict[str, None] = {}
    for name, column in encoder.features.items():
        names[name] = None
        if column.generalize is not None and column.generalize.age_at is not None:
            names[column.generalize.age_at] = None
    return tuple(names)


def output_columns(encoder: Encoder) -> tuple[str, ...]:
    """The columns of what the model gives."""
    return (PROBABILITY,) if encoder.binary else encoder.classes
