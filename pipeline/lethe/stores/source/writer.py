"""The one writing connection to a source: rows found by key, changed and deleted by identity."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import OID

from lethe.config.links import When
from lethe.config.params import Params
from lethe.core.errors import ErasureRefused
from lethe.core.schemas import quoted
from lethe.core.values import canonical_text
from lethe.core.waiting import waiting
from lethe.stores.source.catalogue import SourceTable, table_named
from lethe.stores.source.connect import WAIT_SECONDS, SourcePlace, place_of, source_engine
from lethe.stores.source.edge import Columns, Edge
from lethe.stores.source.forms import is_padded, key_forms
from lethe.stores.source.graph import Graph, read_graph
from lethe.stores.source.queries import (
    held,
    respelled,
    respelled_rows,
    rows_with_blanks,
    unled,
    unled_rows,
    with_blanks,
)
from lethe.stores.source.schema import reflect
from lethe.stores.source.writing_errors import writing_errors

AT_ONCE = 500  # values in one statement
_PROBES = 50_000  # of an index, which take as long as to read a table of 100,000 rows

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Row:
    """One row: which one, and the values of its linking columns as the driver has them."""

    table: str
    identity: tuple[Any, ...]
    values: Mapping[str, Any] = field(repr=False, hash=False, compare=False)


class _RowAddress(sa.types.UserDefinedType[str]):
    """PostgreSQL's physical address of a row, for tables without a key."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "TID"


