"""What the database says of a table and its columns: reads the catalogue, no row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedIndex

from lethe.stores.source.catalogue import Catalogue
from lethe.stores.source.descent import Descent
from lethe.stores.source.forms import bare

_NO_TEXT = (
    *(sa.Integer, sa.Numeric, sa.Float, sa.Boolean, sa.Date, sa.DateTime, sa.Time),
    *(sa.Interval, sa.LargeBinary, sa.Uuid),
)


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the database describes it; `generated` ones take no value of ours.

    `computed`: of the row's other columns. `holds_text`: whether a name could be in it.
    """

    type: sa.types.TypeEngine[Any]
    nullable: bool
    unique: bool
    generated: bool
    computed: bool
    holds_text: bool


@dataclass(frozen=True)
class TableFacts:
    """A table as the database describes it.

    `identity` names the columns, or the database's own row number, that distinguish rows.
    """

    columns: Mapping[str, ColumnFacts]
    identity: tuple[str, ...]
    primary: frozenset[str]


def table_facts(
    catalogue: Catalogue,
    names: Iterable[str],
    connection: sa.Connection,
    family: Descent,
) -> dict[str, TableFacts]:
    """Of each of these tables, by name; reads the catalogue, no row."""
    dialect = connection.dialect.name
    columns = catalogue.multi("columns")
    primary = catalogue.multi("pk_constraint")
    unique = catalogue.multi("unique_constraints")
    indexes = catalogue.multi("indexes")
    listed = connection.exec_driver_sql("PRAGMA table_list") if dialect == "sqlite" else ()
    without_rowid = {row[1] for row in listed if row[4]}
    found = {}
    for name in names:
        uniques = [tuple(each["column_names"]) for each in unique.get(name, ())]
        uniques += [
            tuple(each["column_names"]) for each in indexes.get(name, ()) if _of_every_row(each)
        ]
        key = tuple(primary[name]["constrained_columns"])
        rowid = name not in without_rowid if dialect == "sqlite" else None
        # An address is a row's within its partition.
        address = ("tableoid", "ctid") if family.partitions(name) else ("ctid",)
        found[name] = _table(columns[name], key, uniques, address, rowid=rowid)
    return found


def _of_every_row(index: ReflectedIndex) -> bool:
    """Whether no two rows of the table have the same values in the index's columns: one of an
    expression, of some rows only, or one that could not be built, says nothing of that."""
    apart = {"postgresql_where", "sqlite_where", "postgresql_invalid"}
    partly = apart & set(index.get("dialect_options", {}))
    return bool(index["unique"]) and None not in index["column_names"] and not partly


def _table(
    reflected: Sequence[ReflectedColumn],
    primary: tuple[str, ...],
    uniques: Sequence[tuple[str, ...]],
    address: tuple[str, ...],
    *,
    rowid: bool | None,
) -> TableFacts:
    keys = [primary, *uniques]
    single = {each[0] for each in keys if len(each) == 1}
    nullable = {column["name"]: column["nullable"] for column in reflected}
    columns = {
        column["name"]: ColumnFacts(
            # SQLite's values are what they are, whatever the column was declared as
            type=bare(column["type"]) if rowid is None else sa.types.NullType(),
            nullable=column["nullable"] and column["name"] not in primary,
            unique=column["name"] in single,
            generated=_generated(column),
            computed=bool(column.get("computed")),
            holds_text=not isinstance(column["type"], _NO_TEXT),
        )
        for column in reflected
    }
    identity: tuple[str, ...]
    if rowid:
        taken = {column.lower() for column in columns}
        identity = (next(each for each in ("rowid", "_rowid_", "oid") if each not in taken),)
    else:
        whole = [each for each in uniques if each and not any(nullable[c] for c in each)]
        identity = primary or next(iter(whole), ()) or address
    return TableFacts(columns=columns, identity=identity, primary=frozenset(primary))


def _generated(column: ReflectedColumn) -> bool:
    identity = column.get("identity")
    return bool(column.get("computed")) or bool(identity and identity.get("always"))
