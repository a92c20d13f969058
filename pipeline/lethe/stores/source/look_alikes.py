"""Columns that look like a link to a person and are none: what a declaration may have forgotten."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.stores.source.edge import Carrier, Columns, Edge
from lethe.stores.source.table_facts import TableFacts

# Names of keys that say nothing of whose they are: every table may have its own.
_KEYS = ("id", "key", "no", "nr", "nbr", "num", "number", "code", "uuid", "guid")
_GENERIC = frozenset({*_KEYS, "pk"})
_SHORTEST = 4  # letters of a name that can point at a person by itself


def look_alikes(
    params: Params,
    tables: Mapping[str, TableFacts],
    edges: Sequence[Edge],
    carrying: Collection[Carrier],
) -> list[str]:
    """Columns named like a link to a person (`patient_id`, `PatientId`, `old_patientid`) that
    no foreign key and no declaration explains; as `table.column`, in order. Where the key has
    several columns, also columns named like all of them, side by side in one table."""
    whole, parts = _identifying_names(params, tables, edges, carrying)
    explained = {(edge.child, column) for edge in edges for column in edge.columns}
    explained |= {(name, column) for name, columns in carrying for column in columns}
    found = []
    for table, facts in tables.items():
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
        for columns in _side_by_side(params, table, facts, carrying):
            left = [each for each in columns if (table, each) not in explained]
            if left and not set(columns) & set(params.tables[table].not_links):
                found.append(f"{table}.({', '.join(columns)})")
    return found


def _side_by_side(
    params: Params, table: str, facts: TableFacts, carrying: Collection[Carrier]
) -> Iterator[Columns]:
    """Columns of a table that together are named like a key of several columns, each with the same
    before it (`old_studio` and `old_number`); not its own key, unless that is named as the person's
    is: then it may have a row for each person."""
    keys = params.subject.keys
    if len(keys) == 1:
        return
    stem = _singular(_plain(params.subject.table))
    names = [{_plain(key), stem + _plain(key)} for key in keys]
    for _, columns in carrying:
        for place, column in enumerate(columns):
            names[place].add(_plain(column))
    spelled = {_plain(column): column for column in facts.columns}
    first = (name[: -len(end)] for name in spelled for end in names[0] if name.endswith(end))
    for before in dict.fromkeys(first):
        found = [
            next((spelled[before + end] for end in sorted(ends) if before + end in spelled), None)
            for ends in names
        ]
        whole = tuple(each for each in found if each is not None)
        own_key = facts.primary == set(whole) and {*map(_plain, whole)} != {*map(_plain, keys)}
        if len(set(whole)) == len(keys) and not own_key and (table, whole) not in carrying:
            yield whole


def _identifying_names(
    params: Params,
    tables: Mapping[str, TableFacts],
    edges: Sequence[Edge],
    carrying: Collection[Carrier],
) -> tuple[dict[str, set[str]], set[str]]:
    """Names that point at a person's row as a whole, by table, and those that do inside others.

    The first are every known link's and the keys of people's tables; the second the
    subject's: its key, and its table's name in the singular before `id`, `no`, …
    """
    whole: dict[str, set[str]] = {}
    people = [name for name in tables if params.tables[name].about == "person"]
    for name in people:
        primary = tables[name].primary
        if len(primary) == 1:
            whole.setdefault(name, set()).update(map(_plain, primary))
    for edge in edges:
        if edge.parent in people and len(edge.columns) == 1:
            whole.setdefault(edge.parent, set()).add(_plain(edge.columns[0]))
    keys: list[str] = []
    if len(params.subject.keys) == 1:  # a part of several names nobody by itself
        keys = [_plain(key) for key in params.subject.keys]
        for table, columns in carrying:
            whole.setdefault(table, set()).update(map(_plain, columns))
    stems = {_singular(_plain(params.subject.table))}
    stems |= {key.removesuffix(end) for key in keys for end in _KEYS}
    whole.setdefault(params.subject.table, set()).update(stems)
    stems = {stem for stem in stems if _identifies(stem)}
    parts = {stem + end for stem in stems for end in (*_KEYS, "ref", "fk")} | {*keys}
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
