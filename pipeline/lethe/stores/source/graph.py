"""Which tables of a source lead to a person: reflected foreign keys and declared links.

Reads the catalogue, no row. What looks like a link to a person and is none, stops here.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from lethe.config.links import When, holds
from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, SchemaMismatch
from lethe.core.schemas import name_in
from lethe.core.values import canonical_text
from lethe.stores.source.catalogue import Catalogue
from lethe.stores.source.descent import Descent, descent, refuse_parts_elsewhere
from lethe.stores.source.edge import Carrier, Columns, Edge
from lethe.stores.source.forms import compared
from lethe.stores.source.look_alikes import look_alikes
from lethe.stores.source.person_key import apart
from lethe.stores.source.schema import check_schema, outside, reflect
from lethe.stores.source.table_facts import ColumnFacts, TableFacts, table_facts


@dataclass(frozen=True)
class Graph:
    """The tables, and every way from one to another.

    `key`: the columns of the subject's key. `own`: table → the edges, one for each row, that lead
        its rows to the person they are about.
    `carrying`: the columns whose values are subject keys, directly or through other keys, in the
        order of the key, and in which rows they are that.
    `padded`: the columns that are filled with blanks, those of views too.
    `unseen`: what else the database has, where nobody is looked for; see `outside`.
    """

    dialect: str
    subject: str
    key: tuple[str, ...]
    tables: Mapping[str, TableFacts]
    edges: tuple[Edge, ...]
    own: Mapping[str, tuple[Edge, ...]]
    carrying: Mapping[Carrier, tuple[When, ...]]
    copies: tuple[str, ...] = ()
    padded: frozenset[tuple[str, str]] = frozenset()
    unseen: tuple[str, ...] = ()
    descent: Descent = field(default_factory=Descent)
    into: Mapping[str, tuple[Edge, ...]] = field(init=False)
    out_of: Mapping[str, tuple[Edge, ...]] = field(init=False)
    _carriers: Mapping[str, tuple[Columns, ...]] = field(init=False)

    def __post_init__(self) -> None:
        into = {name: tuple(e for e in self.edges if e.parent == name) for name in self.tables}
        out_of = {name: tuple(e for e in self.edges if e.child == name) for name in self.tables}
        object.__setattr__(self, "into", into)
        object.__setattr__(self, "out_of", out_of)
        carriers: dict[str, tuple[Columns, ...]] = {}
        for table, columns in self.carrying:
            carriers[table] = (*carriers.get(table, ()), columns)
        object.__setattr__(self, "_carriers", carriers)

    @property
    def unseen_note(self) -> str | None:
        """What a receipt says of what was not looked at, and of copies in the database."""
        notes = [f"Not looked at: {'; '.join(self.unseen)}."] if self.unseen else []
        if self.copies:
            listed = ", ".join(sorted(self.copies))
            notes.append(f"Materialized views, which are computed anew when rows go: {listed}.")
        return " ".join(notes) or None

    def facts(self, table: str, column: str) -> ColumnFacts:
        return self.tables[table].columns[column]

    def carries(self, table: str, columns: Columns, values: Mapping[str, Any]) -> bool:
        """Whether what a row has in these columns is a subject's key."""
        return any(holds(when, values) for when in self.carrying.get((table, columns), ()))

    def carriers(self, table: str) -> tuple[Columns, ...]:
        """The columns of a table that may hold a subject's key, those of each key together."""
        return self._carriers.get(table, ())

    def compared(self, table: str, columns: Columns, values: Iterable[str]) -> Columns:
        """Canonical values of columns so that equal texts are equal to the database."""
        types = (self.facts(table, column).type for column in columns)
        return tuple(compared(value, each) for value, each in zip(values, types, strict=True))

    def parts(self, key: str) -> Columns | None:
        """The parts of a subject's key as `compared` has them; None if it is no key of theirs."""
        found = apart(key, len(self.key))
        return None if found is None else self.compared(self.subject, self.key, found)

    def said(self, table: str, columns: Columns, values: Mapping[str, Any]) -> Columns | None:
        """What a row has in columns, as `parts` has a key; None if one of them is null."""
        own = [values[column] for column in columns]
        if any(value is None for value in own):
            return None
        return self.compared(table, columns, map(canonical_text, own))

    def leads_to_key(self, edge: Edge) -> Columns | None:
        """The columns of `child` that say whose a row is, in the key's order, where an edge leads
        to the subject's own row by its whole key."""
        if edge.parent != self.subject or set(edge.references) != set(self.key):
            return None
        by_reference = dict(zip(edge.references, edge.columns, strict=True))
        return tuple(by_reference[column] for column in self.key)

    def has_row_numbers(self, table: str) -> bool:
        """Whether SQLite itself numbers the rows, by which they are read in their order."""
        facts = self.tables[table]
        return self.dialect == "sqlite" and facts.identity[0] not in facts.columns

    def linking(self, table: str) -> tuple[str, ...]:
        """The columns of a table that take part in any link, to it or from it, in its order."""
        used = {c for e in self.out_of[table] for c in (*e.columns, *dict(e.when))}
        used |= {c for e in self.into[table] for c in e.references}
        used |= {column for columns in self.carriers(table) for column in columns}
        return tuple(column for column in self.tables[table].columns if column in used)


