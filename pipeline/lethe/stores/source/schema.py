"""What a source has, reflected, and whether it is what the declarations say."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lethe.config.links import Link
from lethe.config.params import Params
from lethe.config.tables import READ, Column
from lethe.core.errors import SchemaMismatch
from lethe.core.schemas import name_in
from lethe.stores.source.catalogue import Catalogue
from lethe.stores.source.connect import dialect_of
from lethe.stores.source.descent import descent
from lethe.stores.source.forms import is_padded


@dataclass(frozen=True)
class TableInfo:
    """A table as the database describes it.

    `unique`: the primary key and every other set of columns that the database keeps unique.
    `foreign_keys`: the database's own links. `kinds`: of each column, see `kind_of`. `padded`:
        the columns that are filled with blanks.
    """

    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    unique: tuple[frozenset[str], ...]
    foreign_keys: tuple[Link, ...]
    kinds: Mapping[str, str]
    view: bool = False
    padded: frozenset[str] = frozenset()
    part_of: str | None = None  # the table of which it is a partition


def reflect(connection: sa.Connection, declared: Iterable[str] = ()) -> dict[str, TableInfo]:
    """Every table and view of the source's own schema, and of others what is declared there, by
    declared name; reads the catalogue, no row."""
    catalogue = Catalogue(connection, declared)
    columns = catalogue.columns()
    primary = catalogue.multi("pk_constraint")
    unique = catalogue.multi("unique_constraints")
    indexes = catalogue.multi("indexes")
    foreign = catalogue.foreign_keys()
    tables, views = catalogue.names("table"), catalogue.names("view")
    named = _type_names(connection, [*tables, *views])
    parts = descent(connection, tables).table_of
    found: dict[str, TableInfo] = {}
    for view, names in ((False, tables), (True, views)):
        for name in names:
            key = () if view else tuple(primary[name]["constrained_columns"])
            kept_unique = [frozenset(key)] if key else []
            kept_unique += [frozenset(each["column_names"]) for each in unique.get(name, ())]
            kept_unique += [
                frozenset(filter(None, each["column_names"]))
                for each in indexes.get(name, ())
                if each["unique"] and not each.get("dialect_options") and not view
                if None not in each["column_names"]
            ]
            found[name] = TableInfo(
                columns=tuple(column["name"] for column in columns[name]),
                primary_key=key,
                unique=tuple(kept_unique),
                foreign_keys=tuple(
                    Link(
                        columns=tuple(each["constrained_columns"]),
                        table=each["referred_table"],
                        references=tuple(each["referred_columns"]),
                    )
                    for each in foreign.get(name, ())
                ),
                kinds=_kinds(name, columns[name], named),
                view=view,
                padded=frozenset(c["name"] for c in columns[name] if is_padded(c["type"])),
                part_of=parts.get(name),
            )
    return found


PLAIN = ("boolean", "integer", "real", "date", "timestamp", "time", "text")  # can be a feature
_KINDS: tuple[tuple[type[sa.types.TypeEngine[Any]], str], ...] = (
    (sa.Boolean, "boolean"),
    (sa.Integer, "integer"),
    (sa.Numeric, "real"),
    (sa.Float, "real"),
    (sa.DateTime, "timestamp"),
    (sa.Date, "date"),
    (sa.Time, "time"),
    (sa.String, "text"),
    (sa.Uuid, "text"),
)


def kind_of(declared: sa.types.TypeEngine[Any]) -> str:
    """What a column of a database's type holds: one of `PLAIN`, or the type's own name.

    SQLite keeps no types: a name there says what is usual, and empty that nothing is.
    """
    within = getattr(declared, "data_type", None)  # a domain is what it is made of
    if isinstance(within, sa.types.TypeEngine):
        return kind_of(within)
    if isinstance(declared, sa.ARRAY):
        return "ARRAY"
    found = (kind for each, kind in _KINDS if isinstance(declared, each))
    name = "" if isinstance(declared, sa.types.NullType) else type(declared).__name__
    return next(found, name)


_TYPES = f"""
SELECT {name_in("c", "n")}, a.attname, format_type(a.atttypid, NULL)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {name_in("c", "n")} = ANY(:names)
AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
"""


def _type_names(connection: sa.Connection, names: list[str]) -> dict[tuple[str, str], str]:
    """What PostgreSQL calls the type of each column: `integer[]` says more than `ARRAY`."""
    if connection.dialect.name != "postgresql":
        return {}
    rows = connection.execute(sa.text(_TYPES), {"names": names})
    return {(table, column): name for table, column, name in rows}


def _kinds(
    table: str, columns: Iterable[Any], named: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    kinds = {each["name"]: kind_of(each["type"]) for each in columns}
    return {
        name: kind if kind in PLAIN else named.get((table, name), kind)
        for name, kind in kinds.items()
    }


def check_types(params: Params, tables: Mapping[str, TableInfo], dialect: str) -> None:
    """Whether what is taken, and what dates and answers are read from, can be a value at all.

    SQLite and files have no types that say so; there, each value is looked at as it comes.

    Raises:
        SchemaMismatch: names each column whose type is none of `PLAIN`, and each of numbers that
            is declared as a date without saying how its digits are one.
    """
    problems = [
        f"{name}.{column} is {kind or 'of an unknown type'}"
        for name, table in params.tables.items()
        for column, declared in table.columns.items()
        if declared.taken or declared.role in ("timestamp", "consent", "aggregated")
        if (kind := tables[name].kinds.get(column, "text")) not in PLAIN and dialect != "sqlite"
    ]
    if problems:
        raise SchemaMismatch(
            f"{'; '.join(problems[:5])}: that can be no feature, label, text, date or answer. "
            "Declare it unused, or declare a view that makes a number, a word or a date of it."
        )
    numbers = [
        f"{name}.{column}"
        for name, table in params.tables.items()
        for column, declared in table.columns.items()
        if declared.format is None and _is_date(params, name, column, declared)
        if tables[name].kinds.get(column) in ("integer", "real") and dialect != "sqlite"
    ]
    if numbers:
        raise SchemaMismatch(
            f"{', '.join(numbers)}: declared as dates, and the source has numbers there. Declare "
            "their format, such as %Y%m%d, or another column."
        )


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


_OUTSIDE = f"""
SELECT n.nspname, c.relname, c.relkind = 'f'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND n.nspname <> 'information_schema'
AND left(n.nspname, 3) <> 'pg_'
AND (c.relkind = 'f' OR NOT c.relispartition AND NOT pg_table_is_visible(c.oid)
     AND NOT {name_in("c", "n")} = ANY(:seen))
