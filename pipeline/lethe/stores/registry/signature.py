"""The types that a registered model declares to MLflow."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of MLflow's own imports
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema


@dataclass(frozen=True)
class Input:
    """A column that a model takes: of numbers or of text, either with gaps."""

    name: str
    numeric: bool = False
    required: bool = True


def signature(inputs: Sequence[Input], outputs: Sequence[str]) -> ModelSignature:
    """Whole numbers are double as well: MLflow's have no gaps."""
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(
                    DataType.double if each.numeric else DataType.string,
                    each.name,
                    required=each.required,
                )
                for each in inputs
            ]
        ),
        outputs=Schema([ColSpec(DataType.double, name) for name in outputs]),
    )
