"""The statements that read a source: declared columns only, named one by one."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.selectable import FromClause

from lethe.config.params import Params
from lethe.config.tables import Link

_SQLITE_FORM = "%Y-%m-%d %H:%M:%f"
_SQLITE_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"


def table_of(params: Params, name: str) -> sa.TableClause:
    """A table by name with its declared columns, untyped: values come as the driver has them."""
    return sa.table(name, *(sa.column(column) for column in params.tables[name].columns))


def instant(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    """A timestamp column so that the database can compare it; null for what is no date.

    SQLite has no timestamps: ISO 8601 text, whatever its zone and form, becomes one form
    in UTC, to the millisecond. Bare numbers are no date, since their unit is unknown.
    """
    if dialect == "sqlite":
        return sa.case(
            (column.op("GLOB")(_SQLITE_DATE), sa.func.strftime(_SQLITE_FORM, column)), else_=None
        )
    if dialect == "postgresql":  # the session's time zone is UTC
        return sa.cast(column, sa.TIMESTAMP(timezone=True))
    return sa.cast(column, sa.DateTime())


def instant_value(when: dt.datetime, dialect: str) -> sa.ColumnElement[Any]:
    """An aware timestamp as `instant` of the same dialect has it."""
    utc = when.astimezone(dt.UTC)
    if dialect == "sqlite":
        text = utc.strftime("%Y-%m-%d %H:%M:%S.") + f"{utc.microsecond // 1000:03d}"
        return sa.literal(text)
    if dialect == "postgresql":
        return sa.literal(utc, sa.TIMESTAMP(timezone=True))
    return sa.literal(utc.replace(tzinfo=None), sa.DateTime())


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
        return [instant(at.c[retention.by], self._dialect) >= instant_value(cutoff, self._dialect)]


def past_retention(
    params: Params, table: sa.TableClause, *, dialect: str, as_of: dt.datetime
) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]] | None:
    """Conditions for rows past retention and for rows without its date, if one is declared."""
    retention = params.tables[table.name].retention
    if retention is None:
        return None
    when = instant(table.c[retention.by], dialect)
    past = older(table.c[retention.by], days=retention.days, dialect=dialect, as_of=as_of)
    return past, when.is_(None)


def older(
    column: sa.ColumnElement[Any], *, days: int, dialect: str, as_of: dt.datetime
) -> sa.ColumnElement[bool]:
    """Whether a timestamp lies more than some days before `as_of`; null for what is no date."""
    return instant(column, dialect) < instant_value(as_of - dt.timedelta(days=days), dialect)


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
