"""Generalized records become numbers, by declared domains alone.

Nothing here is fitted: categories, limits and bucket counts are public constants
of `params.yaml`, so that encoding leaks nothing and costs no budget. The encoder
writes itself as plain data, the columns' declarations included, which is all that
a served model needs to take the source's own values.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, with_config

from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.core.errors import FileDamaged, NotFinite, SchemaMismatch, ValueOutsideDomain
from lethe.core.files import RESTORE, checked

Float32Array = npt.NDArray[np.float32]

_COLUMN = TypeAdapter(Column)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Encoder:
    """The declared feature columns and the label, and how they become numbers.

    A category becomes one indicator for each declared value, in declared order, and
    one for missing. A number is scaled by its declared limits to [-1, 1]; missing is 0
    with an indicator. A text becomes signed counts of its words in `buckets`, scaled to
    length 1 (Weinberger et al. 2009, arXiv:0902.2206).

    Guarantee: a record's numbers depend on that record and on public declarations only.
    """

    features: Mapping[str, Column]
    label: str
    label_column: Column

    @classmethod
    def from_params(cls, params: Params) -> "Encoder":
        # Why a column is needed changes nothing that is computed: rewording it trains nothing.
        taken = {
            name: (table, replace(column, why="declared in params.yaml"))
            for name, (table, column) in params.taken_columns().items()
        }
        label = next(name for name, place in taken.items() if place[1].role == "label")
        return cls(
            features={n: column for n, (_, column) in taken.items() if column.role != "label"},
            label=label,
            label_column=taken[label][1],
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The label's values in the order of the model's outputs."""
        if self.binary:
            return ("other", " or ".join(self.label_column.positive or ()))
        return self.label_column.categories or ()

    @property
    def binary(self) -> bool:
        """Whether the label is one yes or no, by its declared `positive` values."""
        return bool(self.label_column.positive)

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for one record: a logit, or one for each class."""
        return 1 if self.binary else len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each encoded number, in order."""
        found: list[str] = []
        for name, column in self.features.items():
            if column.role == "text":
                found += [f"{name}#{bucket}" for bucket in range(column.buckets)]
            elif column.categories is not None:
                found += [f"{name}={value}" for value in column.categories]
                found.append(f"{name}=(missing)")
            else:
                found += [name, f"{name}=(missing)"]
        return tuple(found)

    def encode(self, frame: pd.DataFrame) -> Float32Array:
        """Encodes generalized records.

        Shapes: `frame` has n rows and the feature columns (others are not looked at);
            the result is float32 [n, len(names)].

        Raises:
            SchemaMismatch: a feature column is absent.
            ValueOutsideDomain: a value is none of the declared ones; names column and count.
            NotFinite: a number is infinite.
        """
        _require(frame, self.features)
        out = np.zeros((len(frame), len(self.names)), dtype=np.float32)
        rows = np.arange(len(frame))
        at = 0
        for name, column in self.features.items():
            if column.role == "text":
                out[:, at : at + column.buckets] = _hashed(frame[name], column.buckets)
                at += column.buckets
            elif column.categories is not None:
                codes = _codes(frame[name], column.categories, name)
                codes[codes < 0] = len(column.categories)
                out[rows, at + codes] = 1.0
                at += len(column.categories) + 1
            else:
                scaled, absent = _scaled(frame[name], column, name)
                out[:, at] = scaled
                out[:, at + 1] = absent
                at += 2
        return out

    def labels(self, frame: pd.DataFrame) -> Float32Array | npt.NDArray[np.int64]:
        """The label as 0.0 and 1.0 (float32) where `positive` is declared, else as classes (int64).

        Raises:
            SchemaMismatch: the label column is absent.
            ValueOutsideDomain: a label is missing or none of the declared ones.
        """
        _require(frame, [self.label])
        categories = self.label_column.categories or ()
        codes = _codes(frame[self.label], categories, self.label)
        if (codes < 0).any():
            raise ValueOutsideDomain(
                f"Label {self.label!r} is missing in {int((codes < 0).sum())} records; leave them "
                "out before training."
            )
        if not self.binary:
            return codes
        positive = np.array([value in (self.label_column.positive or ()) for value in categories])
        labels: Float32Array = positive[codes].astype(np.float32)
        return labels

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The records that have a label; a new frame."""
        _require(frame, [self.label])
        return frame[frame[self.label].notna()]

    def to_data(self) -> dict[str, Any]:
        """Everything needed to encode elsewhere, as JSON."""

        def plain(column: Column) -> Any:
            return _COLUMN.dump_python(column, mode="json", exclude_defaults=True)

        return {
            "features": [{"name": n, "column": plain(c)} for n, c in self.features.items()],
            "label": {"name": self.label, "column": plain(self.label_column)},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Encoder":
        """Raises: FileDamaged: a field is missing, unknown, of another type or impossible."""
        found = checked(_WRITTEN, data, of="The encoding")
        features = {each.name: each.column for each in found.features}
        if len(features) < len(found.features):
            raise FileDamaged(f"The encoding has a feature twice. {RESTORE}")
        return cls(features, found.label.name, found.label.column)


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Declared:
    name: str
    column: Column


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Written:
    """An encoder as JSON has it."""

    features: tuple[_Declared, ...]
    label: _Declared


_WRITTEN = TypeAdapter(_Written)


def _require(frame: pd.DataFrame, names: Any) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise SchemaMismatch(f"Columns {absent} are declared, but not in the records.")


def _codes(values: pd.Series, categories: tuple[str, ...], name: str) -> npt.NDArray[np.int64]:
    """Position of each value among the declared ones; -1 where it is missing."""
    codes = pd.Index(categories).get_indexer(pd.Index(values.astype(object)))
    missing = values.isna().to_numpy()
    strangers = int(((codes < 0) & ~missing).sum())
    if strangers:
        raise ValueOutsideDomain(
            f"Column {name!r} has {strangers} values outside its declared domain. Generalize the "
            "records by the same declarations first."
        )
    return np.where(missing, -1, codes).astype(np.int64)


def _scaled(
    values: pd.Series, column: Column, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    low, high = column.limits or (0.0, 0.0)
    numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise NotFinite(f"Column {name!r} has {infinite} infinite values; they cannot be encoded.")
    absent = np.isnan(numbers)
    strangers = int(((numbers < low) | (numbers > high)).sum())
    if strangers:
        raise ValueOutsideDomain(
            f"Column {name!r} has {strangers} values outside [{low:g}, {high:g}]. Generalize the "
            "records by the same declarations first."
        )
    scaled = 2.0 * (numbers - low) / (high - low) - 1.0
    return np.where(absent, 0.0, scaled), absent


@lru_cache(maxsize=65536)
def _bucket(word: str, buckets: int) -> tuple[int, float]:
    """Where a word is counted and with which sign; the same on every machine."""
    digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return (digest >> 1) % buckets, 1.0 if digest & 1 else -1.0


def _hashed(values: pd.Series, buckets: int) -> npt.NDArray[np.float64]:
    out = np.zeros((len(values), buckets))
    for row, text in enumerate(values):
        if not isinstance(text, str):
            continue
        for word in _WORD.findall(text.lower()):
            bucket, sign = _bucket(word, buckets)
            out[row, bucket] += sign
    length = np.linalg.norm(out, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = np.divide(out, length, out=out, where=length > 0)
    return scaled
