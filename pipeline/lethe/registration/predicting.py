"""A trained model that takes the source's own values: no registry, no server, no PyTorch.

What a person's values are made into is the same as in training: the same generalization, the
same encoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lethe.config.tables import Column
from lethe.data.encoding import Encoder, ages_of
from lethe.data.generalize import generalize_columns
from lethe.registration import rows
from lethe.registration.matrices import OWN, Matrices, Network, probabilities
from lethe.training.description import Description

PROBABILITY = "probability"
_ROWS_AT_ONCE = 65_536  # bounds the memory of the encoded features


@dataclass(frozen=True)
class Predictor:
    """A trained model with its encoder, free of any registry."""

    encoder: Encoder
    network: Network

    @classmethod
    def load(cls, folder: Path, *, model: str, hidden: Sequence[int]) -> "Predictor":
        """Reads what train wrote: `model.json` and `weights.safetensors`.

        Args:
            model, hidden: what the model is declared to be.

        Guarantees: nothing is unpickled; no name in the folder is imported or called.

        Raises:
            NotFound, FileDamaged: the files are absent, damaged, or of another model.
        """
        if model in OWN:
            description = Description.read(folder)
            description.require(model, hidden)
            network: Network = Matrices.load(folder, description.architecture)
        else:
            from lethe.registration.own_network import load_own  # the one way that needs PyTorch

            description, network = load_own(folder, model=model, hidden=hidden)
        return cls(description.encoder, network)

    def predict(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Probabilities of raw records.

        Shapes: raw (n, source columns) -> (n, 1) `probability` of the positive label, or
            (n, classes) with one column a class; same index.

        Raises:
            SchemaMismatch: a column is not given, or given twice; names each.
            ValueOutsideDomain, NotFinite: as at training, by the declared policy; and a day at
                which an age counts that cannot be read.
        """
        features = self.encoder.features
        columns = {name: features.get(name) for name in input_columns(self.encoder)}
        given = rows.taken(raw, columns, [name for name in columns if may_be_absent(columns[name])])
        at = self.encoder.ages_at(given, features)
        made = generalize_columns(given, features, at=at, zone=self.encoder.zone).values
        names = list(output_columns(self.encoder))
        parts = [np.empty((0, len(names)))]
        for start in range(0, len(raw), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(raw))
            taken = {name: values[start:stop] for name, values in made.items()}
            encoded = self.encoder.encode_columns(taken, rows=stop - start)
            parts.append(probabilities(self.network(encoded)))
        return pd.DataFrame(np.concatenate(parts), index=raw.index, columns=names)


def input_columns(encoder: Encoder) -> tuple[str, ...]:
    """The source's columns that the model takes, each once."""
    ages = ages_of(encoder.features)
    names = [each for name in encoder.features for each in (name, ages.get(name)) if each]
    return tuple(dict.fromkeys(names))


def may_be_absent(column: Column | None) -> bool:
    """Whether a column is declared to have gaps; then a request without it has nothing but gaps."""
    return column is not None and bool(column.missing)


def output_columns(encoder: Encoder) -> tuple[str, ...]:
    """The columns of what the model gives."""
    return (PROBABILITY,) if encoder.binary else encoder.classes