class Writer:
    """Statements of one transaction; no value of a row is ever in an error it raises."""

    def __init__(self, connection: sa.Connection, graph: Graph, *, locking: bool) -> None:
        self.connection = connection
        self.graph = graph
        self._locking = locking and graph.dialect == "postgresql"

    def place(self) -> SourcePlace | None:
        """Where the database is; see `place_of`."""
        return place_of(self.connection)

    def table(self, name: str) -> SourceTable:
        facts = self.graph.tables[name]
        columns = [sa.column(column, each.type) for column, each in facts.columns.items()]
        physical = [c for c in facts.identity if c not in facts.columns]
        address = _RowAddress() if self.graph.dialect == "postgresql" else sa.types.NullType()
        columns += [sa.column(c, OID() if c == "tableoid" else address) for c in physical]
        return table_named(name, self.graph.dialect, *columns)

    def find(
        self,
        name: str,
        columns: Sequence[str],
        values: Iterable[tuple[Any, ...]],
        *,
        also: Sequence[str] = (),
        limit: int | None = None,
        spelled_alike: bool = True,
        when: When = (),
    ) -> list[Row]:
        """Rows whose columns equal one of the values, none of them null; locked if writing.

        Args:
            also: columns to take beside the linking ones; `limit`: no more rows than this.
            spelled_alike: whether both sides have one type; if not, they are compared as text.
            when: only rows that this condition of a link is about.
        """
        wanted = list(dict.fromkeys(v for v in values if all(each is not None for each in v)))
        table = self.table(name)
        sides: list[sa.ColumnElement[Any]] = [table.c[column] for column in columns]
        if not spelled_alike and self.graph.dialect == "sqlite":  # an index still serves
            wanted = [form for value in wanted for form in _in_sqlite(value)]
        elif not spelled_alike:
            sides = [sa.cast(side, sa.Text()) for side in sides]
            wanted = list({tuple(canonical_text(each) for each in value) for value in wanted})
        found: list[Row] = []
        for some in chunks(wanted, AT_ONCE):
            condition = _among(sides, some, self.graph.dialect)
            these = sa.and_(condition, *held(when, table))
            found += self.where(table, these, also=also, limit=limit and limit - len(found))
        return found

    def where(
        self,
        table: SourceTable,
        condition: sa.ColumnElement[bool],
        *,
        also: Sequence[str] = (),
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Rows of a `table` that a condition on its columns holds for; as `find` gives them."""
        identity = self.graph.tables[table.fullname].identity
        taken = list(dict.fromkeys((*self.graph.linking(table.fullname), *also)))
        statement = sa.select(
            *(table.c[c].label(f"i{n}") for n, c in enumerate(identity)),
            *(table.c[c].label(f"v{n}") for n, c in enumerate(taken)),
        ).where(condition)
        if self._locking:
            statement = statement.with_for_update(of=table)
        end = len(identity)
        for found in self.connection.execute(statement.limit(limit)):
            row = tuple(found)
            yield Row(table.fullname, row[:end], dict(zip(taken, row[end:], strict=True)))

    def children(self, edge: Edge, rows: Iterable[Row], **options: Any) -> list[Row]:
        """The rows of the edge's child table that point at any of the rows."""
        alike = self._alike(edge)
        values = self._link_values(edge.parent, edge.references, rows)
        return self.find(
            edge.child, edge.columns, values, spelled_alike=alike, when=edge.when, **options
        )

    def parents(self, edge: Edge, rows: Iterable[Row], **options: Any) -> list[Row]:
        """The rows that the rows point at along an edge."""
        pointing = (row for row in rows if edge.holds(row.values))
        values = self._link_values(edge.child, edge.columns, pointing)
        return self.find(
            edge.parent, edge.references, values, spelled_alike=self._alike(edge), **options
        )

    def _link_values(
        self, table: str, columns: Columns, rows: Iterable[Row]
    ) -> Iterator[tuple[Any, ...]]:
        """A link's side in some rows; without the blanks that fill a `char(n)`, which is found
        with or without them, while a text on the other side has none."""
        padded = [is_padded(self.graph.facts(table, column).type) for column in columns]
        for row in rows:
            values = tuple(row.values[column] for column in columns)
            if any(padded):
                pairs = zip(values, padded, strict=True)
                values = tuple(v.rstrip(" ") if p and isinstance(v, str) else v for v, p in pairs)
            yield values

    def subject(self, key: str, *, also: Sequence[str] = ()) -> list[Row]:
        """The person's own row, if it is there."""
        return self.holding(self.graph.subject, self.graph.key, key, also=also)

    def holding(self, name: str, columns: Columns, key: str, **options: Any) -> list[Row]:
        """The rows that have a subject's key in these columns, whatever their types."""
        return self.holding_any(name, columns, [key], **options).get(key, [])

    def holding_any(
        self, name: str, columns: Columns, keys: Iterable[str], **options: Any
    ) -> dict[str, list[Row]]:
        """The same of several keys, by key; one pass for up to 500 of them."""
        said: dict[Columns, list[str]] = {}
        for key in keys:
            if (own := self.graph.parts(key)) is not None:
                said.setdefault(own, []).append(key)
        wanted: list[tuple[Any, ...]] = []
        as_text: list[tuple[Any, ...]] = []
        for parts in said:
            forms = [
                key_forms(part, self.graph.facts(name, column).type, self.graph.dialect)
                for part, column in zip(parts, columns, strict=True)
            ]
            if any(each is None for each in forms):
                as_text.append(parts)
            else:
                wanted += product(*(each or () for each in forms))
        rows = self.find(name, columns, wanted, **options) if wanted else []
        if as_text:
            rows += self.find(name, columns, as_text, spelled_alike=False, **options)
        found: dict[str, list[Row]] = {}
        for row in rows:
            there = self.graph.said(name, columns, row.values)
            for key in said.get(there, ()) if there is not None else ():
                found.setdefault(key, []).append(row)
        return found

    def delete(self, name: str, rows: Sequence[Row]) -> int:
        """Deletes these rows; refuses if more than these are met."""
        table = self.table(name)
        return self._change(table, rows, sa.delete(table))

    def update(self, name: str, rows: Sequence[Row], changes: Mapping[str, Any]) -> int:
        """Changes these rows; refuses if more than these are met."""
        table = self.table(name)
        return self._change(table, rows, sa.update(table).values(dict(changes)))

    def _change(self, table: SourceTable, rows: Sequence[Row], made: sa.Delete | sa.Update) -> int:
        name, done = table.fullname, 0
        for some in chunks(rows, AT_ONCE):
            met = self.connection.execute(made.where(self.these(table, some))).rowcount
            if met > len({row.identity for row in some}):
                identity = ", ".join(self.graph.tables[name].identity)
                raise ErasureRefused(
                    f"{met} rows of {name} have the {identity} of {len(some)}, so somebody else's "
                    f"would be changed. Nothing was changed. Give {name} a primary key."
                )
            done += met
        return done

    def copy(self, row: Row, changes: Mapping[str, Any]) -> Row:
        """A second row with other values in some columns; the linking ones are returned."""
        facts = self.graph.tables[row.table]
        table = self.table(row.table)
        names = [name for name, each in facts.columns.items() if not each.generated]
        values = [
            sa.literal(changes[n], facts.columns[n].type) if n in changes else table.c[n]
            for n in names
        ]
        made = sa.select(*values).where(self.these(table, [row]))
        kept = self.graph.linking(row.table)
        back = [*facts.identity, *kept]
        inserted = self.connection.execute(
            sa.insert(table).from_select(names, made).returning(*(table.c[n] for n in back))
        ).one()
        identity = tuple(inserted[: len(facts.identity)])
        return Row(
            row.table, identity, dict(zip(kept, inserted[len(facts.identity) :], strict=True))
        )

    def defer(self) -> None:
        """Lets foreign keys that can wait be checked at the transaction's end."""
        sqlite = self.graph.dialect == "sqlite"
        self.connection.exec_driver_sql(
            "PRAGMA defer_foreign_keys = ON" if sqlite else "SET CONSTRAINTS ALL DEFERRED"
        )

    def refresh_copies(self) -> None:
        """Computes materialized views anew, since they hold rows that are gone."""
        for name in self.graph.copies:
            self.connection.exec_driver_sql(f"REFRESH MATERIALIZED VIEW {quoted(name)}")

    def present(self, name: str, rows: Sequence[Row]) -> int:
        """How many of the rows are still there."""
        table = self.table(name)
        return sum(
            int(
                self.connection.execute(
                    sa.select(sa.func.count()).select_from(table).where(self.these(table, some))
                ).scalar_one()
            )
            for some in chunks(rows, AT_ONCE)
        )

    def these(self, table: SourceTable, rows: Sequence[Row]) -> sa.ColumnElement[bool]:
        """The condition for rows of a `table`."""
        identity = [table.c[column] for column in self.graph.tables[table.fullname].identity]
        if len(identity) == 1:
            return identity[0].in_([row.identity[0] for row in rows])
        return sa.tuple_(*identity).in_([row.identity for row in rows])

    def _alike(self, edge: Edge) -> bool:
        """Whether a link's two sides can be compared as they are."""
        if edge.enforced:
            return True
        if self.graph.dialect == "sqlite":
            return False  # a column without a type has 7 and '7', and a link may join the two
        for own, other in zip(edge.columns, edge.references, strict=True):
            kinds = {
                _kind(self.graph.facts(edge.child, own).type),
                _kind(self.graph.facts(edge.parent, other).type),
            }
            if len(kinds) > 1:
                return False
        return True


def _in_sqlite(value: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """A link's value as SQLite may have it on the other side: each number as one, and as text."""
    untyped = sa.types.NullType()
    return product(*(key_forms(canonical_text(v), untyped, "sqlite") or () for v in value))


def _among(
    sides: Sequence[sa.ColumnElement[Any]], values: Sequence[tuple[Any, ...]], dialect: str
) -> sa.ColumnElement[bool]:
    """Whether columns side by side have one of the values."""
    if len(sides) == 1:
        return sides[0].in_([value[0] for value in values])
    condition = sa.tuple_(*sides).in_(values)
    each = [list(dict.fromkeys(column)) for column in zip(*values, strict=True)]
    if dialect != "sqlite" or prod(map(len, each)) > _PROBES:
        return condition
    # Of a list of rows alone SQLite uses no index; of each column's it goes through all pairs.
    return sa.and_(*(side.in_(some) for side, some in zip(sides, each, strict=True)), condition)


def _kind(declared: sa.types.TypeEngine[Any]) -> str:
    if isinstance(declared, sa.Integer | sa.Numeric):
        return "number"
    return "text" if isinstance(declared, sa.String) else type(declared).__name__


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def open_writer(params: Params, *, writing: bool, path: Path | None = None) -> Iterator[Writer]:
    """One transaction on the source, committed if the block ends well.

    Args:
        writing: SQLite's only writer from the first statement on (`BEGIN IMMEDIATE`); on
            PostgreSQL rows that are found are locked. Without it, the very connection that the
            pipeline reads by.
        path: a SQLite file in place of `source.url`.

    Raises:
        SourceUnavailable: absent, silent, or read-only.
        Busy: somebody else holds it.
        ErasureRefused, SchemaMismatch: see `read_graph`; rows of a link with conditions are none
            that one of them is about, so whose they are cannot be known.
    """
    engine = source_engine(params, writing=writing, path=path)
    try:
        with writing_errors(), engine.begin() as connection:
            graph = read_graph(connection, params)
            _refuse_unfollowed(connection, params, graph)
            writer = Writer(connection, graph, locking=writing)
            if writing:
                _lock_unenforced(writer)
            yield writer
    finally:
        engine.dispose()


def _refuse_unfollowed(connection: sa.Connection, params: Params, graph: Graph) -> None:
    declared = reflect(connection) if graph.dialect == "sqlite" else {}

    def kind(table: str, column: str) -> str:
        return declared[table].kinds[column]

    for name in graph.tables:
        for link, statement in respelled(params, name, kind, graph.dialect):
            if count := int(connection.execute(statement).scalar_one()):
                raise ErasureRefused(respelled_rows(name, link, count))
        for link, statement in unled(params, name):
            if count := int(connection.execute(statement).scalar_one()):
                raise ErasureRefused(unled_rows(params, name, link, count))
    if graph.dialect == "postgresql":
        ends = ((e.child, e.columns, e.parent, e.references) for e in graph.edges)
        for table, own, statement in with_blanks(params, ends, lambda t, c: (t, c) in graph.padded):
            if count := int(connection.execute(statement).scalar_one()):
                raise ErasureRefused(rows_with_blanks(table, own, count))


def _lock_unenforced(writer: Writer) -> None:
    """Keeps rows from being added along links that no foreign key guards, until the end.

    A guarded link needs no more than the lock on the row that it points at.
    """
    names = sorted({edge.child for edge in writer.graph.edges if not edge.enforced})
    if names and writer.graph.dialect == "postgresql":
        listed = ", ".join(map(quoted, names))
        with waiting(f"whoever writes to {listed}", at_most_s=WAIT_SECONDS):
            writer.connection.exec_driver_sql(f"LOCK TABLE {listed} IN SHARE ROW EXCLUSIVE MODE")
