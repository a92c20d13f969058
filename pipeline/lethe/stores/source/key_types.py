"""Whether the columns of a key can be compared surely, part by part.

A key is read as text, and found again by the values of its columns. Those of several columns are
only of types that have one text for each value, and whose equal values have equal texts; one column
is of a type that some value of the text's can be asked of.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import SchemaMismatch
from lethe.stores.source.forms import Type, bare, key_forms
from lethe.stores.source.graph import Graph
from lethe.stores.source.queries import consent_links, table_of
from lethe.stores.source.reader import Reader

Place = tuple[str, str]  # a table and a column


def check_key_types(reader: Reader, params: Params) -> None:
    """A key, and all that links to it, is of types that can be compared: of several columns
    surely, of one column by a value of its type.

    Raises:
        SchemaMismatch: names each column that is not.
    """
    linked = dict(_linked(params))
    alone = len(params.subject.keys) == 1
    if reader.dialect == "sqlite":
        kind = "bytes" if alone else "bytes or fractions"
        problems = [
            f"{table}.{column} has {count} values that are {kind}"
            for table, column in linked
            if (count := reader.count(_odd(params, table, column, fractions=not alone)))
        ]
    else:
        types = {table: reader.types(table) for table in dict.fromkeys(t for t, _ in linked)}
        if alone:
            own = [place for place in linked if place[0] == params.subject.table]
            problems = list(_without_form(own, types, reader.dialect))
        else:
            blind = set(_case_blind(reader)) & set(linked)
            problems = [*_unsure(linked, types), *(f"{t}.{c} (its collation)" for t, c in blind)]
    if problems:
        which = "person's key" if alone else "part of a person's key of several columns"
        raise SchemaMismatch(
            f"{'; '.join(problems)}: as a {which} it cannot be compared surely, so an erasure "
            "might not find them. Give it a plain type (text, integer, numeric with places, date, "
            "timestamp without a zone, boolean, uuid), or name other columns."
        )


def surely_found(connection: sa.Connection, graph: Graph, params: Params) -> bool:
    """Whether everybody who is read by their key is found by its value as well, whatever it is."""
    if len(graph.key) > 1:
        return False
    (key,) = graph.key
    if graph.dialect == "sqlite":
        return not connection.execute(_odd(params, graph.subject, key)).scalar_one()
    return comparable(graph.facts(graph.subject, key).type) is not None


def _without_form(
    linked: Iterable[Place], types: Mapping[str, Mapping[str, Type]], dialect: str
) -> Iterator[str]:
    """Columns of types that spell a value otherwise than a key does; floats are compared as text,
    and whoever is read and not found so is looked for once more."""
    for table, column in linked:
        declared = types[table].get(column)
        if declared is None or isinstance(bare(declared), sa.Float):
            continue
        if key_forms("", declared, dialect) is None:
            yield f"{table}.{column} is {bare(declared)}"


def _linked(params: Params) -> Iterator[tuple[Place, Place]]:
    """Each column that holds a part of a key, with the one of the subject's table that it is."""
    table, keys = params.subject.table, params.subject.keys
    yield from (((table, key), (table, key)) for key in keys)
    links = [(name, link) for name, each in params.tables.items() for link in each.parsed_links]
    links += [(params.consent.table, chain[0]) for chain in consent_links(params)]
    for name, link in links:
        if link.table == table and set(link.references) == set(keys):
            pairs = zip(link.columns, link.references, strict=True)
            yield from (((name, own), (table, key)) for own, key in pairs)


def _unsure(
    linked: Mapping[Place, Place], types: Mapping[str, Mapping[str, Type]]
) -> Iterator[str]:
    for (table, column), (of, key) in linked.items():
        if column not in types[table] or key not in types[of]:
            continue  # said by `check_schema`
        own, other = comparable(types[table][column]), comparable(types[of][key])
        if own is None:
            yield f"{table}.{column} is {bare(types[table][column])}"
        elif own != other and other is not None:
            yield f"{table}.{column} is {bare(types[table][column])}, and {of}.{key} is not"


def comparable(declared: Type) -> str | None:
    """What kind of values a type has, where equal ones have equal texts; None for no such type."""
    within = bare(declared)
    if isinstance(within, sa.Enum):
        return "enum"
    if type(within).__name__ == "CITEXT":
        return None
    if isinstance(within, sa.String):
        return "text"
    if isinstance(within, sa.Integer):
        return "number"
    if isinstance(within, sa.Numeric):
        return None if within.scale is None else "number"
    if isinstance(within, sa.DateTime):
        return None if within.timezone else "timestamp"
    kinds = ((sa.Boolean, "boolean"), (sa.Date, "date"), (sa.Uuid, "uuid"))
    return next((kind for each, kind in kinds if isinstance(within, each)), None)


def _odd(params: Params, table: str, column: str, *, fractions: bool = True) -> sa.Select[Any]:
    """How many values SQLite keeps as bytes, or as numbers with a fraction."""
    clause = table_of(params, table)
    value = clause.c[column]
    kind = sa.func.typeof(value)
    odd = kind == "blob"
    if fractions:
        odd |= (kind == "real") & (value != sa.cast(value, sa.Integer))
    return sa.select(sa.func.count()).select_from(clause).where(odd)


_COLLATED = """
SELECT n.nspname, c.relname, a.attname FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_collation l ON l.oid = a.attcollation
WHERE NOT l.collisdeterministic AND a.attnum > 0
"""


def _case_blind(reader: Reader) -> Iterator[Place]:
    """Columns whose collation takes different texts for equal."""
    for frame in reader.stream(sa.text(_COLLATED)):
        for schema, table, column in frame.itertuples(index=False):
            yield from ((name, str(column)) for name in (str(table), f"{schema}.{table}"))
