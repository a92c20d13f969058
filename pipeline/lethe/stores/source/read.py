"""The source: a database or folder with people in it, read and never written.

One connection, one read-only snapshot, streamed in chunks. Every statement names its
columns, and only columns that `params.yaml` declares for use are ever named.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.closing import Closing
from lethe.core.text import folded
from lethe.core.values import by_distinct, canonical_text, number_of
from lethe.data.encoding import ages_of
from lethe.data.names import name_words
from lethe.stores.source import queries
from lethe.stores.source.aggregates import Children, joined, record_columns, refuse_unread
from lethe.stores.source.checks import (
    check_linked,
    check_links,
    check_purpose,
    check_subjects,
    without_person,
)
from lethe.stores.source.key_types import check_key_types
from lethe.stores.source.person_key import people_of
from lethe.stores.source.purposes import is_one_of, purposes, spelled
from lethe.stores.source.reader import Reader
from lethe.stores.source.schema import TableInfo, check_schema, check_types, may_be_read


@dataclass(frozen=True)
class RecordChunk:
    """Some records, as the source has them; all parts have one index.

    `subject`: canonical keys. `order`: `records.latest_by` (UTC, float64 or text; null
    without one). `row_key`: distinguishes a person's records of one `order`, the same way on
    every read. `values`: raw values by `Params.taken_columns()` name. `at`: for each column
    of `age_at`, the days on which the age counts, as they were written.
    """

    subject: pd.Series
    order: pd.Series
    row_key: pd.Series
    values: pd.DataFrame
    at: Mapping[str, pd.Series]


class Source(Closing):
    """An open source; use as a context manager.

    Guarantees: nothing is written; all reads see one snapshot; no statement names a column
        that is undeclared or unused, and an identifier only in `known_names`.
    """

    def __init__(self, reader: Reader, params: Params) -> None:
        self._reader = reader
        self._params = params

    @classmethod
    def open(cls, params: Params) -> "Source":
        """Connects and begins the snapshot.

        Raises:
            SourceUnavailable: absent, or does not answer; never shows credentials.
        """
        return cls(Reader(params), params)

    def close(self) -> None:
        """Ends the snapshot; a folder's private copy is removed."""
        self._reader.close()

    @property
    def engine(self) -> sa.Engine:
        """The engine that every statement goes through, for those who listen to it."""
        return self._reader.engine

    def tables(self) -> dict[str, TableInfo]:
        """Reflected tables and views; reads no row."""
        return self._reader.tables()

    def outside(self) -> tuple[str, ...]:
        """What the database has where nobody is looked for; see `schema.outside`."""
        return self._reader.outside()

    def check(self, params: Params) -> None:
        """Compares the source with the declarations before a value is taken.

        Raises:
            SchemaMismatch: tables, columns or links are not as declared, or a type is of no use.
            ParamsInvalid: nobody was asked about the purpose.
            SubjectKeyInvalid: a subject key is null or not unique.
            TooFewSubjects: fewer than `subject.minimum`.
        """
        check_schema(params, self.tables())
        check_types(params, self.tables(), self._reader.dialect)
        check_key_types(self._reader, params)
        check_links(self._reader, params)
        check_subjects(self._reader, params)
        check_purpose(self._reader, params)

    def subjects(self) -> Iterator[pd.Series]:
        """Canonical keys of every person in the source, in chunks."""
        for frame in self._reader.stream(queries.everybody(self._params)):
            yield queries.subjects_in(frame)

    def children(self, params: Params, as_of: dt.datetime) -> Children:
        """The rows of which the records' aggregates are made; see `Children.read`."""
        return Children.read(self._reader, params, as_of)

    def records(
        self, params: Params, as_of: dt.datetime, children: Children | None = None
    ) -> Iterator[RecordChunk]:
        """Every record within its retention, in chunks of `source.chunk_rows`.

        Guarantees: one statement; a joined row past its own table's retention is as absent;
            of child rows the aggregates alone are given.

        Args:
            children: what `children` gives; read here if not given.

        Raises:
            SubjectKeyInvalid: a record's link is null or leads to no person.
        """
        aggregates = params.aggregates
        children = children or self.children(params, as_of)
        taken = params.taken_columns()
        columns = {name: each for name, each in taken.items() if name not in aggregates}
        base = params.records.table
        check_linked(self._reader, params)
        joins = queries.Joins(params, base, dialect=self._reader.dialect, as_of=as_of)
        to_subject = params.paths(base, params.subject.table)
        subject = joins.person(to_subject, outer=False)
        ages = ages_of({name: column for name, (_, column) in columns.items()})
        latest = params.latest_by
        keys = self._row_key(params)
        own = _own_columns(params)
        wanted = [*subject]
        if latest is not None:
            wanted.append(joins.value(params.paths(base, latest[0]), latest[1], outer=True))
        wanted += [joins.base.c[name] for name in (*keys, *ages.values(), *own)]
        wanted += [
            joins.value(params.paths(base, table), _own_name(params, name, table), outer=True)
            for name, (table, _) in columns.items()
        ]
        named = [column.label(f"value{place}") for place, column in enumerate(wanted)]
        statement = sa.select(*named).select_from(joins.source).where(*joins.where)
        for frame in self._reader.stream(statement):
            parts = iter(frame[label] for label in frame.columns)
            key = people_of([next(parts) for _ in subject])
            order = (
                _ordered(next(parts), params, latest)
                if latest
                else pd.Series(None, index=frame.index, dtype="float64")
            )
            row_key = joined([next(parts) for _ in keys], frame.index)
            at = {name: _days(next(parts), params, by) for name, by in ages.items()}
            its = {name: next(parts) for name in own}
            values = {name: next(parts) for name in columns}
            values |= children.values(params, key, its, as_of)
            yield RecordChunk(
                subject=key,
                order=order,
                row_key=row_key,
                at=at,
                values=pd.DataFrame({name: values[name] for name in taken}, index=frame.index),
            )

    def retention(self, params: Params, as_of: dt.datetime) -> dict[str, int]:
        """How many rows of the records' table are there, past retention, or undated."""
        name = params.records.table
        table = queries.table_of(params, name)
        counted: list[sa.ColumnElement[Any]] = [sa.func.count()]
        conditions = queries.past_retention(
            params, name, table, dialect=self._reader.dialect, as_of=as_of
        )
        for condition in conditions or ():
            counted.append(sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0))
        row = self._reader.row(sa.select(*counted).select_from(table))
        rows, past, undated = (*map(int, row), 0, 0)[:3]
        return {"rows": rows, "past_retention": past, "undated": undated}

    def without_person(self, params: Params) -> int:
        """How many records lead to nobody; whoever cannot be known is not used."""
        return without_person(self._reader, params, params.records.table)

    def answers(self, params: Params, as_of: dt.datetime) -> Iterator[pd.DataFrame]:
        """Known people's dated answers for the purpose up to `as_of`, in chunks, in any order.

        Guarantees: a refusal for every purpose is among them; a yes for every purpose is not.
        Shapes: columns subject (canonical `str`), answer (`str`), time (datetime64[us, UTC]).
        """
        consent = params.consent
        asked = purposes(self._reader, params)
        joins = queries.Joins(params, consent.table, dialect=self._reader.dialect, as_of=as_of)
        purpose = spelled(joins.base, params)
        person = joins.person(queries.consent_links(params), outer=False)
        statement = (
            sa.select(
                *queries.labelled(person),
                joins.base.c[consent.answer].label("answer"),
                joins.base.c[consent.time].label("time"),
                is_one_of(purpose, asked.every).label("every"),
            )
            .select_from(joins.source)
            .where(*joins.where, is_one_of(purpose, (*asked.own, *asked.every)))
        )
        read = _answers(params)
        for frame in self._reader.stream(statement):
            made = pd.DataFrame(
                {
                    "subject": queries.subjects_in(frame),
                    "answer": pd.Series(
                        by_distinct(frame["answer"], read), index=frame.index, dtype="str"
                    ),
                    "time": queries.read_times(frame["time"], params, consent.table, consent.time),
                }
            )
            made = made[~_agrees_to_everything(frame["every"], made["answer"], params)]
            yield made[made["time"] <= pd.Timestamp(as_of)].reset_index(drop=True)

    def answer_problems(self, params: Params, now: dt.datetime) -> dict[str, int]:
        """What is wrong with the consent table, in counts.

        `unknown_subject`: rows of nobody in the subject table, of any purpose. Of this
        purpose: `null_answer`, `unknown_answer` (neither yes nor no), `undated` (no time, or
        none that can be read), `future` (later than `now`). And `near_purpose` (so like the
        declared one that it may be meant) and `no_purpose`.
        """
        consent = params.consent
        joins = queries.Joins(params, consent.table, dialect=self._reader.dialect, as_of=None)
        person = joins.person(queries.consent_links(params), outer=True)
        stray = sa.select(sa.func.count()).select_from(joins.source)
        counts = {
            "unknown_subject": self._reader.count(stray.where(queries.lacking(person))),
            "null_answer": 0,
            "unknown_answer": 0,
            "undated": 0,
            "future": 0,
            "near_purpose": 0,
            "no_purpose": 0,
        }
        table = queries.table_of(params, consent.table)
        asked, purpose = purposes(self._reader, params), spelled(table, params)
        for problem, spellings in (("near_purpose", asked.near), ("no_purpose", asked.empty)):
            if spellings:
                rows = sa.select(sa.func.count()).select_from(table)
                counts[problem] = self._reader.count(rows.where(is_one_of(purpose, spellings)))
        statement = sa.select(
            table.c[consent.answer].label("answer"),
            table.c[consent.time].label("time"),
            is_one_of(purpose, asked.every).label("every"),
        ).where(is_one_of(purpose, (*asked.own, *asked.every)))
        known = {*consent.yes, *consent.no}
        for frame in self._reader.stream(statement):
            answers = pd.Series(by_distinct(frame["answer"], _answers(params)), dtype="object")
            counted = ~_agrees_to_everything(frame["every"], answers, params)
            times = queries.read_times(frame["time"], params, consent.table, consent.time)
            answers, times = answers[counted], times[counted]
            counts["null_answer"] += int(answers.isna().sum())
            counts["unknown_answer"] += int((~answers.isin(known) & answers.notna()).sum())
            counts["undated"] += int(times.isna().sum())
            counts["future"] += int((times > pd.Timestamp(now)).sum())
        return counts

    def known_names(self, params: Params) -> frozenset[str]:
        """The words of names in the columns that name people; see `name_words`."""
        words: set[str] = set()
        for name, table in params.tables.items():
            for column in (c for c, declared in table.columns.items() if declared.names_people):
                names = queries.table_of(params, name).c[column]
                for frame in self._reader.stream(sa.select(names.label("name")).distinct()):
                    for text in frame["name"].dropna():
                        words |= name_words(canonical_text(text))
        return frozenset(words)

    def _row_key(self, params: Params) -> list[str]:
        """The primary key, as far as it may be read; without one, the keys declared as links."""
        declared = params.tables[params.records.table].columns
        primary = self.tables()[params.records.table].primary_key
        usable = [n for n in primary if n in declared and may_be_read(params, declared[n])]
        return usable or [name for name, column in declared.items() if column.role == "link"]


