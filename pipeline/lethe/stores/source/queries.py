"""The statements that read a source: declared columns only, named one by one."""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.sql.selectable import FromClause

from lethe.config.params import Params
from lethe.config.tables import Column, Link
from lethe.core.times import sortable
from lethe.core.values import parse_times

# A time of day with a zone behind it, as text: then the zone is said.
_ZONED = r":\d\d(\.\d+)?\s*(Z|[+-]\d\d(:?\d\d)?)$"
_POSTGRESQL_FORM = {
    **{"%Y": "YYYY", "%y": "YY", "%m": "MM", "%d": "DD", "%H": "HH24", "%I": "HH12"},
    **{"%M": "MI", "%S": "SS", "%p": "AM", "%b": "Mon", "%B": "FMMonth", "%j": "DDD"},
}


def table_of(params: Params, name: str) -> sa.TableClause:
    """A table by name with its declared columns, untyped: values come as the driver has them."""
    return sa.table(name, *(sa.column(column) for column in params.tables[name].columns))


def instant(
    column: sa.ColumnElement[Any], dialect: str, params: Params, declared: Column
) -> sa.ColumnElement[Any]:
    """A timestamp column so that the database can compare it; null for what is no date.

    SQLite has no timestamps: `lethe.core.times` reads them there. Bare numbers are no date,
    since their unit is unknown.
    """
    zone = declared.time_zone or params.source.time_zone
    if dialect == "sqlite":
        return sa.func.lethe_instant(column, zone, declared.format or "")
    if dialect == "postgresql":
        naive = sa.cast(column, sa.TIMESTAMP())
        if declared.format is not None:
            form = re.sub(r"%.", lambda code: _POSTGRESQL_FORM[code.group()], declared.format)
            naive = sa.cast(sa.func.to_timestamp(column, form), sa.TIMESTAMP())
            return sa.func.timezone(zone, naive)
        aware = sa.cast(column, sa.TIMESTAMP(timezone=True))
        if declared.time_zone is None:  # the session's zone is the source's
            return aware
        zoned = sa.cast(column, sa.Text()).regexp_match(_ZONED)
        return sa.case((zoned, aware), else_=sa.func.timezone(zone, naive))
    return sa.cast(column, sa.DateTime())


def instant_value(when: dt.datetime, dialect: str) -> sa.ColumnElement[Any]:
    """An aware timestamp as `instant` of the same dialect has it."""
    if dialect == "sqlite":
        return sa.literal(sortable(when))
    utc = when.astimezone(dt.UTC)
    if dialect == "postgresql":
        return sa.literal(utc, sa.TIMESTAMP(timezone=True))
    return sa.literal(utc.replace(tzinfo=None), sa.DateTime())


def read_times(values: pd.Series, params: Params, table: str, column: str) -> pd.Series:
    """A column's values as moments, as `instant` has them; see `parse_times`."""
    declared = params.tables[table].columns[column]
    zone = declared.time_zone or params.source.time_zone
    return parse_times(values, zone=zone, form=declared.format)


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
            matches = [
                here.c[own] == there.c[other]
                for own, other in zip(link.columns, link.references, strict=True)
            ]
            condition = sa.and_(*matches, *self._kept(link.table, there))
            self.source = self.source.join(there, condition, isouter=outer)
            self._nodes[chain] = there
        return self._nodes[tuple(links)]

    def _kept(self, table: str, at: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        retention = self._params.tables[table].retention
        if retention is None or self._as_of is None:
            return []
        cutoff = self._as_of - dt.timedelta(days=retention.days)
        declared = self._params.tables[table].columns[retention.by]
        when = instant(at.c[retention.by], self._dialect, self._params, declared)
        return [when >= instant_value(cutoff, self._dialect)]


def past_retention(
    params: Params, table: sa.TableClause, *, dialect: str, as_of: dt.datetime
) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]] | None:
    """Conditions for rows past retention and for rows without its date, if one is declared."""
    retention = params.tables[table.name].retention
    if retention is None:
        return None
    declared = params.tables[table.name].columns[retention.by]
    when = instant(table.c[retention.by], dialect, params, declared)
    return older(when, days=retention.days, dialect=dialect, as_of=as_of), when.is_(None)


def older(
    when: sa.ColumnElement[Any], *, days: int, dialect: str, as_of: dt.datetime
) -> sa.ColumnElement[bool]:
    """Whether an `instant` lies more than some days before `as_of`; null for what is no date."""
    return when < instant_value(as_of - dt.timedelta(days=days), dialect)


def consent_links(params: Params) -> tuple[Link, ...]:
    """The chain from the consent table to the subject's row."""
    links = params.path(params.consent.table, params.subject.table)
    if links is None:  # about: nobody; then the column itself is the key
        return (
            Link(
                columns=(params.consent.subject,),
                table=params.subject.table,
                references=(params.subject.key,),
            ),
        )
    return links
