"""What a source has, reflected, and whether it is what the declarations say."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.reflection import ObjectKind

from lethe.config.params import Params
from lethe.config.tables import Column, Link
from lethe.core.errors import SchemaMismatch


@dataclass(frozen=True)
class TableInfo:
    """A table as the database describes it.

    `unique`: the primary key and every other set of columns that the database keeps unique.
    `foreign_keys`: the database's own links.
    """

    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    unique: tuple[frozenset[str], ...]
    foreign_keys: tuple[Link, ...]
    view: bool = False


def reflect(connection: sa.Connection) -> dict[str, TableInfo]:
    """Every table and view of the default schema; reads the catalogue, no row."""
    inspector = sa.inspect(connection)
    columns = by_name(inspector.get_multi_columns(kind=ObjectKind.ANY))
    primary = by_name(inspector.get_multi_pk_constraint())
    unique = by_name(inspector.get_multi_unique_constraints())
    indexes = by_name(inspector.get_multi_indexes())
    foreign = by_name(inspector.get_multi_foreign_keys())
    found: dict[str, TableInfo] = {}
    for view, names in ((False, inspector.get_table_names()), (True, inspector.get_view_names())):
        for name in names:
            key = () if view else tuple(primary[name]["constrained_columns"])
            kept_unique = [frozenset(key)] if key else []
            kept_unique += [frozenset(each["column_names"]) for each in unique.get(name, ())]
            kept_unique += [
                frozenset(column for column in each["column_names"] if column)
                for each in indexes.get(name, ())
                if each["unique"] and not each.get("dialect_options") and not view
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
                view=view,
            )
    return found


def by_name(found: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: facts for (_, name), facts in found.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


_OUTSIDE = """
SELECT n.nspname, c.relname, c.relkind = 'f'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'm') AND (c.relkind = 'f' OR NOT c.relispartition)
AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'
AND (c.relkind = 'f' OR n.nspname IS DISTINCT FROM current_schema())
ORDER BY 1, 2
"""


def outside(connection: sa.Connection) -> tuple[str, ...]:
    """What a database has beside the declared schema, where nobody is looked for: tables of
    other schemas, foreign tables, and publications, by which copies of rows go elsewhere."""
    if connection.dialect.name != "postgresql":
        return ()
    tables: dict[str, list[str]] = {}
    for schema, name, foreign in connection.exec_driver_sql(_OUTSIDE):
        tables.setdefault(schema, []).append(f"{name} (foreign table)" if foreign else name)
    found = [f"schema {schema} ({', '.join(names)})" for schema, names in tables.items()]
    published = connection.exec_driver_sql("SELECT pubname FROM pg_publication ORDER BY 1")
    names = list(published.scalars())
    return (*found, *([f"subscribers of publication {', '.join(names)}"] if names else []))


def may_be_read(params: Params, column: Column) -> bool:
    """Whether any statement of the pipeline may name a column.

    Identifiers are read for one thing: to find the names in text that is scrubbed.
    """
    if column.role in ("unused", "identifier", "text"):
        return column.taken or (column.names_people and scrubs_text(params))
    return True


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
            problems.append(f"table {name!r} is declared but absent{nearest(name, tables)}")
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
        if name not in params.tables and not info.view
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SchemaMismatch(
            f"The source is not what params.yaml declares: {'; '.join(problems[:5])}{more}. "
            "Declare what is there (unused: [...] for what is not needed), and nothing else."
        )


def unproved_links(params: Params, tables: dict[str, TableInfo]) -> list[tuple[str, Link]]:
    """Declared links whose target the database does not itself keep unique."""
    return [
        (name, link)
        for name, table in params.tables.items()
        for link in table.parsed_links
        if not any(keys and keys <= set(link.references) for keys in tables[link.table].unique)
    ]
