"""The statements that read a source: declared columns only, named one by one."""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.sql.selectable import FromClause

from lethe.config.links import Link, When
from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.core.times import today
from lethe.core.values import parse_days, parse_times
from lethe.stores.source.catalogue import SourceTable, table_named
from lethe.stores.source.connect import dialect_of
from lethe.stores.source.person_key import people_of

_POSTGRESQL_FORM = {
    **{"%Y": "YYYY", "%y": "YY", "%m": "MM", "%d": "DD", "%H": "HH24", "%I": "HH12"},
    **{"%M": "MI", "%S": "SS", "%p": "AM", "%b": "Mon", "%B": "FMMonth", "%j": "DDD"},
}
_SUBJECT = re.compile(r"subject\d+")


def table_of(params: Params, name: str) -> SourceTable:
    """A table by name with its declared columns, untyped: values come as the driver has them."""
    declared = params.tables[name].columns
    return table_named(name, dialect_of(params), *(sa.column(each) for each in declared))


def day(
    column: sa.ColumnElement[Any], dialect: str, params: Params, declared: Column
) -> sa.ColumnElement[Any]:
    """The calendar day that a column says, so that the database can compare it; null for none.

    As `lethe.core.times.day_of` reads it: what a text says; of a moment, the day in its zone.
    """
    zone = declared.time_zone or params.source.time_zone
    if dialect == "sqlite":  # has no timestamps
        return sa.func.lethe_day(column, zone, declared.format or "")
    if dialect == "postgresql" and declared.format is not None:
        form = re.sub(r"%.", lambda code: _POSTGRESQL_FORM[code.group()], declared.format)
        return sa.cast(sa.func.to_timestamp(sa.cast(column, sa.Text()), form), sa.Date())
    if dialect == "postgresql":
        # A text's zone is not heeded.
        written: sa.ColumnElement[Any] = sa.cast(column, sa.TIMESTAMP())
        # Without a zone of its own a moment's is the session's, which is the source's.
        if declared.time_zone is not None:
            moment = sa.cast(sa.cast(column, sa.Text()), sa.TIMESTAMP(timezone=True))
            kept_as_moment = sa.func.pg_typeof(column) == sa.text("'timestamptz'::regtype")
            written = sa.case((kept_as_moment, sa.func.timezone(zone, moment)), else_=written)
        return sa.cast(written, sa.Date())
    return sa.cast(column, sa.Date())


def older(
    column: sa.ColumnElement[Any],
    *,
    days: int,
    dialect: str,
    params: Params,
    declared: Column,
    as_of: dt.datetime,
) -> sa.ColumnElement[bool]:
    """Whether the day in a column is more than some days before that of `as_of`; null for none."""
    last = last_day(days, params, declared, as_of)
    value = sa.literal(last.isoformat()) if dialect == "sqlite" else sa.literal(last, sa.Date())
    return day(column, dialect, params, declared) < value


def last_day(days: int, params: Params, declared: Column, as_of: dt.datetime) -> dt.date:
    """The first day that is still within so many days of `as_of`."""
    now = today(as_of, declared.time_zone or params.source.time_zone)
    return now - dt.timedelta(days=min(days, now.toordinal() - 1))


def read_times(values: pd.Series, params: Params, table: str, column: str) -> pd.Series:
    """A column's values as moments; see `parse_times`."""
    declared = params.tables[table].columns[column]
    zone = declared.time_zone or params.source.time_zone
    return parse_times(values, zone=zone, form=declared.format)


def read_days(values: pd.Series, params: Params, table: str, column: str) -> pd.Series:
    """A column's values as days, as `day` has them; see `parse_days`."""
    declared = params.tables[table].columns[column]
    zone = declared.time_zone or params.source.time_zone
    return parse_days(values, zone=zone, form=declared.format)


def everybody(params: Params) -> sa.Select[Any]:
    """The key of every person in the source; see `subjects_in`."""
    table = table_of(params, params.subject.table)
    return sa.select(*labelled([table.c[key] for key in params.subject.keys]))


def labelled(parts: Sequence[sa.ColumnElement[Any]]) -> list[sa.Label[Any]]:
    """The columns of a key as a statement selects them; see `subjects_in`."""
    return [part.label(f"subject{place}") for place, part in enumerate(parts)]


