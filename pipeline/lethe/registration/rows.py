"""Rows as callers bring them: the same rows are the same values, however they come.

A CSV knows no types, so its `01` is text and its `None` a word; JSON has numbers, and frames have
whatever a driver gave. What is read here says in its errors which column is wrong, and repeats
nothing that was given: neither a value nor a name of a column that the model does not know.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lethe.config.tables import Column
from lethe.core.errors import SchemaMismatch
from lethe.core.values import Values, by_distinct, values_of

_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_LARGEST = 10**300  # a whole number beyond is none that a float can be
_ABSENT = object()  # in a record that lacks a column which others have
_OF_CSV = "lethe: blank is null"  # marks a frame: a CSV has no other way to say null
_WITH_POINT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")


def from_csv(content: str) -> pd.DataFrame:
    """The rows of a CSV with a header, every value as it is written. A blank is null (see `taken`).

    Raises:
        SchemaMismatch: there is no header, or a row has more or fewer values than it.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(content, newline=""), strict=True) if line]
    except csv.Error:
        raise SchemaMismatch("The CSV cannot be read: a quote is not closed, or worse.") from None
    if not lines:
        raise SchemaMismatch("The CSV is empty. Its first line must name the columns.")
    names, *rows = lines
    names[0] = names[0].removeprefix("\ufeff")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise SchemaMismatch(
                f"Row {number} of the CSV has {len(row)} values, and the header {len(names)} names."
            )
    made = _frame(names, rows)
    made.attrs[_OF_CSV] = True
    return made


