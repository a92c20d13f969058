"""Which rows of a source are past their time, by the same rule as `minimize` reads them.

A row's time ends `retention` days after its date. A table that is kept by law (`erase: retain`)
keeps its rows until the law's days are over as well, with no more columns than the law asks
for. From a row that goes its own rows are followed as in a person's erasure: what leads to its
person through it goes with it, links to it are cut.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import Busy, ErasureRefused, LetheError, ValueOutsideDomain
from lethe.core.outcomes import Outcome, Result
from lethe.core.values import canonical_text
from lethe.stores.source import queries
from lethe.stores.source.catalogue import SourceTable
from lethe.stores.source.compact import Marks
from lethe.stores.source.edge import Edge
from lethe.stores.source.erase import STORE, carry_out
from lethe.stores.source.erase_plan import ErasePlan, Planner
from lethe.stores.source.new_key import ERASED
from lethe.stores.source.person_key import together
from lethe.stores.source.queries import labelled
from lethe.stores.source.rewrite_files import readable
from lethe.stores.source.trace import RowTrace, until_column
from lethe.stores.source.writer import Row, Writer, open_writer

_NOBODY = "\x00"  # no key is spelled so: these rows are sought by their dates, not by a person


@dataclass(frozen=True)
class ExpiredRows:
    """What is past its time; counts but for `keys` and `people`, which are never shown.

    `rows`: how many go, by table. `blanked`: how many lose what only retention kept, by
    table. `undated`: how many have no date that can be read, by table: they stay until
    somebody gives them one. `keys`: whose records among them training sees. `people`: whose
    own row is past its time, with nothing left of theirs that is in time.
    """

    rows: dict[str, int] = field(default_factory=dict)
    blanked: dict[str, int] = field(default_factory=dict)
    undated: dict[str, int] = field(default_factory=dict)
    keys: frozenset[str] = field(default=frozenset(), repr=False)
    people: tuple[str, ...] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.rows or self.blanked or self.people)


@dataclass(frozen=True)
class _Rule:
    """One table's conditions: what goes, what loses columns, what has no date."""

    table: SourceTable
    goes: sa.ColumnElement[bool] | None
    blanks: sa.ColumnElement[bool] | None
    undated: sa.ColumnElement[bool]

    @property
    def either(self) -> sa.ColumnElement[bool]:
        return sa.or_(*(each for each in (self.goes, self.blanks) if each is not None))


def look_for_expired(params: Params, *, as_of: dt.datetime) -> ExpiredRows:
    """Counts what is past its time, and finds whose it is; changes nothing.

    Raises:
        SourceUnavailable, Busy, SchemaMismatch, ErasureRefused: see `open_writer`.
        ValueOutsideDomain: PostgreSQL cannot read a text column as dates.
    """
    with (
        readable(params) as path,
        open_writer(params, writing=False, path=path) as writer,
        _readable_dates(),
    ):
        rules = _rules(writer, params, as_of)
        found: dict[str, Counter[str]] = {"rows": Counter(), "blanked": Counter()}
        undated: Counter[str] = Counter()
        for rule in rules:
            name = rule.table.fullname
            found["rows"][name] = _count(writer, rule.table, rule.goes)
            found["blanked"][name] = _count(writer, rule.table, rule.blanks)
            undated[name] = _count(writer, rule.table, rule.undated)
        subject = _subject_rule(writer, params, as_of)
        if subject is not None:
            undated[params.subject.table] = _count(writer, subject[0], subject[2])
        return ExpiredRows(
            rows={name: n for name, n in found["rows"].items() if n},
            blanked={name: n for name, n in found["blanked"].items() if n},
            undated={name: n for name, n in undated.items() if n},
            keys=frozenset(_keys(writer, params, rules)),
            people=tuple(sorted(_people(writer, params, as_of))),
        )


def erase_expired(
    params: Params, *, as_of: dt.datetime, known: frozenset[str], about: str
) -> Outcome:
    """Takes everything past its time out of the source, as the tables' `erase` declares.

    One transaction; calling it again finds nothing; after a crash it goes on. Space is
    overwritten by `compact_source` afterwards.

    Guarantees: no row within its time is deleted unless it leads to its person through a
        row that goes, is declared `shared: delete`, or says nothing but who is linked.

    Args:
        known: whose records may be among what goes: only they are looked for elsewhere.
        about: what a call after a crash knows this one by.

    Returns:
        As `erase_from_source`; `unreachable` also if rows came in meanwhile.

    Raises:
        ErasureRefused, SchemaMismatch: it cannot be done as declared; nothing was changed.
    """

    def planned(writer: Writer) -> ErasePlan:
        rules = _rules(writer, params, as_of)
        with _readable_dates():
            trace = _ExpiredTrace(writer, params, rules, now=as_of).run()
            keys = set(_keys(writer, params, rules))
        if not keys <= known:
            raise Busy("Rows past their retention came in meanwhile; try again.")
        return Planner(writer, params, trace, _NOBODY, now=as_of).make(None)

    return carry_out(params, planned, about=about, compact=False)


