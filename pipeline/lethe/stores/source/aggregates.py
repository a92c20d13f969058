"""Child rows, of which features of the records are made: read once, held as numbers alone.

A row is held as the number of the person or record that it leads to, its day, its moment and its
values: 16 bytes and 8 for each column, and nothing of it leaves but the aggregate.
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sqlalchemy as sa

from lethe.config.aggregates import Aggregate
from lethe.config.links import When
from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.core.errors import ValueOutsideDomain
from lethe.core.times import today
from lethe.core.values import by_distinct, canonical_text
from lethe.data.finite import refuse_nan
from lethe.data.generalize import generalize, outside_domain
from lethe.stores.source import queries
from lethe.stores.source.checks import check_link_types, without_person
from lethe.stores.source.person_key import people_of
from lethe.stores.source.reader import Reader

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

# A row is found by one number: whose it is, then its day. Every day of the calendar is within.
_DAYS = 2**23
_FIRST = 2**22
_SEPARATOR = "\x1f"
_ESCAPED = str.maketrans({"\x1f": "\x1es", "\x1e": "\x1ee"})


@dataclass(frozen=True)
class _Set:
    """Which child rows several aggregates are made of."""

    table: str
    of: str
    by: str | None
    when: When

    @classmethod
    def of_aggregate(cls, made: Aggregate) -> "_Set":
        return cls(made.table, made.of, made.by, made.condition)


@dataclass
class _Rows:
    """Child rows in the order of whose they are and of their days."""

    owners: pd.Index
    places: Whole
    moments: Whole
    values: Mapping[str, Floats]

    def window(self, owners: pd.Series, days: Whole | None, made: Aggregate) -> tuple[Whole, Whole]:
        """From and up to which row each record's child rows lie."""
        # Who has none is -1, before every row.
        start = self.owners.get_indexer(pd.Index(owners)) * _DAYS
        if days is None:
            low, high = start, start + _DAYS
        else:
            here = start + days + _FIRST
            low = start if made.days is None else here - made.days
            high = here + 1 if made.same_day else here
        return np.searchsorted(self.places, low), np.searchsorted(self.places, high)


@dataclass(frozen=True)
class Children:
    """The child rows that the aggregates of a source's records are made of.

    Guarantees: rows past their table's retention, and rows that lead to nobody, are absent; an
        aggregate is made of rows of the record's person alone, and depends on them as a set.

    `outside`: per column, how many values lay outside what is declared. `undated`: per column of
        days (`table.column`), how many rows have none there and so count for no record. Both are
        of the set of rows that has most of them: a row is in several, and counts once.
    """

    rows: Mapping[_Set, _Rows]
    outside: Counter[str]
    undated: Counter[str]

    @classmethod
    def read(cls, reader: Reader, params: Params, as_of: dt.datetime) -> "Children":
        """Reads each table once for each way in which its rows count.

        Raises:
            ValueOutsideDomain, NotFinite: a value or a day is not as declared.
            SchemaMismatch: a link of child rows joins columns of different types.
        """
        wanted: dict[_Set, set[str]] = {}
        for made in params.aggregates.values():
            columns = wanted.setdefault(_Set.of_aggregate(made), set())
            columns |= {made.column} if made.column else set()
        rows: dict[_Set, _Rows] = {}
        outside, undated, rejected = Counter[str](), Counter[str](), Counter[str]()
        for each, columns in wanted.items():
            _check_joins(reader, params, each.table)
            read = _Reading(params, each, sorted(columns))
            for frame in reader.stream(read.statement(reader.dialect, as_of)):
                read.add(frame)
            _at_least(outside, read.outside)
            _at_least(undated, {f"{each.table}.{each.by}": read.undated} if read.undated else {})
            _at_least(rejected, read.rejected)
            rows[each] = read.rows()
        if rejected:
            raise outside_domain(rejected)
        return cls(rows, outside, undated)

    def values(
        self, params: Params, person: pd.Series, own: Mapping[str, pd.Series], as_of: dt.datetime
    ) -> dict[str, pd.Series]:
        """The aggregates of some records; null where there is none: no value, or no day.

        Shapes: person (n,), own columns (n,) -> float64 (n,) for each name of
            `Params.aggregates`, same index.

        Args:
            person: canonical keys. own: the columns that `record_columns` and `at` name.
        """
        found = {}
        for name, made in params.aggregates.items():
            owners = owner(person, [own[each] for each in record_columns(params, made)])
            days = _record_days(params, made, own.get(str(made.at)), person.index, as_of)
            found[name] = self._aggregate(made, owners, days)
        return found

    def _aggregate(self, made: Aggregate, owners: pd.Series, days: pd.Series | None) -> pd.Series:
        rows = self.rows[_Set.of_aggregate(made)]
        there = np.ones(len(owners), dtype=bool) if days is None else days.notna().to_numpy()
        low, high = rows.window(owners, None if days is None else _whole_days(days), made)
        if made.column is None:
            found = (high - low).astype(np.float64)
        else:
            values, compute = rows.values[made.column], _FUNCTIONS[made.function]
            pairs = zip(low.tolist(), high.tolist(), strict=True)
            found = np.fromiter(
                (compute(values[a:b], rows.moments[a:b]) for a, b in pairs),
                dtype=np.float64,
                count=len(owners),
            )
        return pd.Series(np.where(there, found, np.nan), index=owners.index)


