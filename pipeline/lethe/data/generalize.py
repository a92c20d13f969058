"""Raw values made as coarse as declared, checked against the declared domains.

Used by minimize and by the served model alike, so that a value means the same in both.
Works on frames alone; each column is done once per distinct value.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lethe.config.tables import Column
from lethe.core.errors import NotFinite, ParamsInvalid, ValueOutsideDomain
from lethe.core.values import (
    Values,
    by_distinct,
    canonical_text,
    number_of,
    parse_days,
    values_of,
)

_OUTSIDE = object()  # a value that the declaration does not know
_TRUE = frozenset({"1", "true", "t"})
_FALSE = frozenset({"0", "false", "f"})
_ICD9 = re.compile(r"(\d{1,3})(?:\.\d*)?|[EV]\d+(?:\.\d*)?")


@dataclass(frozen=True)
class Generalized:
    """What generalize returns.

    `frame`: categorical and text columns as `str`, numbers as float64; missing is null.
    `outside`: per column, how many values lay outside the declared domain.
    `missing`: per column, how many values were null or a declared missing value.
    `rejected`: per column of policy `reject`, those outside; empty unless counted only.
    """

    frame: pd.DataFrame
    outside: dict[str, int]
    missing: dict[str, int]
    rejected: dict[str, int]


@dataclass(frozen=True)
class GeneralizedColumns:
    """The same by column, without pandas: objects where `frame` has `str`, null None."""

    values: dict[str, np.ndarray]
    outside: dict[str, int]
    missing: dict[str, int]
    rejected: dict[str, int]


def generalize(
    raw: pd.DataFrame,
    columns: Mapping[str, Column],
    *,
    at: Mapping[str, pd.Series] | None = None,
    count_only: bool = False,
    zone: str = "UTC",
) -> Generalized:
    """Makes values as coarse as declared.

    Guarantees: what leaves is null, or one of `Column.categories`, or within
        `Column.limits`; text columns pass as they are.
    Shapes: raw (n, columns) -> frame (n, columns), same index, in the order of `columns`.
    Args:
        raw: values as the source has them, named as in `Params.taken_columns()`.
        at: for each column of `age_at`, the timestamps at which the age counts.
        count_only: do not raise for policy `reject`; null such values and count them in
            `rejected`, for a caller that adds up several frames.
        zone: whose days a database's moments are; what is written says its day itself.

    Raises:
        NotFinite: a number is infinite.
        ValueOutsideDomain: a value is outside its domain and the policy is `reject`.
        ParamsInvalid: a declared column or its `at` is not given.
    """
    given = {name: values_of(raw[name]) for name in columns if name in raw}
    made = generalize_columns(given, columns, at=at, count_only=count_only, zone=zone)
    frame = {
        name: pd.Series(v, index=raw.index, dtype="str" if v.dtype == object else np.float64)
        for name, v in made.values.items()
    }
    return Generalized(
        pd.DataFrame(frame, index=raw.index), made.outside, made.missing, made.rejected
    )


def generalize_columns(
    raw: Mapping[str, Values],
    columns: Mapping[str, Column],
    *,
    at: Mapping[str, pd.Series] | None = None,
    count_only: bool = False,
    zone: str = "UTC",
) -> GeneralizedColumns:
    """As `generalize`, of columns without an index: a request of one row has little time."""
    made: dict[str, np.ndarray] = {}
    outside: dict[str, int] = {}
    missing: dict[str, int] = {}
    rejected: dict[str, int] = {}
    for name, column in columns.items():
        if name not in raw:
            raise ParamsInvalid(f"Column {name!r} is declared but not among the values given.")
        when = None
        if column.generalize is not None and column.generalize.age_at is not None:
            if at is None or name not in at:
                raise ParamsInvalid(
                    f"Column {name!r} becomes an age at {column.generalize.age_at!r}; give that "
                    "timestamp."
                )
            when = at[name]
        made[name], beyond, missing[name] = _one(raw[name], column, when, name, zone)
        outside[name] = beyond
        if beyond and column.outside == "reject":
            rejected[name] = beyond
    if rejected and not count_only:
        raise outside_domain(rejected)
    return GeneralizedColumns(made, outside, missing, rejected)


def outside_domain(rejected: Mapping[str, int]) -> ValueOutsideDomain:
    """The error that names the columns and counts of what lay outside, and no value."""
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(rejected.items()))
    return ValueOutsideDomain(
        f"Values outside their declared domain, by column (count): {listed}. Widen the domain in "
        "params.yaml, name them under missing, or declare outside: null or clip."
    )


def icd9_group(code: str) -> str | None:
    """The chapter group of an ICD-9-CM code; None for what is no such code.

    Source: Strack et al. (2014), doi:10.1155/2014/781670, table 2.
    """
    match = _ICD9.fullmatch(code.strip().upper())
    if match is None:
        return None
    if match.group(1) is None:  # external causes (E) and supplementary (V)
        return "other"
    number = int(match.group(1))
    if number == 250:
        return "diabetes"
    if 390 <= number <= 459 or number == 785:
        return "circulatory"
    if 460 <= number <= 519 or number == 786:
        return "respiratory"
    if 520 <= number <= 579 or number == 787:
        return "digestive"
    if 800 <= number <= 999:
        return "injury"
    if 710 <= number <= 739:
        return "musculoskeletal"
    if 580 <= number <= 629 or number == 788:
        return "genitourinary"
    if 140 <= number <= 239:
        return "neoplasms"
    return "other"


def _one(
    values: Values, column: Column, when: pd.Series | None, name: str, zone: str
) -> tuple[np.ndarray, int, int]:
    """One column's generalized values, and how many lay outside or were missing."""
    if column.role == "text":
        null = _null(values, column)
        return _blank(by_distinct(values, canonical_text), null), 0, int(null.sum())
    g = column.generalize
    if g is not None and (g.year or g.age_at is not None):
        return _of_date(values, column, when, zone)
    if column.type in ("integer", "real") and (g is not None or column.categories is None):
        return _finish_numbers(*_numbers(values, column, name), column)
    if column.categories is None:  # bounds alone
        if column.type in ("date", "timestamp"):
            return _of_date(values, column, None, zone)
        return _finish_numbers(*_numbers(values, column, name), column)
    spelled = _spelled(values, column)
    wrong, kept = _known(by_distinct(spelled, _categorizer(column)))
    return kept, int(wrong.sum()), int(pd.isna(spelled).sum())