ORDER BY 1, 2
"""


def outside(connection: sa.Connection, declared: Iterable[str]) -> tuple[str, ...]:
    """What a database has beside its own schema and what is declared, where nobody is looked for:
    tables of other schemas, foreign tables, and publications, by which copies of rows go
    elsewhere."""
    if connection.dialect.name != "postgresql":
        return ()
    tables: dict[str, list[str]] = {}
    for schema, name, foreign in connection.execute(sa.text(_OUTSIDE), {"seen": [*declared]}):
        tables.setdefault(schema, []).append(f"{name} (foreign table)" if foreign else name)
    found = [f"schema {schema} ({', '.join(names)})" for schema, names in tables.items()]
    published = connection.exec_driver_sql("SELECT pubname FROM pg_publication ORDER BY 1")
    names = list(published.scalars())
    return (*found, *([f"subscribers of publication {', '.join(names)}"] if names else []))


def may_be_read(params: Params, column: Column) -> bool:
    """Whether any statement of the pipeline may name a column.

    Identifiers are read for one thing: to find the names in text that is scrubbed.
    """
    return column.role in READ or column.taken or (column.names_people and scrubs_text(params))


def scrubs_text(params: Params) -> bool:
    """Whether any declared text is taken, and so scrubbed."""
    return any(
        column.role == "text" and column.taken
        for table in params.tables.values()
        for column in table.columns.values()
    )


def check_schema(params: Params, tables: dict[str, TableInfo]) -> None:
    """Compares declared and reflected tables and columns, both ways.

    Raises:
        SchemaMismatch: something is declared but absent, or present but undeclared.
        ParamsInvalid: a taken column has a name that the shards use themselves.
    """
    problems: list[str] = []
    for name, table in params.tables.items():
        if name not in tables:
            problems.append(f"table {name!r} is declared but absent{_hint(params, name, tables)}")
            continue
        there = tables[name].columns
        problems += [
            f"column {name}.{column} is declared but absent{nearest(column, there)}"
            for column in sorted(table.declared - set(there))
        ]
        problems += [
            f"column {name}.{column} is not declared{nearest(column, table.declared)}"
            for column in there
            if column not in table.declared
        ]
    problems += [
        f"table {name!r} is not declared{nearest(name, params.tables)}"
        for name, info in tables.items()
        if name not in params.tables and not info.view and info.part_of is None
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SchemaMismatch(
            f"The source is not what params.yaml declares: {'; '.join(problems[:5])}{more}. "
            "Declare what is there (unused: [...] for what is not needed), and nothing else."
        )


def _hint(params: Params, name: str, tables: Mapping[str, TableInfo]) -> str:
    """What the name of a table that is absent may be meant for."""
    if "." in name and dialect_of(params) != "postgresql":
        return " (schema.table is of PostgreSQL: elsewhere a dot belongs to a table's name)"
    bare = name.rpartition(".")[2]
    if bare != name and bare in tables and bare not in params.tables:
        return f"; did you mean {bare!r}, of the source's own schema?"
    return nearest(name, tables)


def _is_date(params: Params, table: str, name: str, column: Column) -> bool:
    dated = column.type in ("date", "timestamp") or column.role == "timestamp"
    return dated or (table, name) == (params.consent.table, params.consent.time)


def unproved_links(params: Params, tables: dict[str, TableInfo]) -> list[tuple[str, Link]]:
    """Declared links whose target the database does not itself keep unique."""
    return [
        (name, link)
        for name, table in params.tables.items()
        for link in table.parsed_links
        if not any(keys and keys <= set(link.references) for keys in tables[link.table].unique)
    ]
