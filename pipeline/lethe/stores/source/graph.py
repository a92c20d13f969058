"""Which tables of a source lead to a person: reflected foreign keys and declared links.

Reads the catalogue, no row. What looks like a link to a person and is none, stops here.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ReflectedColumn, ReflectedForeignKeyConstraint

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused, SchemaMismatch
from lethe.stores.source.schema import by_name, check_schema, outside, reflect

# Names of keys that say nothing of whose they are: every table may have its own.
_KEYS = ("id", "key", "no", "nr", "nbr", "num", "number", "code", "uuid", "guid")
_GENERIC = frozenset({*_KEYS, "pk"})
_NO_TEXT = (
    *(sa.Integer, sa.Numeric, sa.Float, sa.Boolean, sa.Date, sa.DateTime, sa.Time),
    *(sa.Interval, sa.LargeBinary, sa.Uuid),
)
_SHORTEST = 4  # letters of a name that can point at a person by itself


@dataclass(frozen=True)
class Edge:
    """Rows of `child` point at a row of `parent`; `enforced` by the database or declared only."""

    child: str
    columns: tuple[str, ...]
    parent: str
    references: tuple[str, ...]
    enforced: bool
    deferrable: bool = False
    restricts: bool = False


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the database describes it; `generated` ones take no value of ours.

    `holds_text`: whether a name could be in it.
    """

    type: sa.types.TypeEngine[Any]
    nullable: bool
    unique: bool
    generated: bool
    holds_text: bool


@dataclass(frozen=True)
class TableFacts:
    """A table as the database describes it.

    `identity` names the columns, or the database's own row number, that distinguish rows.
    """

    columns: Mapping[str, ColumnFacts]
    identity: tuple[str, ...]
    primary: frozenset[str]


@dataclass(frozen=True)
class Graph:
    """The tables, and every way from one to another.

    `own`: table → the edge that leads its rows to the person they are about.
    `carrying`: the columns whose values are subject keys, directly or through other keys.
    `unseen`: what else the database has, where nobody is looked for; see `outside`.
    """

    dialect: str
    subject: str
    key: str
    tables: Mapping[str, TableFacts]
    edges: tuple[Edge, ...]
    own: Mapping[str, Edge]
    carrying: frozenset[tuple[str, str]]
    copies: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    into: Mapping[str, tuple[Edge, ...]] = field(init=False)
    out_of: Mapping[str, tuple[Edge, ...]] = field(init=False)

    def __post_init__(self) -> None:
        into = {name: tuple(e for e in self.edges if e.parent == name) for name in self.tables}
        out_of = {name: tuple(e for e in self.edges if e.child == name) for name in self.tables}
        object.__setattr__(self, "into", into)
        object.__setattr__(self, "out_of", out_of)

    @property
    def unseen_note(self) -> str | None:
        """What a receipt says of what was not looked at."""
        return f"Not looked at: {'; '.join(self.unseen)}." if self.unseen else None

    def facts(self, table: str, column: str) -> ColumnFacts:
        return self.tables[table].columns[column]

    def has_row_numbers(self, table: str) -> bool:
        """Whether SQLite itself numbers the rows, by which they are read in their order."""
        facts = self.tables[table]
        return self.dialect == "sqlite" and facts.identity[0] not in facts.columns

    def linking(self, table: str) -> tuple[str, ...]:
        """The columns of a table that take part in any link, to it or from it, in its order."""
        used = {c for e in self.out_of[table] for c in e.columns}
        used |= {c for e in self.into[table] for c in e.references}
        used |= {column for name, column in self.carrying if name == table}
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
        infos = reflect(connection)
        check_schema(params, infos)
        names = [name for name, info in infos.items() if not info.view]
        inspector = sa.inspect(connection)
        dialect = connection.dialect.name
        tables = _tables(inspector, names, dialect, connection)
        edges = _edges(by_name(inspector.get_multi_foreign_keys()), params, tables)
    if params.subject.table not in tables:
        raise ErasureRefused(
            f"{params.subject.table} is a view; nobody can be deleted from it. Name the table "
            "with one row a person as subject.table."
        )
    if dialect == "postgresql":
        _refuse_other_schemas(connection, names)
        _refuse_hidden_rows(connection, names)
    graph = Graph(
        dialect=dialect,
        subject=params.subject.table,
        key=params.subject.key,
        tables=tables,
        edges=edges,
        own=_own(params, edges),
        carrying=_carrying(params, edges),
        copies=tuple(inspector.get_materialized_view_names()) if dialect == "postgresql" else (),
        unseen=outside(connection),
    )
    suspects = look_alikes(params, graph)
    if suspects:
        raise ErasureRefused(
            f"{', '.join(suspects)} looks like a link to a person but is neither a foreign key "
            "nor declared, so an erasure could leave rows behind. Declare it under links, or "
            "under not_links if it is none."
        )
    return graph