def read_graph(connection: sa.Connection, params: Params) -> Graph:
    """Reflects the source and lays the declared links over it.

    Raises:
        SchemaMismatch: the source is not what is declared.
        ErasureRefused: a column looks like a link to a person and is none, a table of
            another schema points at a declared one, or a policy hides rows from the role.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # a type it does not know, a foreign view
        infos = reflect(connection, params.tables)
        check_schema(params, infos)
        names = [name for name, info in infos.items() if not info.view]
        family = descent(connection, names)
        _refuse_parts_apart(params, family)
        catalogue = Catalogue(connection, [*params.tables, *family.table_of])
        dialect = connection.dialect.name
        whole = [name for name in names if name not in family.table_of]
        tables = table_facts(catalogue, whole, connection, family)
        edges = _edges(catalogue.foreign_keys(), params, tables, family)
    if params.subject.table not in tables:
        raise ErasureRefused(
            f"{params.subject.table} is a view; nobody can be deleted from it. Name the table "
            "with one row a person as subject.table."
        )
    if dialect == "postgresql":
        refuse_parts_elsewhere(connection, names)
        seen = [*names, *family.table_of]
        _refuse_other_schemas(connection, seen)
        _refuse_hidden_rows(connection, seen)
    graph = Graph(
        dialect=dialect,
        subject=params.subject.table,
        key=params.subject.keys,
        tables=tables,
        edges=edges,
        own=_own(params, edges, family),
        carrying=_carrying(params, edges),
        copies=catalogue.copies(),
        padded=frozenset((name, each) for name, info in infos.items() for each in info.padded),
        unseen=outside(connection, params.tables),
        descent=family,
    )
    suspects = look_alikes(params, tables, edges, graph.carrying)
    if suspects:
        raise ErasureRefused(
            f"{', '.join(suspects)} looks like a link to a person but is neither a foreign key "
            "nor declared, so an erasure could leave rows behind. Declare it under links, or "
            "under not_links if it is none."
        )
    return graph


def _edges(
    foreign: Mapping[str, Sequence[Mapping[str, Any]]],
    params: Params,
    tables: Mapping[str, TableFacts],
    family: Descent,
) -> tuple[Edge, ...]:
    # SQLite's names differ by case and are the same
    spelled = {name.lower(): name for name in tables}
    found: list[Edge] = []
    for own in (*tables, *family.table_of):
        name = family.table_of.get(own, own)
        for key in foreign.get(own, ()) if name in tables else ():
            target = str(key["referred_table"])
            target = family.table_of.get(target, target)
            parent = target if target in tables else spelled.get(target.lower())
            if parent is None:
                continue  # a table that is gone, or that nobody declared: it leads to no person
            options = key.get("options") or {}
            found.append(
                Edge(
                    child=name,
                    columns=_spelled(tables[name], key["constrained_columns"]),
                    parent=parent,
                    references=_spelled(tables[parent], key["referred_columns"]),
                    enforced=True,
                    deferrable=bool(options.get("deferrable")),
                    restricts=str(options.get("ondelete", "")).upper() == "RESTRICT",
                )
            )
    known = {
        (e.child, frozenset(zip(e.columns, e.references, strict=True)), e.parent) for e in found
    }
    for name, table in params.tables.items():
        for link in table.parsed_links:
            pairs = frozenset(zip(link.columns, link.references, strict=True))
            child, parent = (family.table_of.get(each, each) for each in (name, link.table))
            if child in tables and parent in tables and (child, pairs, parent) not in known:
                found.append(
                    Edge(
                        child,
                        link.columns,
                        parent,
                        link.references,
                        enforced=False,
                        when=link.when,
                    )
                )
    found += _inherited(found, family)
    unique: dict[Edge, Edge] = {}
    for edge in found:
        unique.setdefault(_declared_only(edge, edge.child, edge.parent), edge)
    return tuple(unique.values())


def _inherited(edges: Iterable[Edge], family: Descent) -> list[Edge]:
    """What leads to or from rows of a table leads to or from those of its heirs, unenforced."""
    return [
        _declared_only(edge, child, parent)
        for edge in edges
        for child in (edge.child, *family.heirs.get(edge.child, ()))
        for parent in (edge.parent, *family.heirs.get(edge.parent, ()))
        if (child, parent) != (edge.child, edge.parent)
    ]


def _declared_only(edge: Edge, child: str, parent: str) -> Edge:
    return replace(
        edge, child=child, parent=parent, enforced=False, deferrable=False, restricts=False
    )


def _spelled(table: TableFacts, names: list[str]) -> tuple[str, ...]:
    by_name = {column.lower(): column for column in table.columns}
    try:
        return tuple(n if n in table.columns else by_name[n.lower()] for n in names)
    except KeyError:
        raise SchemaMismatch(
            "A foreign key of the source names a column that is not there. Correct the schema."
        ) from None


def _own(params: Params, edges: tuple[Edge, ...], family: Descent) -> dict[str, tuple[Edge, ...]]:
    """For each table about people the first links of its declared chains."""
    own: dict[str, tuple[Edge, ...]] = {}
    whole = family.table_of
    for declared, table in params.tables.items():
        name = whole.get(declared, declared)
        chains = params.paths(declared, params.subject.table) if table.about == "person" else ()
        firsts = {
            (
                whole.get(first.table, first.table),
                frozenset(zip(first.columns, first.references, strict=True)),
            )
            for first in (chain[0] for chain in chains if chain)
        }
        found = tuple(  # none of a view: its rows are other tables'
            edge
            for edge in edges
            if edge.child == name
            and (edge.parent, frozenset(zip(edge.columns, edge.references, strict=True))) in firsts
        )
        if found:
            own[name] = tuple(dict.fromkeys((*own.get(name, ()), *found)))
    return own


def _carrying(params: Params, edges: tuple[Edge, ...]) -> dict[Carrier, tuple[When, ...]]:
    found: dict[Carrier, tuple[When, ...]] = {(params.subject.table, params.subject.keys): ((),)}
    while True:
        before = dict(found)
        for edge in edges:
            pointing = dict(zip(edge.references, edge.columns, strict=True))
            for table, columns in list(found):
                if table != edge.parent or not set(columns) <= set(pointing):
                    continue
                own = edge.child, tuple(pointing[column] for column in columns)
                known = found.get(own, ())
                if edge.when not in known:
                    found[own] = (*known, edge.when)
        if found == before:
            return found


def _refuse_parts_apart(params: Params, family: Descent) -> None:
    """A partition's rows are its table's: what becomes of them is said there."""
    for part, whole in sorted(family.table_of.items()):
        declared, wholly = params.tables.get(part), params.tables.get(whole)
        if declared is None or wholly is None:
            continue
        said = ("about", "erase", "retention", "links", "not_links")
        if any(getattr(declared, each) != getattr(wholly, each) for each in said):
            raise ErasureRefused(
                f"{part} is a partition of {whole}, and is declared otherwise ({', '.join(said)}). "
                f"Declare {whole} alone: it has the rows of {part}."
            )


_POINTING = f"""
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace m ON m.oid = p.relnamespace
WHERE k.contype = 'f' AND {name_in("p", "m")} = ANY(:seen)
AND NOT {name_in("c", "n")} = ANY(:seen)
ORDER BY 1
"""
_HIDDEN = f"""
SELECT {name_in("c", "n")}
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {name_in("c", "n")} = ANY(:seen) AND row_security_active(c.oid) ORDER BY 1
"""


def _refuse_other_schemas(connection: sa.Connection, seen: list[str]) -> None:
    """A table that reflection does not see may still point at people."""
    found = list(connection.execute(sa.text(_POINTING), {"seen": seen}).scalars())
    if found:
        raise ErasureRefused(
            f"{', '.join(found)} points at a declared table from another schema, where an "
            "erasure does not look. Declare it, as schema.table."
        )


def _refuse_hidden_rows(connection: sa.Connection, seen: list[str]) -> None:
    """Rows that a policy hides from the role would be neither erased nor seen to be there."""
    found = list(connection.execute(sa.text(_HIDDEN), {"seen": seen}).scalars())
    if found:
        raise ErasureRefused(
            f"Row security hides rows of {', '.join(found)} from the role in source.url, so an "
            "erasure could leave rows behind. Use the tables' owner, or a role with BYPASSRLS."
        )