def verify_expired(params: Params, *, as_of: dt.datetime, about: str) -> Outcome:
    """A fresh look for what is past its time: whatever was done before is not believed."""
    try:
        left = look_for_expired(params, as_of=as_of)
        marks = Marks(params.root)
        waiting = marks.tables
    except LetheError as error:
        return Outcome(STORE, Result.UNREACHABLE, reason=str(error))
    still = Counter(left.rows) + Counter(left.blanked)
    if left.people:
        still[params.subject.table] += len(left.people)
    if still:
        places = tuple(sorted(still))
        reason = f"Rows past their retention are still in {', '.join(places)}."
        return Outcome(STORE, Result.PRESENT, sum(still.values()), places, reason)
    if waiting:
        reason = f"Deleted data of {', '.join(waiting)} waits to be overwritten."
        return Outcome(STORE, Result.PRESENT, places=tuple(waiting), reason=reason)
    marks.verified(about)
    return Outcome(STORE, Result.ABSENT)


class _ExpiredTrace(RowTrace):
    """The rows past their time, what goes along with them, and what must be cut off."""

    def __init__(
        self, writer: Writer, params: Params, rules: Sequence[_Rule], *, now: dt.datetime
    ) -> None:
        super().__init__(writer, params, _NOBODY, now=now)
        self.new_key = False  # no person's own row is among them
        self._rules = rules
        self._decided: dict[tuple[str, tuple[Any, ...]], bool] = {}

    def run(self) -> "_ExpiredTrace":
        for rule in self._rules:
            for condition, goes in ((rule.goes, True), (rule.blanks, False)):
                if condition is None:
                    continue
                also = self._also(rule.table.fullname)
                rows = list(self._writer.where(rule.table, condition, also=also))
                self._decided |= {(row.table, row.identity): goes for row in rows}
                self._add(rows)
        self._follow_all()
        return self

    def goes(self, row: Row) -> bool:
        decided = self._decided.get((row.table, row.identity))
        return super().goes(row) if decided is None else decided

    def _follow_own(self, rows: Sequence[Row]) -> None:
        if going := [row for row in rows if self.goes(row)]:
            super()._follow_own(going)

    def _follow_other(self, rows: Sequence[Row], owned: bool) -> None:
        if going := [row for row in rows if not owned or self.goes(row)]:
            super()._follow_other(going, owned)

    def _is_mine(self, row: Row) -> bool:
        return False  # all that leads through a row that goes was found before

    def _bound(self, row: Row, edge: Edge) -> ErasureRefused:
        return ErasureRefused(
            f"Rows of {row.table} point at rows of {edge.parent} that are past their retention, by "
            f"{', '.join(edge.columns)}, which cannot be null. Let it be null, or declare erase: "
            f"{{shared: delete}} for {row.table}: then they go together."
        )


@contextmanager
def _readable_dates() -> Iterator[None]:
    """What PostgreSQL says of a text that is no date would show the text."""
    try:
        yield
    except sa.exc.DataError:
        raise ValueOutsideDomain(
            "The database could not read a date of a column that retention goes by. Correct the "
            "source, or declare another column; nothing was changed."
        ) from None


def _rules(writer: Writer, params: Params, as_of: dt.datetime) -> list[_Rule]:
    """Of every table but the subject's, whose people leave whole, and those without `erase`,
    whose rows belong to nobody."""
    found = []
    for name, declared in params.tables.items():
        known = name != params.subject.table and name in writer.graph.tables
        rule = _rule(writer, params, name, as_of) if known and declared.erase else None
        if rule is not None:
            found.append(rule)
    return found


def _rule(writer: Writer, params: Params, name: str, as_of: dt.datetime) -> _Rule | None:
    table, dialect = writer.table(name), writer.graph.dialect
    declared = params.tables[name]
    erase = declared.erase
    if erase is None:
        return None
    ended = queries.past_retention(params, name, table, dialect=dialect, as_of=as_of)
    past, undated = ended or (None, None)
    if erase.action == "delete":
        return _Rule(table, past, None, undated) if undated is not None else None
    blanks = None
    if past is not None and erase.columns:
        blanks = sa.and_(past, _not_blank(table, erase.columns, erase.replace))
    if erase.action == "anonymize":
        if undated is None or blanks is None:
            return None
        return _Rule(table, None, blanks, undated)
    by = until_column(params, name)
    if by is None or erase.days is None:
        return None  # the law's days count from an erasure
    over = _law_is_over(writer, params, table, by, erase.days, as_of)
    without = queries.day(table.c[by], dialect, params, declared.columns[by]).is_(None)
    if past is None or undated is None:
        return _Rule(table, over, None, without)
    if blanks is not None:
        blanks = sa.and_(blanks, sa.func.coalesce(sa.not_(over), sa.true()))
    return _Rule(table, sa.and_(past, over), blanks, sa.or_(undated, without))


