"""One spelling for values that drivers and files spell differently."""

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
import pandas as pd

from lethe.core.times import day_of, moment_of

# A column without its index: pandas takes ten times as long for a Series of one value.
Values = np.ndarray | pd.api.extensions.ExtensionArray
_FEW = 4  # values: to find those that are distinct takes longer than to make each
EXACT = 2.0**53  # beyond it two whole numbers can be one float


def canonical_text(value: Any) -> str:
    """One spelling of a value that is not null, whatever driver or file it came from.

    Guarantees: 7, 7.0, numpy's and Decimal's 7 are all "7"; text stays as it is; two decimals
        are one text only if they are one number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, Decimal):
        if not value.is_finite() or value != value.to_integral_value():
            return str(value)
        return f"{value.to_integral_value():f}" if value else "0"
    if isinstance(value, float | np.floating):
        number = float(value)
        whole = number.is_integer() and abs(number) <= EXACT
        return str(int(number)) if whole else repr(number)
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def values_of(values: pd.Series | Values) -> Values:
    """A column's values without its index, not copied; moments stay pandas', which know zones."""
    if not isinstance(values, pd.Series):
        return values
    plain = isinstance(values.dtype, np.dtype) and values.dtype.kind not in "mM"
    return values.to_numpy() if plain else values.array


def by_distinct(values: pd.Series | Values, make: Callable[[Any], Any]) -> np.ndarray:
    """`make` of every value, computed once per distinct one; null gives None.

    Shapes: values (n,) -> object array (n,).
    """
    values = values_of(values)
    if len(values) <= _FEW:
        made = np.empty(len(values), dtype=object)
        for position, (value, null) in enumerate(zip(values, pd.isna(values), strict=True)):
            made[position] = None if null else make(value)
        return made
    if pd.api.types.infer_dtype(values).startswith("mixed"):  # pandas takes True and 1 for one
        return _by_distinct_objects(values, make)
    codes, uniques = pd.factorize(pd.Series(values))
    made = np.empty(len(uniques) + 1, dtype=object)
    for position, value in enumerate(uniques):
        made[position] = make(value)
    return made[codes]


def _by_distinct_objects(values: Values, make: Callable[[Any], Any]) -> np.ndarray:
    made: dict[tuple[type, Any], Any] = {}
    found = np.empty(len(values), dtype=object)
    for position, (value, null) in enumerate(zip(values, pd.isna(values), strict=True)):
        if null:
            continue
        kind = (type(value), value)
        if kind not in made:
            made[kind] = make(value)
        found[position] = made[kind]
    return found


def number_of(value: Any) -> float | None:
    """The number that a raw value stands for; None if none."""
    if isinstance(value, str):
        if "_" in value:  # float("1_0") is Python's, not a source's
            return None
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, int | float | Decimal | np.integer | np.floating | np.bool_):
        return float(value)
    return None


def parse_times(values: pd.Series, *, zone: str = "UTC", form: str | None = None) -> pd.Series:
    """Dates and timestamps as moments in UTC; see `lethe.core.times.moment_of`.

    Guarantees: what cannot be read is null (a bare number too: its unit is unknown).
    Shapes: values (n,) -> datetime64[us, UTC] (n,), same index.

    Args:
        zone: of what has none. form: of text, as `strptime` has it; None for ISO 8601.
    """
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return pd.to_datetime(values, utc=True).astype("datetime64[us, UTC]")
    codes, distinct = pd.factorize(values)
    read = [moment_of(value, zone=zone, form=form) for value in distinct]
    made = pd.to_datetime(pd.Series([*read, None], dtype=object), utc=True)
    taken = made.astype("datetime64[us, UTC]").array[codes]
    return pd.Series(taken, index=values.index, name=values.name)


def parse_days(values: pd.Series, *, zone: str = "UTC", form: str | None = None) -> pd.Series:
    """The calendar days of dates and timestamps, as they were written; never by way of UTC.

    Guarantees: as `parse_times`. A database's moment, which keeps no zone, is a day of `zone`.
    Shapes: values (n,) -> datetime64[us] (n,) at midnight, same index.
    """
    codes, distinct = pd.factorize(values)
    read = [day_of(value, zone=zone, form=form) for value in distinct]
    made = pd.to_datetime(pd.Series([*read, None], dtype=object)).astype("datetime64[us]")
    return pd.Series(made.array[codes], index=values.index, name=values.name)


_PLACES = Decimal("0.0001")


def rounded_up(number: float | str) -> str:
    """To four places, never below: a price that is shown is not below the price that was paid."""
    return _rounded(number, ROUND_CEILING)


def rounded_down(number: float | str) -> str:
    """To four places, never above: of noise, more than there was would be the better claim."""
    return _rounded(number, ROUND_FLOOR)


def _rounded(number: float | str, way: str) -> str:
    exact = Decimal(str(number))
    if exact.is_infinite():
        return "without bound"
    return f"{exact.quantize(_PLACES, way).normalize():f}"