def look_alikes(params: Params, graph: Graph) -> list[str]:
    """Columns named like a link to a person (`patient_id`, `PatientId`, `old_patientid`) that
    no foreign key and no declaration explains; as `table.column`, in order."""
    whole, parts = _identifying_names(params, graph)
    explained = {(edge.child, column) for edge in graph.edges for column in edge.columns}
    explained |= graph.carrying
    found = []
    for table, facts in graph.tables.items():
        for column, each in facts.columns.items():
            if (table, column) in explained or column in params.tables[table].not_links:
                continue
            if isinstance(each.type, sa.Boolean | sa.Date | sa.DateTime | sa.Time):
                continue
            name = _plain(column)
            own_key = facts.primary == {column}
            identifying = name in {n for names in whole.values() for n in names} and not own_key
            if identifying or any(part in name for part in parts):
                found.append(f"{table}.{column}")
    return found


def _identifying_names(params: Params, graph: Graph) -> tuple[dict[str, set[str]], set[str]]:
    """Names that point at a person's row as a whole, by table, and those that do inside others.

    The first are every known link's and the keys of people's tables; the second the
    subject's: its key, and its table's name in the singular before `id`, `no`, …
    """
    whole: dict[str, set[str]] = {}
    people = [name for name in graph.tables if params.tables[name].about == "person"]
    for name in people:
        primary = graph.tables[name].primary
        if len(primary) == 1:
            whole.setdefault(name, set()).update(map(_plain, primary))
    for edge in graph.edges:
        if edge.parent in people and len(edge.columns) == 1:
            whole.setdefault(edge.parent, set()).add(_plain(edge.columns[0]))
    for table, column in graph.carrying:
        whole.setdefault(table, set()).add(_plain(column))
    key = _plain(params.subject.key)
    stems = {_singular(_plain(params.subject.table)), *(key.removesuffix(end) for end in _KEYS)}
    whole.setdefault(params.subject.table, set()).update(stems)
    stems = {stem for stem in stems if _identifies(stem)}
    parts = {stem + end for stem in stems for end in (*_KEYS, "ref", "fk")} | {key}
    return (
        {table: {n for n in names if _identifies(n)} for table, names in whole.items()},
        {name for name in parts if _identifies(name)},
    )


def _identifies(name: str) -> bool:
    return name not in _GENERIC and len(name) >= _SHORTEST


def _plain(name: str) -> str:
    """`Patient_ID`, `patientId` and `patient id` are one name."""
    return re.sub(r"[\W_]", "", name).lower()


def _singular(name: str) -> str:
    if name.endswith("ies"):
        return name.removesuffix("ies") + "y"
    return name.removesuffix("s") if not name.endswith("ss") else name


def _tables(
    inspector: sa.Inspector, names: Iterable[str], dialect: str, connection: sa.Connection
) -> dict[str, TableFacts]:
    columns = by_name(inspector.get_multi_columns())
    primary = by_name(inspector.get_multi_pk_constraint())
    unique = by_name(inspector.get_multi_unique_constraints())
    indexes = by_name(inspector.get_multi_indexes())
    listed = connection.exec_driver_sql("PRAGMA table_list") if dialect == "sqlite" else ()
    without_rowid = {row[1] for row in listed if row[4]}
    found = {}
    for name in names:
        uniques = [tuple(each["column_names"]) for each in unique.get(name, ())]
        uniques += [
            tuple(column for column in each["column_names"] if column)
            for each in indexes.get(name, ())
            if each["unique"] and not each.get("dialect_options", {}).get("postgresql_where")
        ]
        key = tuple(primary[name]["constrained_columns"])
        rowid = dialect == "sqlite" and name not in without_rowid
        found[name] = _table(columns[name], key, uniques, dialect, rowid)
    return found