def from_json(content: str | bytes) -> pd.DataFrame:
    """The rows of a JSON request in one of MLflow's four forms.

    Raises:
        SchemaMismatch: it is no JSON, or not of exactly one of the forms.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise SchemaMismatch("The request is not JSON.") from None
    forms = [name for name in _FORMS if isinstance(parsed, dict) and name in parsed]
    if len(forms) != 1:
        raise SchemaMismatch(f"The request must be a JSON object with one of {', '.join(_FORMS)}.")
    given = parsed[forms[0]]
    if forms[0] == "dataframe_split":
        return _from_split(given)
    return from_values(given, of=forms[0])


def from_values(given: Any, *, of: str = "The input") -> pd.DataFrame:
    """Rows of a frame, of objects one a row, or of columns by name.

    Raises:
        SchemaMismatch: it is something else, or its columns differ in length.
    """
    if isinstance(given, pd.DataFrame):
        return given
    if isinstance(given, Mapping):
        columns = {
            name: values.tolist() if isinstance(values, np.ndarray) else values
            for name, values in given.items()
        }
        if not any(isinstance(values, list | tuple | pd.Series) for values in columns.values()):
            columns = {name: [value] for name, value in columns.items()}  # one row
        lengths = {
            len(values) if isinstance(values, list | tuple | pd.Series) else -1
            for values in columns.values()
        }
        if len(lengths) == 1:
            made = {n: pd.Series(list(v), dtype=object) for n, v in columns.items()}
            return pd.DataFrame(made)
        raise SchemaMismatch(f"{of} has columns of different lengths.")
    if isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given):
        names = list(dict.fromkeys(name for row in given for name in row))
        return _frame(names, [[row.get(name, _ABSENT) for name in names] for row in given])
    raise SchemaMismatch(f"{of} must be rows with names of columns, or columns by name.")


def _from_split(given: Any) -> pd.DataFrame:
    if not isinstance(given, dict) or not {"columns", "data"} <= set(given):
        raise SchemaMismatch("dataframe_split needs `columns` and `data`.")
    names, rows = given["columns"], given["data"]
    if not _is_list_of(names, str) or not _is_list_of(rows, list):
        raise SchemaMismatch("dataframe_split needs a list of names and a list of rows.")
    wrong = next((n for n, row in enumerate(rows, start=1) if len(row) != len(names)), None)
    if wrong is not None:
        raise SchemaMismatch(f"Row {wrong} of dataframe_split has not as many values as columns.")
    return _frame(names, rows)


def _frame(names: list[Any], rows: list[list[Any]]) -> pd.DataFrame:
    values = np.empty((len(rows), len(names)), dtype=object)
    for at, row in enumerate(rows):
        for column, value in enumerate(row):
            values[at, column] = value  # one by one: numpy takes a list in a row for a dimension
    return pd.DataFrame(values, columns=pd.Index(names, dtype=object), dtype=object)


def _is_list_of(given: Any, kind: type) -> bool:
    return isinstance(given, list) and all(isinstance(each, kind) for each in given)


def taken(
    raw: pd.DataFrame, columns: Mapping[str, Column | None], optional: Sequence[str]
) -> dict[str, Values]:
    """The columns that a model takes, their values spelled as its declarations spell them.

    Args:
        columns: name → declaration, or None where the column is only a time to count from.
        optional: which may be absent, as if null.

    Guarantees: a blank of a CSV is null, unless the column declares it; elsewhere it is a text.
        `1.0` is spelled as the declared `1`, since frames with gaps write it so; no other text
        is spelled otherwise.

    Raises:
        SchemaMismatch: a column is absent, also from one record alone, is there twice, or has a
            list or object as a value.
    """
    given = [name for name in raw.columns if name in columns]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise SchemaMismatch(f"The columns {twice} are given twice.")
    found = {name: values_of(raw[name]) for name in given}
    lacking = {name for name, values in found.items() if _lacks(values)}
    absent = [
        name for name in columns if (name not in given or name in lacking) and name not in optional
    ]
    if absent:
        raise SchemaMismatch(
            f"The model needs the columns {absent}, which are not given, or not in every record. A "
            "value that is not known is given as null."
        )
    blank_is_null = bool(raw.attrs.get(_OF_CSV))
    return {
        name: _spelled(found[name], name, column, blank_is_null=blank_is_null)
        if name in found
        else np.full(len(raw), None, dtype=object)
        for name, column in columns.items()
    }


def _lacks(values: Values) -> bool:
    return values.dtype == object and any(value is _ABSENT for value in values)


def _spelled(values: Values, name: str, column: Column | None, *, blank_is_null: bool) -> Values:
    declared = frozenset() if column is None else _declared(column)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufM":
        return values
    missing = frozenset(column.missing) if column else frozenset()
    as_declared = _speller(declared, missing, blank_is_null=blank_is_null)
    try:
        return by_distinct(values, as_declared)
    except TypeError:  # of what cannot be compared
        raise SchemaMismatch(
            f"Column {name!r} has a list or an object where one value belongs."
        ) from None


def _declared(column: Column) -> frozenset[str]:
    """The raw values of a column that is declared by them, else none."""
    g = column.generalize
    if g is not None and g.groups is not None:
        return frozenset(value for members in g.groups.values() for value in members)
    return frozenset(column.domain or ())


def _speller(
    declared: frozenset[str], missing: frozenset[str], *, blank_is_null: bool
) -> Callable[[Any], Any]:
    """How one value is spelled that has come by a way that knows no types, or other ones."""
    known = declared | missing

    def spell(value: Any) -> Any:
        if isinstance(value, list | dict | tuple | set):
            raise TypeError
        if value is _ABSENT:
            return None
        if isinstance(value, str):
            value = value if value.isascii() else value.encode("utf-8", "replace").decode()
            if blank_is_null and not value.strip() and not {value, value.strip()} & known:
                return None
            found = _WITH_POINT.fullmatch(value.strip())
            if found and declared and value.strip() not in known:
                whole = found[1] if found[1] != "-0" else "0"
                return whole if whole in known else value
            return value
        if isinstance(value, bool | np.bool_) and declared:
            spellings = [str(value).lower(), str(bool(value)), str(value).upper(), str(int(value))]
            return next((each for each in spellings if each in known), value)
        if isinstance(value, int) and abs(value) > _LARGEST:
            return math.inf if value > 0 else -math.inf
        return value

    return spell
