"""Generalized records become numbers, by declared domains alone.

Nothing here is fitted: categories, limits and bucket counts are public constants
of `params.yaml`, so that encoding leaks nothing and costs no budget. The encoder
writes itself as plain data, the columns' declarations included, which is all that
a served model needs to take the source's own values.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, ConfigDict, TypeAdapter, with_config

from lethe.config.tables import Column
from lethe.core.errors import FileDamaged, NotFinite, SchemaMismatch, ValueOutsideDomain
from lethe.core.files import RESTORE, checked
from lethe.core.times import check_zone
from lethe.core.values import Values, parse_days

Float32Array = npt.NDArray[np.float32]

_COLUMN = TypeAdapter(Column)
_WORD = re.compile(r"\w+")


class Declarations(Protocol):
    """What of `params.yaml` an encoding is made of; a served model knows no more of it."""

    def taken_columns(self) -> dict[str, tuple[str, Column]]: ...

    def age_times(self) -> dict[str, Column]: ...

    @property
    def source(self) -> Any: ...


@dataclass(frozen=True)
class Encoder:
    """The declared feature columns and the label, and how they become numbers.

    A category becomes one indicator for each declared value, in declared order, and
    one for missing. A number is scaled by its declared limits to [-1, 1]; missing is 0
    with an indicator. A text becomes signed counts of its words in `buckets`, scaled to
    length 1 (Weinberger et al. 2009, arXiv:0902.2206).

    Guarantee: a record's numbers depend on that record and on public declarations only.

    `times`: the columns at whose days an age counts. `zone`: of times that have none.
    """

    features: Mapping[str, Column]
    label: str
    label_column: Column
    times: Mapping[str, Column] = field(default_factory=dict)
    zone: str = "UTC"

    @classmethod
    def from_params(cls, params: Declarations) -> "Encoder":
        taken = {name: _bare(column) for name, (_, column) in params.taken_columns().items()}
        label = next(name for name, column in taken.items() if column.role == "label")
        return cls(
            features={name: column for name, column in taken.items() if column.role != "label"},
            label=label,
            label_column=taken[label],
            times={name: _bare(column) for name, column in params.age_times().items()},
            zone=params.source.time_zone,
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

    @cached_property
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

    def ages_at(
        self, raw: pd.DataFrame | Mapping[str, Values], columns: Mapping[str, Column]
    ) -> dict[str, pd.Series]:
        """For each column that becomes an age, the days at which it counts.

        Raises:
            ValueOutsideDomain: one is there and cannot be read; names column and count.
        """
        return {name: self._days(pd.Series(raw[at]), at) for name, at in ages_of(columns).items()}

    def _days(self, values: pd.Series, name: str) -> pd.Series:
        column = self.times.get(name)  # an encoding of the version before has none
        zone = (column.time_zone if column else None) or self.zone
        form = column.format if column else None
        days = parse_days(values, zone=zone, form=form)
        unread = int((days.isna() & values.notna()).sum())
        if unread:
            raise ValueOutsideDomain(
                f"Column {name!r} (age_at) has {unread} values that cannot be read as dates. Write "
                f"them as {form or 'ISO 8601 (2020-12-31)'}, as training has read them."
            )
        return days

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
        return self.encode_columns(frame, rows=len(frame))

    def encode_columns(
        self, frame: pd.DataFrame | Mapping[str, np.ndarray], *, rows: int
    ) -> Float32Array:
        """As `encode`, of columns that need not be pandas' and are all there, of `rows` each."""
        out = np.zeros((rows, len(self.names)), dtype=np.float32)
        each = np.arange(rows)
        at = 0
        for name, column in self.features.items():
            if column.role == "text":
                out[:, at : at + column.buckets] = _hashed(frame[name], column.buckets)
                at += column.buckets
            elif column.categories is not None:
                codes = _codes(frame[name], column.categories, name)
                codes[codes < 0] = len(column.categories)
                out[each, at + codes] = 1.0
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

        def named(columns: Mapping[str, Column]) -> list[dict[str, Any]]:
            return [{"name": name, "column": plain(column)} for name, column in columns.items()]

        return {
            "features": named(self.features),
            "label": {"name": self.label, "column": plain(self.label_column)},
            "times": named(self.times),
            "time_zone": self.zone,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Encoder":
        """Raises: FileDamaged: a field is missing, unknown, of another type or impossible."""
        found = checked(_WRITTEN, data, of="The encoding")
        features, times = (
            {each.name: each.column for each in listed} for listed in (found.features, found.times)
        )
        if (len(features), len(times)) != (len(found.features), len(found.times)):
            raise FileDamaged(f"The encoding has a column twice. {RESTORE}")
        return cls(features, found.label.name, found.label.column, times, found.time_zone)


def ages_of(columns: Mapping[str, Column]) -> dict[str, str]:
    """Each column that becomes an age → the column of the day at which it counts."""
    return {
        name: column.generalize.age_at
        for name, column in columns.items()
        if column.generalize is not None and column.generalize.age_at is not None
    }


def _bare(column: Column) -> Column:
    """Why a column is needed changes nothing that is computed: rewording it trains nothing."""
    return replace(column, why="declared in params.yaml")


def _known_zone(name: str) -> str:
    check_zone(name)
    return name


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Declared:
    name: str
    column: Column


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class _Written:
    """An encoder as JSON has it; up to 0.1.0 without times and zone."""

    features: tuple[_Declared, ...]
    label: _Declared
    times: tuple[_Declared, ...] = ()
    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"


_WRITTEN = TypeAdapter(_Written)


def _require(frame: pd.DataFrame, names: Any) -> None:
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise SchemaMismatch(f"Columns {absent} are declared, but not in the records.")


def _codes(
    values: pd.Series | np.ndarray, categories: tuple[str, ...], name: str
) -> npt.NDArray[np.int64]:
    """Position of each value among the declared ones; -1 where it is missing."""
    position = {category: at for at, category in enumerate(categories)}
    taken = np.asarray(values, dtype=object)
    codes = np.fromiter((position.get(value, -1) for value in taken), np.int64, count=len(taken))
    missing = pd.isna(taken)
    strangers = int(((codes < 0) & ~missing).sum())
    if strangers:
        raise ValueOutsideDomain(
            f"Column {name!r} has {strangers} values outside its declared domain. Generalize the "
            "records by the same declarations first."
        )
    return np.where(missing, -1, codes)


def _scaled(
    values: pd.Series | np.ndarray, column: Column, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    low, high = column.limits or (0.0, 0.0)
    if isinstance(values, pd.Series):
        values = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = values
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


def _hashed(values: pd.Series | np.ndarray, buckets: int) -> npt.NDArray[np.float64]:
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