def _answers(params: Params) -> Callable[[Any], str]:
    """An answer as it is declared, whatever its case and blanks; what is not declared, trimmed."""
    declared = {folded(word): word for word in (*params.consent.yes, *params.consent.no)}

    def read(value: Any) -> str:
        text = canonical_text(value)
        return declared.get(folded(text), text.strip())

    return read


def _agrees_to_everything(every: pd.Series, answers: pd.Series, params: Params) -> pd.Series:
    """Which rows are a yes for every purpose: nobody can agree to what they were not asked."""
    return every.eq(True) & answers.isin(params.consent.yes)


def _own_columns(params: Params) -> tuple[str, ...]:
    """The columns of the records' table by which their child rows are found."""
    needed: dict[str, None] = {}
    for made in params.aggregates.values():
        needed |= dict.fromkeys((*record_columns(params, made), *filter(None, [made.at])))
    return tuple(needed)


def _own_name(params: Params, taken: str, table: str) -> str:
    """A taken column's name in its table; see `Params.taken_columns`."""
    return taken if taken in params.tables[table].columns else taken.removeprefix(f"{table}.")


def _days(values: pd.Series, params: Params, column: str) -> pd.Series:
    """The days of a timestamp of the records' table.

    Raises:
        ValueOutsideDomain: one is there and cannot be read; with the count.
    """
    days = queries.read_days(values, params, params.records.table, column)
    refuse_unread(values, days, f"{params.records.table}.{column} (age_at)")
    return days


def _ordered(values: pd.Series, params: Params, latest: tuple[str, str]) -> pd.Series:
    """`latest_by` so that later is greater, of one type whatever the driver gives.

    Raises:
        ValueOutsideDomain: a date is there and cannot be read; with the count.
    """
    table, name = latest
    column = params.tables[table].columns[name]
    if column.role == "timestamp" or column.type in ("date", "timestamp"):
        read = queries.read_days if column.type == "date" else queries.read_times
        times = read(values, params, table, name)
        refuse_unread(values, times, f"{table}.{name} (records.latest_by)")
        return times
    if column.type in ("integer", "real"):
        return pd.Series(by_distinct(values, number_of), index=values.index).astype("float64")
    return pd.Series(by_distinct(values, canonical_text), index=values.index, dtype="str")