def subjects_in(frame: pd.DataFrame) -> pd.Series:
    """The keys of a statement's people, of whom it selects `labelled` columns before all others."""
    labels = [label for label in frame.columns if _SUBJECT.fullmatch(str(label))]
    return people_of([frame[label] for label in labels])


def lacking(parts: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
    """Whether a key names nobody: a part of it is null."""
    return sa.or_(*(part.is_(None) for part in parts))


class Joins:
    """A table joined along declared links to the rows that its rows point at.

    Guarantees: rows past their table's retention, or without its date, are absent: those of
        joined tables here, those of the base by `where`.
    """

    def __init__(
        self, params: Params, base: str, *, dialect: str, as_of: dt.datetime | None
    ) -> None:
        self._params = params
        self._dialect = dialect
        self._as_of = as_of
        self.base = table_of(params, base).alias("base")
        self.source: FromClause = self.base
        self._nodes: dict[tuple[Link, ...], sa.FromClause] = {(): self.base}
        self.where: list[sa.ColumnElement[bool]] = self._kept(base, self.base)

    def reach(self, links: Sequence[Link], *, outer: bool) -> sa.FromClause:
        """The joined table at the end of a chain of links; joins what is not joined yet."""
        for length in range(1, len(links) + 1):
            chain = tuple(links[:length])
            if chain in self._nodes:
                continue
            here, link = self._nodes[chain[:-1]], chain[-1]
            there = table_of(self._params, link.table).alias(f"joined{len(self._nodes)}")
            joined = along(link, here, there, self._dialect)
            condition = sa.and_(joined, *self._kept(link.table, there))
            self.source = self.source.join(there, condition, isouter=outer)
            self._nodes[chain] = there
        return self._nodes[tuple(links)]

    def value(
        self, chains: Sequence[Sequence[Link]], column: str, *, outer: bool
    ) -> sa.ColumnElement[Any]:
        """A column of the row that the base's row leads to, along whichever chain holds for it;
        without `outer` rows that lead to none are left out by the join, or by `where`."""
        if len(chains) == 1:
            return self.reach(chains[0], outer=outer).c[column]
        found = sa.func.coalesce(*(self.reach(each, outer=True).c[column] for each in chains))
        if not outer:
            self.where.append(found.is_not(None))
        return found

    def person(
        self, chains: Sequence[Sequence[Link]], *, outer: bool
    ) -> list[sa.ColumnElement[Any]]:
        """The columns of the key of the person whom the base's row leads to; see `value`."""
        return [self.value(chains, key, outer=outer) for key in self._params.subject.keys]

    def _kept(self, table: str, at: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        as_of = self._as_of
        ended = as_of and past_retention(
            self._params, table, at, dialect=self._dialect, as_of=as_of
        )
        return [sa.not_(ended[0])] if ended else []


def past_retention(
    params: Params, name: str, at: sa.FromClause, *, dialect: str, as_of: dt.datetime
) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]] | None:
    """Conditions for rows past retention (null for those without its date), and for rows without
    its date, if the table has one declared."""
    retention = params.tables[name].retention
    if retention is None:
        return None
    declared, column = params.tables[name].columns[retention.by], at.c[retention.by]
    past = older(
        column,
        days=retention.days,
        dialect=dialect,
        params=params,
        declared=declared,
        as_of=as_of,
    )
    return past, day(column, dialect, params, declared).is_(None)


def consent_links(params: Params) -> tuple[tuple[Link, ...], ...]:
    """The chains from the consent table to the subject's row."""
    links = params.paths(params.consent.table, params.subject.table)
    if not links:  # about: nobody; then the column itself is the key
        column = Link(
            columns=params.consent.subjects,
            table=params.subject.table,
            references=params.subject.keys,
        )
        return ((column,),)
    return links


def held(when: When, at: sa.FromClause) -> list[sa.ColumnElement[bool]]:
    """A link's condition on its row, as `lethe.config.links.holds` has it."""
    return [sa.func.rtrim(sa.cast(at.c[column], sa.Text())).in_(said) for column, said in when]


def along(
    link: Link, here: sa.FromClause, there: sa.FromClause, dialect: str
) -> sa.ColumnElement[bool]:
    """Whether a row of `here` points at one of `there`."""
    pairs: list[tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]]
    pairs = [(here.c[a], there.c[b]) for a, b in zip(link.columns, link.references, strict=True)]
    if link.when and dialect != "sqlite":  # one column for keys of several tables: of any type
        pairs = [(sa.cast(a, sa.Text()), sa.cast(b, sa.Text())) for a, b in pairs]
    return sa.and_(*(a == b for a, b in pairs), *held(link.when, here))


