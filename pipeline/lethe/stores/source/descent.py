"""Tables whose rows another table shows as well: partitions, and what inherits (PostgreSQL).

Each row is one table's. A partition is part of its table, which has all of its rows. A table that
others inherit from is read alone (`FROM ONLY`), since each heir has columns and keys of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from lethe.core.errors import ErasureRefused
from lethe.core.schemas import name_in

_DESCENT = f"""
SELECT {name_in("c", "n")}, {name_in("p", "m")}, c.relispartition
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_namespace m ON m.oid = p.relnamespace
WHERE c.relkind IN ('r', 'p')
"""


@dataclass(frozen=True)
class Descent:
    """`table_of`: partition, of any level → its table.

    `heirs`: table → all that inherit from it, of any level.
    """

    table_of: Mapping[str, str] = field(default_factory=dict)
    heirs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def partitions(self, table: str) -> tuple[str, ...]:
        return tuple(sorted(part for part, whole in self.table_of.items() if whole == table))


def descent(connection: sa.Connection, names: Iterable[str]) -> Descent:
    """Which tables show the rows of which others.

    Args:
        names: the tables that are looked at. A partition of one is part of it, in whichever schema
            it is; a partition of others alone is a table of its own.
    """
    if connection.dialect.name != "postgresql":
        return Descent()
    part_of: dict[str, str] = {}
    children: dict[str, list[str]] = {}
    for child, parent, partition in connection.exec_driver_sql(_DESCENT):
        if partition:
            part_of[child] = parent
        else:
            children.setdefault(parent, []).append(child)
    seen = frozenset(names)
    tops = {part: _top(part, part_of, seen) for part in part_of}
    return Descent(
        {part: whole for part, whole in tops.items() if whole != part},
        {name: tuple(_below(name, children)) for name in children if name in seen},
    )


def _top(part: str, part_of: Mapping[str, str], seen: frozenset[str]) -> str:
    """The highest table above a partition that is looked at; itself without one."""
    found = here = part
    while here in part_of:
        here = part_of[here]
        found = here if here in seen else found
    return found


def _below(name: str, children: Mapping[str, Iterable[str]]) -> list[str]:
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found[child] = None
                waiting.append(child)
    return sorted(found)


_BELOW = f"""
WITH RECURSIVE below AS (
    SELECT c.oid, FALSE AS part FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {name_in("c", "n")} = ANY(:names)
    UNION SELECT i.inhrelid, c.relispartition FROM pg_inherits i JOIN below b ON b.oid = i.inhparent
    JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT DISTINCT n.nspname || '.' || c.relname
FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'f' OR NOT (b.part OR {name_in("c", "n")} = ANY(:names))
ORDER BY 1
"""


def refuse_parts_elsewhere(connection: sa.Connection, names: list[str]) -> None:
    """Rows that a table shows of a foreign table, or of an heir that nobody declared."""
    found = connection.execute(sa.text(_BELOW), {"names": names}).scalars()
    if listed := ", ".join(found):
        raise ErasureRefused(
            f"{listed} is a foreign table, or inherits from another schema and is not declared, "
            "and its rows show in a declared table, where an erasure could not distinguish them. "
            "Declare it as schema.table (a foreign table: move its rows into a table), or detach "
            "it."
        )