def _law_is_over(
    writer: Writer, params: Params, table: SourceTable, by: str, days: int, as_of: dt.datetime
) -> sa.ColumnElement[bool]:
    return queries.older(
        table.c[by],
        days=days,
        dialect=writer.graph.dialect,
        params=params,
        declared=params.tables[table.fullname].columns[by],
        as_of=as_of,
    )


def _not_blank(
    table: SourceTable, columns: Iterable[str], replace: dict[str, Any]
) -> sa.ColumnElement[bool]:
    """Whether a column still says something that blanking would take away."""
    says = []
    for name in columns:
        text = sa.cast(table.c[name], sa.Text())
        blank = [text == ERASED, text.like(f"{ERASED}-%")]
        if name in replace:
            blank.append(table.c[name] == replace[name])
        says.append(sa.and_(table.c[name].is_not(None), sa.not_(sa.or_(*blank))))
    return sa.or_(*says)


def _keys(writer: Writer, params: Params, rules: Iterable[_Rule]) -> Iterator[str]:
    """Whose rows these are, of tables from which a training record takes, or leads through."""
    feeding = {params.records.table, *(table for table, _ in params.taken_columns().values())}
    feeding |= {made.table for made in params.aggregates.values()}
    through = set(feeding)
    for name in feeding:
        chains = params.paths(name, params.subject.table)
        through |= {link.table for chain in chains for link in chain}
    for rule in rules:
        if rule.table.fullname in through:
            yield from _subjects(writer, params, rule.table, rule.either)


def _subjects(
    writer: Writer, params: Params, table: SourceTable, condition: sa.ColumnElement[bool]
) -> Iterator[str]:
    for made in _subjects_queries(writer, params, table, condition):
        for parts in writer.connection.execute(made.distinct()):
            yield together([canonical_text(part) for part in parts])


def _subjects_queries(
    writer: Writer, params: Params, table: SourceTable, condition: sa.ColumnElement[bool]
) -> Iterator[sa.Select[Any]]:
    """The subject's key of every row that a condition holds for, along each chain of links."""
    for links in params.paths(table.fullname, params.subject.table):
        source: Any = table
        here: Any = table
        for number, link in enumerate(links):
            there = writer.table(link.table).alias(f"at{number}")
            source = source.join(there, queries.along(link, here, there, writer.graph.dialect))
            here = there
        parts = [here.c[key] for key in params.subject.keys]
        whole = [part.is_not(None) for part in parts]
        yield sa.select(*labelled(parts)).select_from(source).where(condition, *whole)


def _subject_rule(
    writer: Writer, params: Params, as_of: dt.datetime
) -> tuple[SourceTable, sa.ColumnElement[bool], sa.ColumnElement[bool]] | None:
    table = writer.table(params.subject.table)
    dialect = writer.graph.dialect
    ended = queries.past_retention(params, table.fullname, table, dialect=dialect, as_of=as_of)
    return None if ended is None else (table, *ended)


def _people(writer: Writer, params: Params, as_of: dt.datetime) -> Iterator[str]:
    """Whose own row is past its time while nothing of theirs is within a retention of its own."""
    rule = _subject_rule(writer, params, as_of)
    if rule is None:
        return
    table, past, _ = rule
    parts = [table.c[key] for key in params.subject.keys]
    conditions = [past]
    for name, declared in params.tables.items():
        erase = declared.erase
        if declared.retention is None or name == table.fullname or erase is None:
            continue
        if name not in writer.graph.tables:  # a view, or a partition: another table has its rows
            continue
        other = writer.table(name)
        ended = queries.past_retention(
            params, name, other, dialect=writer.graph.dialect, as_of=as_of
        )
        if ended is not None:
            in_time = sa.func.coalesce(sa.not_(ended[0]), sa.true())  # undated may be in time
            for alive in _subjects_queries(writer, params, other, in_time):
                key = parts[0] if len(parts) == 1 else sa.tuple_(*parts)
                conditions.append(key.not_in(alive))
    erase = params.tables[table.fullname].erase
    if erase is not None and erase.action == "anonymize":  # a shell reveals nobody any more
        identifying = [c for c in erase.columns if c not in params.subject.keys]
        conditions.append(_not_blank(table, identifying, erase.replace))
    elif erase is not None and erase.action == "retain":
        by = until_column(params, table.fullname)
        if by is None or erase.days is None:
            return
        conditions.append(_law_is_over(writer, params, table, by, erase.days, as_of))
    for found in writer.connection.execute(sa.select(*labelled(parts)).where(*conditions)):
        yield together([canonical_text(part) for part in found])


def _count(writer: Writer, table: SourceTable, condition: sa.ColumnElement[bool] | None) -> int:
    if condition is None:
        return 0
    statement = sa.select(sa.func.count()).select_from(table).where(condition)
    return int(writer.connection.execute(statement).scalar_one())