def unled(params: Params, name: str) -> Iterator[tuple[str, sa.Select[Any]]]:
    """(link, how many rows have it and are none that one of its conditions is about).

    Whose such rows are cannot be known, so nothing is read or erased while there are any.
    """
    table = table_of(params, name)
    for columns, whens in params.tables[name].conditions.items():
        led = sa.or_(*(sa.and_(*held(when, table)) for when in whens))
        there = (table.c[column].is_not(None) for column in columns)
        counted = sa.select(sa.func.count()).select_from(table)
        yield ", ".join(columns), counted.where(*there, sa.case((led, 0), else_=1) == 1)


def respelled(
    params: Params, name: str, kind: Callable[[str, str], str], dialect: str
) -> Iterator[tuple[str, sa.Select[Any]]]:
    """(link, how many rows SQLite joins along it although their keys are spelled otherwise).

    Where one column's type is of numbers, SQLite compares a text there as the number that it
    says: 007 joins 7. An erasure of 7 would not find the row, so nothing is read or erased.

    Args:
        kind: of a table's column, as `lethe.stores.source.schema.kind_of` has it.
    """
    if dialect != "sqlite":
        return
    links = [*params.tables[name].parsed_links]
    if name == params.consent.table:
        links += [chain[0] for chain in consent_links(params)]
    for link in dict.fromkeys(links):
        pairs = list(zip(link.columns, link.references, strict=True))
        if all(kind(name, own) == kind(link.table, other) for own, other in pairs):
            continue
        here, there = table_of(params, name).alias("here"), table_of(params, link.table)
        key = sa.func.lethe_key
        unlike = sa.or_(*(key(here.c[own]) != key(there.c[other]) for own, other in pairs))
        joined = here.join(there, along(link, here, there, dialect))
        counted = sa.select(sa.func.count()).select_from(joined).where(unlike)
        yield ", ".join(link.columns), counted


def with_blanks(
    params: Params,
    links: Iterable[tuple[str, Sequence[str], str, Sequence[str]]],
    padded: Callable[[str, str], bool],
) -> Iterator[tuple[str, str, sa.Select[Any]]]:
    """(table, column, how many of its texts end with blanks), of columns linked with a `char(n)`.

    A `char(n)` is filled with blanks, and equals a text with any number of them by a foreign key,
    and only one without them by a join. Whose such a row is would depend on who asks, so nothing
    is read or erased while there are any.

    Args:
        links: table, columns, and the table and columns that they lead to.
        padded: whether a table's column is a `char(n)`.
    """
    texts: dict[tuple[str, str], None] = {}
    for name, columns, other, references in links:
        for own, reference in zip(columns, references, strict=True):
            ends = ((name, own), (other, reference))
            filled = [padded(*end) for end in ends]
            if any(filled) and not all(filled):
                texts[ends[filled.index(False)]] = None
    for table, column in texts:
        clause = table_named(table, dialect_of(params), sa.column(column))
        said = sa.cast(clause.c[column], sa.Text())
        counted = sa.select(sa.func.count()).select_from(clause)
        yield table, column, counted.where(said != sa.func.rtrim(said))


def rows_with_blanks(table: str, column: str, count: int) -> str:
    """What is said of them."""
    return (
        f"{count} rows of {table} have blanks at the end of {column}, and a char(n) is at the "
        "other end of its link, which is filled with blanks: a foreign key takes both for equal, "
        "and a join does not. Take the blanks away, or give both columns one type."
    )


def respelled_rows(name: str, link: str, count: int) -> str:
    """What is said of them."""
    return (
        f"{count} rows of {name} have texts in {link} that are keys with zeros or blanks before, "
        "or places after: SQLite joins them, and an erasure would not find them. Write them as the "
        "table that they lead to does, or give both columns one type."
    )


def unled_rows(params: Params, name: str, link: str, count: int) -> str:
    """What is said of them."""
    return (
        f"{count} rows of {name} have a value in {link}, and no link of it is declared to hold for "
        f"them. Declare one under tables.{name}.links for each value there is (to: nobody, if it "
        "leads to no declared table), or correct the rows."
    )