def _null(values: Values, column: Column) -> np.ndarray:
    """Which are null, or a declared missing value."""
    null = pd.isna(values)
    return null | pd.Series(values).isin(column.missing).to_numpy() if column.missing else null


def _spelled(values: Values, column: Column) -> np.ndarray:
    """Every value as text without the spaces that a CHAR column pads with; missing is null."""
    known = frozenset(column.missing)

    def spell(value: Any) -> str | None:
        text = canonical_text(value)
        stripped = text.strip()
        return None if text in known or stripped in known else stripped

    return by_distinct(values, spell)


def _categorizer(column: Column) -> Callable[[str], Any]:
    g = column.generalize
    domain = None if column.domain is None else frozenset(column.domain)
    if g is not None and g.groups is not None:
        of = {value: group for group, members in g.groups.items() for value in members}
        rest = g.others if g.others is not None else _OUTSIDE
        return lambda text: (
            _OUTSIDE if domain is not None and text not in domain else of.get(text, rest)
        )
    if g is not None and g.icd9:
        return lambda text: (
            _OUTSIDE
            if domain is not None and text not in domain
            else (icd9_group(text) or _OUTSIDE)
        )
    allowed = frozenset(column.categories or ())
    if g is not None and g.prefix is not None:
        length = g.prefix
        return lambda text: start if (start := text.upper()[:length]) in allowed else _OUTSIDE
    if column.type == "boolean":
        return lambda text: (
            "true" if text.lower() in _TRUE else "false" if text.lower() in _FALSE else _OUTSIDE
        )
    if column.type in ("integer", "real"):

        def as_number(text: str) -> Any:
            number = number_of(text)
            spelled = text if number is None else canonical_text(number)
            return text if text in allowed else spelled if spelled in allowed else _OUTSIDE

        return as_number
    return lambda text: text if text in allowed else _OUTSIDE


