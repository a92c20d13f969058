"""What stands for a raw value does not depend on the values beside it."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from lethe.core.values import by_distinct, canonical_text


@pytest.mark.parametrize(
    "values",
    [
        [1, True, 0, False, "true", 1.0, True, None],
        [True, 1.0, False, 0.0, None, "1"],
        [Decimal("1"), True, 1, "1", "true", False],
        [np.True_, 1, np.int64(1), np.float64(1.0), "x"],
    ],
)
def test_true_and_1_of_one_column_do_not_decide_for_each_other(values: list[Any]) -> None:
    """pandas takes the two for one value."""
    together = by_distinct(_column(values), canonical_text)
    apart = [by_distinct(_column([each]), canonical_text)[0] for each in values]
    assert together.tolist() == apart


def _column(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
