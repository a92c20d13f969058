"""Numbers of a database that are none."""

from collections.abc import Mapping
from decimal import Decimal

import pandas as pd

from lethe.config.tables import Column
from lethe.core.errors import NotFinite


def refuse_nan(values: pd.DataFrame, columns: Mapping[str, Column]) -> None:
    """A database's NaN is a number that went wrong; only its null means that there is none.

    Raises:
        NotFinite: a numeric column holds NaN.
    """
    for name, column in columns.items():
        if column.type in ("integer", "real") and values[name].dtype == object:
            wrong = sum(isinstance(v, float | Decimal) and v != v for v in values[name])
            if wrong:
                raise NotFinite(
                    f"Column {name!r} has {wrong} values that are NaN. Correct the source: where "
                    "there is no value, null says so."
                )
