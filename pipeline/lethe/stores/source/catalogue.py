"""A source's tables by declared name: in a statement, and as its database describes them.

What is asked for is all of the source's own schema, and of other schemas (PostgreSQL) what is
declared there as `schema.table`.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.ext.compiler import compiles

from lethe.core.schemas import POSTGRESQL, name_in, schema_and_table


class SourceTable(sa.TableClause):
    """A table without the rows of those that inherit from it; `fullname` is its declared name.

    Each heir is a table of its own, so whoever reads, looks or erases means the same rows.
    """

    inherit_cache = True


@compiles(SourceTable, POSTGRESQL)  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _only(element: SourceTable, compiler: Any, **options: Any) -> str:
    name: str = compiler.visit_table(element, **options)
    alone = options.get("asfrom") and element.fullname in getattr(compiler.dialect, _HEIRS, ())
    return f"ONLY {name}" if alone else name


_HEIRS = "lethe_has_heirs"
_WITH_HEIRS = f"""
SELECT DISTINCT {name_in("p", "n")}
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
JOIN pg_namespace n ON n.oid = p.relnamespace WHERE p.relkind = 'r'
"""


def note_heirs(engine: sa.Engine) -> None:
    """Lets statements of an engine know which tables others inherit from (PostgreSQL).

    A partitioned table has no rows of its own, so `ONLY` cannot be said of every table.
    """

    def note(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            found = frozenset(name for (name,) in cursor.execute(_WITH_HEIRS))
        connection.rollback()
        setattr(engine.dialect, _HEIRS, found)

    sa.event.listen(engine, "connect", note)


def table_named(name: str, dialect: str, *columns: sa.ColumnClause[Any]) -> SourceTable:
    """A declared table, for statements."""
    schema, table = schema_and_table(name, dialect)
    return SourceTable(table, *columns, schema=schema)


class Catalogue:
    """SQLAlchemy's reflection by declared name; reads the catalogue, no row."""

    def __init__(self, connection: sa.Connection, declared: Iterable[str]) -> None:
        self.dialect = connection.dialect.name
        self._connection = connection
        self._inspector = sa.inspect(connection)
        self._own = self._inspector.default_schema_name
        self._others: dict[str, list[str]] = {}
        named = [each for each in declared if schema_and_table(each, self.dialect)[0] is not None]
        there = connection.execute(sa.text(_THERE), {"names": named}).scalars() if named else ()
        for name in there:
            schema, table = schema_and_table(name, self.dialect)
            if schema not in (None, self._own):
                self._others.setdefault(str(schema), []).append(table)

    def _name(self, schema: str | None, table: str) -> str:
        if schema is None and (self.dialect != POSTGRESQL or "." not in table):
            return table
        return f"{schema or self._own}.{table}"

    def multi(self, what: str, **options: Any) -> dict[str, Any]:
        """`get_multi_{what}` of SQLAlchemy's inspector."""
        ask = getattr(self._inspector, f"get_multi_{what}")
        found = {self._name(None, table): facts for (_, table), facts in ask(**options).items()}
        for schema, names in self._others.items():
            there = ask(schema=schema, filter_names=names, **options)
            found |= {self._name(schema, table): facts for (_, table), facts in there.items()}
        return found

    def columns(self) -> dict[str, Any]:
        """The columns of each table, view and materialized view."""
        with warnings.catch_warnings():  # of types that SQLAlchemy has no class for
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            return self.multi("columns", kind=ObjectKind.ANY)

    def names(self, kind: str) -> list[str]:
        """Every `table`, or `view`, of what is asked for."""
        ask = getattr(self._inspector, f"get_{kind}_names")
        found = [self._name(None, table) for table in ask()]
        for schema, names in self._others.items():
            found += [self._name(schema, each) for each in ask(schema) if each in names]
        return found

    def copies(self) -> tuple[str, ...]:
        """Materialized views of the source's own schema."""
        if self.dialect != POSTGRESQL:
            return ()
        return tuple(self._name(None, t) for t in self._inspector.get_materialized_view_names())

    def foreign_keys(self) -> dict[str, list[dict[str, Any]]]:
        """Foreign keys of each table; `referred_table` is a declared name as well."""
        found = self.multi("foreign_keys")
        if self.dialect != POSTGRESQL:
            return found
        leads = {(t, key): to for t, key, to in self._connection.exec_driver_sql(_LEADS)}
        return {
            table: [{**key, "referred_table": leads[table, key["name"]]} for key in keys]
            for table, keys in found.items()
        }


_THERE = f"""
SELECT {name_in("c", "n")} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {name_in("c", "n")} = ANY(:names)
"""
_LEADS = f"""
SELECT {name_in("c", "n")}, k.conname, {name_in("p", "m")}
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace m ON m.oid = p.relnamespace
WHERE k.contype = 'f'
"""