def _at_least(counts: Counter[str], others: Mapping[str, int]) -> None:
    for name, count in others.items():
        counts[name] = max(counts[name], count)


def record_columns(params: Params, made: Aggregate) -> tuple[str, ...]:
    """The columns of the records' table by which child rows point at its rows."""
    if made.of == "person":
        return ()
    return params.paths(made.table, params.records.table)[0][-1].references


def owner(person: pd.Series, columns: Sequence[pd.Series]) -> pd.Series:
    """Whose a child row is, and whose a record: the person, and the record where that counts."""
    return joined([person, *columns], person.index) if columns else person


def joined(columns: Sequence[pd.Series], index: pd.Index) -> pd.Series:
    """Several key columns as one text, spelled alike for every source; two rows never as one."""
    found = pd.Series("", index=index, dtype="str")
    for column in columns:
        spelled = by_distinct(column, lambda value: canonical_text(value).translate(_ESCAPED))
        found = found + _SEPARATOR + pd.Series(spelled, index=index, dtype="str").fillna("\x00")
    return found


def _record_days(
    params: Params,
    made: Aggregate,
    written: pd.Series | None,
    index: pd.Index,
    as_of: dt.datetime,
) -> pd.Series | None:
    """The days before which child rows count, one a record; None where they have no day.

    A person who is one record has no day but the one that is declared, or that of `as_of`.

    Args:
        written: the records' values of `at`.
    """
    if made.by is None:
        return None
    if written is None:
        now = pd.Timestamp(today(as_of, params.source.time_zone))
        return pd.Series(now, index=index, dtype="datetime64[us]")
    days = queries.read_days(written, params, params.records.table, str(made.at))
    refuse_unread(written, days, f"{params.records.table}.{made.at} (aggregates)")
    return days


def refuse_unread(values: pd.Series, read: pd.Series, where: str) -> None:
    """Dates that are there and cannot be read stop the run.

    Raises:
        ValueOutsideDomain: there are some; with the count.
    """
    unread = int((read.isna() & values.notna()).sum())
    if unread:
        raise ValueOutsideDomain(
            f"{where} has {unread} values or more that are no dates which can be read. Declare "
            "its format (as strptime has it, such as %d/%m/%Y), or correct the source."
        )


def _check_joins(reader: Reader, params: Params, table: str) -> None:
    """Keys of two types join nowhere, which would look like no child rows at all."""
    if reader.dialect == "postgresql" or without_person(reader, params, table):
        check_link_types(reader, params)


