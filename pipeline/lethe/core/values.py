"""One spelling for values that drivers and files spell differently."""

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

EXACT = 2.0**53  # beyond it two whole numbers can be one float


def canonical_text(value: Any) -> str:
    """One spelling of a value that is not null, whatever driver or file it came from.

    Guarantees: 7, 7.0, numpy's and Decimal's 7 are all "7"; text stays as it is.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        number = float(value)
        if number.is_integer() and (isinstance(value, Decimal) or abs(number) <= EXACT):
            return str(int(value))
        return str(value) if isinstance(value, Decimal) else repr(number)
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value)


def by_distinct(values: pd.Series, make: Callable[[Any], Any]) -> np.ndarray:
    """`make` of every value, computed once per distinct one; null gives None.

    Shapes: values (n,) -> object array (n,).
    """
    codes, uniques = pd.factorize(values)
    made = np.empty(len(uniques) + 1, dtype=object)
    for position, value in enumerate(uniques):
        made[position] = make(value)
    return made[codes]


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


def parse_times(values: pd.Series) -> pd.Series:
    """Dates and timestamps of any spelling as UTC; what has no zone is UTC already.

    Guarantees: what is neither a date, a datetime nor ISO 8601 text is null (a bare number
        too: its unit is unknown).
    Shapes: values (n,) -> datetime64[us, UTC] (n,), same index.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return pd.to_datetime(values, utc=True).astype("datetime64[us, UTC]")
    codes, uniques = pd.factorize(values)
    texts = [
        v.isoformat() if hasattr(v, "isoformat") else v.strip() if isinstance(v, str) else None
        for v in uniques
    ]
    parsed = pd.to_datetime(
        pd.Series([*texts, None], dtype=object), utc=True, format="ISO8601", errors="coerce"
    ).astype("datetime64[us, UTC]")
    return pd.Series(parsed.array[codes], index=values.index, name=values.name)