def _known(made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which are outside the domain, and the values with those set to null."""
    wrong = made == np.array(_OUTSIDE, dtype=object)
    return wrong, _blank(made, wrong)


def _blank(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    kept = values.astype(object)
    kept[where] = None
    return kept


def _numbers(
    values: Values, column: Column, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers (NaN where none), which are no number of the type, which are missing."""
    texts = frozenset(column.missing)
    tokens = [t for t in map(number_of, column.missing) if t is not None]
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        numbers = np.asarray(values, dtype=np.float64)
        wrong = np.zeros(len(numbers), dtype=bool)
        missing = np.isnan(numbers)
    else:

        def read(value: Any) -> float | None:
            if isinstance(value, str) and value.strip() in texts:
                return None
            number = number_of(value)
            return math.nan if number is None else number

        made = by_distinct(values, read)
        missing = made == np.array(None, dtype=object)
        numbers = made.astype(np.float64)
        wrong = np.isnan(numbers) & ~missing
    if tokens:
        missing = missing | np.isin(numbers, tokens)
        numbers = np.where(missing, np.nan, numbers)
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise NotFinite(
            f"Column {name!r} has {infinite} infinite values. Correct the source, or name them "
            "under missing."
        )
    if column.type == "integer":
        with np.errstate(invalid="ignore"):
            fraction = ~np.isnan(numbers) & (numbers != np.floor(numbers))
        wrong = wrong | fraction
        numbers = np.where(fraction, np.nan, numbers)
    return numbers, wrong, missing


def _finish_numbers(
    numbers: np.ndarray, wrong: np.ndarray, missing: np.ndarray, column: Column
) -> tuple[np.ndarray, int, int]:
    """Bounds, then bottom and top coding or intervals."""
    g = column.generalize
    clip = column.outside == "clip"
    with np.errstate(invalid="ignore"):
        if column.bounds is not None:
            low, high = column.bounds
            wrong = wrong | (numbers < low) | (numbers > high)
            if clip:
                numbers = np.clip(numbers, low, high)
        if g is not None and g.bins is not None:
            edges, names = np.asarray(g.bins), g.intervals or ()
            position = np.searchsorted(edges, numbers, side="right") - 1
            wrong = wrong | (numbers < edges[0]) | (numbers >= edges[-1])
            absent = np.isnan(numbers) if clip else np.isnan(numbers) | wrong
            labels = np.array(names, dtype=object)[np.clip(position, 0, len(names) - 1)]
            return _blank(labels, absent), int(wrong.sum()), int(missing.sum())
    kept = numbers if clip else np.where(wrong, np.nan, numbers)
    if g is not None and (g.bottom is not None or g.top is not None):
        kept = np.clip(
            kept, -np.inf if g.bottom is None else g.bottom, np.inf if g.top is None else g.top
        )
    return kept, int(wrong.sum()), int(missing.sum())


def _of_date(
    values: Values, column: Column, when: pd.Series | None, zone: str
) -> tuple[np.ndarray, int, int]:
    """A date's year, the age at `when`, or the days since 1970 where only bounds are given."""
    g = column.generalize
    missing = _null(values, column)
    # With the other dates' positions, whatever index these came with.
    dated = pd.Series(values, index=None if when is None else when.index)
    times = parse_days(dated.mask(missing), zone=column.time_zone or zone, form=column.format)
    if g is not None and g.year:
        numbers = times.dt.year.to_numpy(dtype=np.float64, na_value=np.nan)
    elif when is not None:
        then = when if pd.api.types.is_datetime64_any_dtype(when) else parse_days(when, zone=zone)
        undated = then.isna().to_numpy() & ~missing
        missing = missing | undated  # no age without the day at which it counts
        before = (then.dt.month < times.dt.month) | (
            (then.dt.month == times.dt.month) & (then.dt.day < times.dt.day)
        )
        years = then.dt.year - times.dt.year - before.astype(np.int64)
        numbers = years.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        days = (times - pd.Timestamp(0)) / pd.Timedelta(days=1)
        numbers = days.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = times.isna().to_numpy() & ~missing
    with np.errstate(invalid="ignore"):
        if when is not None:
            negative = numbers < 0  # born after the record
            wrong, numbers = wrong | negative, np.where(negative, np.nan, numbers)
    if column.categories is not None and (g is None or g.bins is None):
        allowed = frozenset(column.categories)
        spelled = by_distinct(numbers, canonical_text)
        known = np.fromiter((text in allowed for text in spelled), dtype=bool, count=len(spelled))
        wrong = wrong | (~known & ~missing)
        return _blank(spelled, ~known), int(wrong.sum()), int(missing.sum())
    return _finish_numbers(numbers, wrong, missing, column)