class _Reading:
    """The child rows of one set, on their way from the source into memory."""

    def __init__(self, params: Params, which: _Set, columns: Sequence[str]) -> None:
        self._params, self._which, self._columns = params, which, columns
        self._codes: dict[str, int] = {}
        self._parts: list[tuple[np.ndarray, ...]] = []
        self.outside: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.undated = 0

    def statement(self, dialect: str, as_of: dt.datetime) -> sa.Select[Any]:
        """Whose the rows are, their day, and the values: no other column."""
        params, which = self._params, self._which
        joins = queries.Joins(params, which.table, dialect=dialect, as_of=as_of)
        to_person = params.paths(which.table, params.subject.table)
        wanted = joins.person(to_person, outer=False)
        if which.of == "record":
            to_record = params.paths(which.table, params.records.table)
            references = to_record[0][-1].references
            wanted += [joins.value(to_record, name, outer=False) for name in references]
        self._keys = len(wanted)
        wanted += [joins.base.c[which.by]] if which.by else []
        wanted += [joins.base.c[name] for name in self._columns]
        named = [column.label(f"value{place}") for place, column in enumerate(wanted)]
        where = (*joins.where, *queries.held(which.when, joins.base))
        return sa.select(*named).select_from(joins.source).where(*where)

    def add(self, frame: pd.DataFrame) -> None:
        parts: Iterator[pd.Series] = iter([frame[label] for label in frame.columns])
        whole = len(self._params.subject.keys)
        person = people_of([next(parts) for _ in range(whole)])
        owners = owner(person, [next(parts) for _ in range(self._keys - whole)])
        codes, distinct = pd.factorize(owners)
        known = [self._codes.setdefault(each, len(self._codes)) for each in distinct]
        code: Whole = np.array(known, dtype=np.int64)[codes]
        place: Whole = (code * _DAYS).astype(np.int64)
        moment: Whole = np.zeros(len(frame), dtype=np.int64)
        kept = np.ones(len(frame), dtype=bool)
        if self._which.by is not None:
            written, of = next(parts), (self._params, self._which.table, self._which.by)
            days, moments = queries.read_days(written, *of), queries.read_times(written, *of)
            refuse_unread(written, days, f"{self._which.table}.{self._which.by} (aggregates)")
            kept = days.notna().to_numpy()
            self.undated += int((~kept).sum())
            place = (place + _whole_days(days) + _FIRST).astype(np.int64)
            moment = np.asarray(moments.astype("int64"), dtype=np.int64)
        values = [self._numbers(name, next(parts)) for name in self._columns]
        self._parts.append(tuple(each[kept] for each in (place, moment, *values)))

    def _numbers(self, name: str, values: pd.Series) -> Floats:
        """As coarse as the column is declared; where rows are counted, 1 for each value."""
        column = self._params.tables[self._which.table].columns[name]
        if column.type not in ("integer", "real") or column.categories is not None:
            return np.where(_there(values, column), 1.0, np.nan)
        where = f"{self._which.table}.{name}"
        frame = pd.DataFrame({where: values})
        refuse_nan(frame, {where: column})
        made = generalize(frame, {where: column}, count_only=True)
        self.outside.update(made.outside)
        self.rejected.update(made.rejected)
        return made.frame[where].to_numpy(dtype=np.float64)

    def rows(self) -> _Rows:
        empty = tuple(np.zeros(0, dtype=np.int64) for _ in range(2 + len(self._columns)))
        together = [np.concatenate(each) for each in zip(*(self._parts or [empty]), strict=True)]
        self._parts = []
        order = np.argsort(together[0], kind="stable")
        place, moment, *values = (each[order] for each in together)
        return _Rows(
            owners=pd.Index(list(self._codes), dtype=object),
            places=place,
            moments=moment,
            values=dict(zip(self._columns, values, strict=True)),
        )


def _there(values: pd.Series, column: Column) -> npt.NDArray[np.bool_]:
    known = frozenset(column.missing)
    spelled = by_distinct(values, lambda value: canonical_text(value).strip() not in known)
    return np.array([each is True for each in spelled], dtype=bool)


def _whole_days(days: pd.Series) -> Whole:
    """Days since 1970; 0 where there is none."""
    return days.fillna(pd.Timestamp(0)).to_numpy().astype("datetime64[D]").astype(np.int64)


def _count(values: Floats, _moments: Whole) -> float:
    return float(np.count_nonzero(~np.isnan(values)))


def _sum(values: Floats, _moments: Whole) -> float:
    """Exact, so that the order of rows decides nothing."""
    there = values[~np.isnan(values)]
    try:
        return math.fsum(there.tolist()) if len(there) else math.nan
    except OverflowError:
        return math.inf  # refused as any number that is not finite


def _mean(values: Floats, moments: Whole) -> float:
    return _sum(values, moments) / max(_count(values, moments), 1.0)


def _latest(values: Floats, moments: Whole) -> float:
    """The value of the latest moment that has one; of several the greatest."""
    there = ~np.isnan(values)
    if not there.any():
        return math.nan
    return float(values[there & (moments == moments[there].max())].max())


_FUNCTIONS: Mapping[str, Callable[[Floats, Whole], float]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "latest": _latest,
}