def _table(
    reflected: Sequence[ReflectedColumn],
    primary: tuple[str, ...],
    uniques: Sequence[tuple[str, ...]],
    dialect: str,
    rowid: bool,
) -> TableFacts:
    keys = [primary, *uniques]
    single = {each[0] for each in keys if len(each) == 1}
    nullable = {column["name"]: column["nullable"] for column in reflected}
    columns = {
        column["name"]: ColumnFacts(
            # SQLite's values are what they are, whatever the column was declared as
            type=sa.types.NullType() if dialect == "sqlite" else column["type"],
            nullable=column["nullable"] and column["name"] not in primary,
            unique=column["name"] in single,
            generated=_generated(column),
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
        identity = primary or next(iter(whole), ()) or ("ctid",)
    return TableFacts(columns=columns, identity=identity, primary=frozenset(primary))


def _generated(column: ReflectedColumn) -> bool:
    identity = column.get("identity")
    return bool(column.get("computed")) or bool(identity and identity.get("always"))


def _edges(
    foreign: Mapping[str, Sequence[ReflectedForeignKeyConstraint]],
    params: Params,
    tables: Mapping[str, TableFacts],
) -> tuple[Edge, ...]:
    # SQLite's names differ by case and are the same
    spelled = {name.lower(): name for name in tables}
    found: list[Edge] = []
    for name in tables:
        for key in foreign.get(name, ()):
            target = str(key["referred_table"])
            parent = target if target in tables else spelled.get(target.lower())
            if key.get("referred_schema") or parent is None:
                continue  # of another schema, or of a table that is gone: it leads to no person
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
            if name in tables and link.table in tables and (name, pairs, link.table) not in known:
                found.append(Edge(name, link.columns, link.table, link.references, enforced=False))
    return tuple(found)


def _spelled(table: TableFacts, names: list[str]) -> tuple[str, ...]:
    by_name = {column.lower(): column for column in table.columns}
    try:
        return tuple(n if n in table.columns else by_name[n.lower()] for n in names)
    except KeyError:
        raise SchemaMismatch(
            "A foreign key of the source names a column that is not there. Correct the schema."
        ) from None


def _own(params: Params, edges: tuple[Edge, ...]) -> dict[str, Edge]:
    """For each table about people the first link of its shortest declared chain."""
    own: dict[str, Edge] = {}
    for name, table in params.tables.items():
        links = params.path(name, params.subject.table) if table.about == "person" else None
        pairs = set(zip(links[0].columns, links[0].references, strict=True)) if links else set()
        for edge in edges:  # none of a view: its rows are other tables'
            if (
                links
                and (edge.child, edge.parent) == (name, links[0].table)
                and set(zip(edge.columns, edge.references, strict=True)) == pairs
            ):
                own[name] = edge
    return own


def _carrying(params: Params, edges: tuple[Edge, ...]) -> frozenset[tuple[str, str]]:
    found = {(params.subject.table, params.subject.key)}
    while True:
        more = {
            (edge.child, own)
            for edge in edges
            for own, other in zip(edge.columns, edge.references, strict=True)
            if (edge.parent, other) in found
        }
        if more <= found:
            return frozenset(found)
        found |= more


def _refuse_other_schemas(connection: sa.Connection, names: list[str]) -> None:
    """A table that reflection does not see may still point at people."""
    outside = connection.execute(
        sa.text(
            "SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_constraint k "
            "JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "JOIN pg_class t ON t.oid = k.confrelid WHERE k.contype = 'f' "
            "AND t.relname = ANY(:names) "
            "AND t.relnamespace = to_regnamespace(quote_ident(current_schema())) "
            "AND c.relnamespace <> t.relnamespace"
        ),
        {"names": names},
    ).scalars()
    found = sorted(outside)
    if found:
        raise ErasureRefused(
            f"{', '.join(found)} points at a declared table from another schema, where an "
            "erasure does not look. Move it into the source's schema and declare it."
        )


def _refuse_hidden_rows(connection: sa.Connection, names: list[str]) -> None:
    """Rows that a policy hides from the role would be neither erased nor seen to be there."""
    hidden = connection.execute(
        sa.text(
            "SELECT c.relname FROM pg_class c WHERE c.relname = ANY(:names) "
            "AND c.relnamespace = to_regnamespace(quote_ident(current_schema())) "
            "AND row_security_active(c.oid) ORDER BY 1"
        ),
        {"names": names},
    ).scalars()
    found = list(hidden)
    if found:
        raise ErasureRefused(
            f"Row security hides rows of {', '.join(found)} from the role in source.url, so an "
            "erasure could leave rows behind. Use the tables' owner, or a role with BYPASSRLS."
        )
