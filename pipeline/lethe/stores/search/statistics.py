"""What PostgreSQL's planner knows of rows that are deleted.

ANALYZE keeps values of rows for the planner, a person's key among them, and shows them in
`pg_stats` until it is run again; of a table without rows it leaves them as they were.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from lethe.core.schemas import name_in, quoted

# Whoever uses the table waits behind this request for it, and while it is carried out.
LOCK_S = 2
WORK_S = 10  # for a check constraint of the column every row is read


def forget_statistics_if_empty(connection: sa.Connection, table: str) -> None:
    """Takes from the planner what it knows of a table that has no rows of its own any more.

    Giving a column the type that it has ends its statistics, and rewrites nothing. A column that
    is inherited is given it where it comes from, of a partition the whole table; what is then
    known of the others is gathered anew. By the column that tables are partitioned by, the
    partition is detached for that and attached again, in one transaction.

    What cannot be done so stays, and the fresh look finds it: a view stands on the column, the
    role does not own the table, somebody holds it for `LOCK_S`, the change takes `WORK_S`, the
    table is itself partitioned by the column, or to attach it again would change a trigger or read
    the rows of a DEFAULT partition.

    Args:
        connection: in autocommit.
    """
    raw: Any = connection.connection.driver_connection
    name = quoted(table)
    known = raw.execute(_KNOWN_OF, {"name": name}).fetchall()
    if not known or _has_rows(raw, name):
        return
    left, changed = [], dict[str, None]()
    for column, kind, keyed, top in known:
        escaped = connection.dialect.identifier_preparer.quote_identifier(column)
        typed = f"ALTER COLUMN {escaped} TYPE {kind}"
        if top is not None and _done(raw, f"ALTER TABLE {top} {typed}"):
            changed[top] = None
        elif not keyed:
            left.append(typed)
    if left:
        _apart(raw, name, left)
    for top in changed:
        for each in _whole_tables(raw, top, but=name):
            raw.execute(f"ANALYZE {each}")


_KNOWN_OF = """
WITH RECURSIVE up AS (
    SELECT to_regclass(%(name)s)::oid AS oid
    UNION SELECT i.inhparent FROM pg_inherits i JOIN up ON up.oid = i.inhrelid
)
SELECT DISTINCT a.attname, format_type(a.atttypid, a.atttypmod)
    || coalesce(' COLLATE ' || quote_ident(m.nspname) || '.' || quote_ident(l.collname), ''),
EXISTS (
    SELECT FROM pg_partition_tree(c.oid) t JOIN pg_partitioned_table p ON p.partrelid = t.relid
    JOIN pg_attribute k ON k.attrelid = p.partrelid AND k.attnum = ANY (p.partattrs)
    WHERE k.attname = a.attname
),
(
    SELECT min(up.oid::regclass::text) FROM up JOIN pg_attribute t ON t.attrelid = up.oid
    WHERE t.attname = a.attname AND t.attinhcount = 0 AND NOT t.attisdropped
)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
JOIN pg_stats s ON s.attname = a.attname
AND s.tablename = c.relname AND s.schemaname = n.nspname
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_namespace m ON m.oid = l.collnamespace
WHERE c.oid = to_regclass(%(name)s)
"""
_PART = """
SELECT i.inhparent::regclass::text, pg_get_expr(c.relpartbound, c.oid),
nullif(p.partdefid, 0)::regclass::text,
EXISTS (
    SELECT FROM pg_trigger t WHERE t.tgenabled <> 'O' AND (
        t.tgrelid = i.inhparent OR t.tgrelid IN (SELECT relid FROM pg_partition_tree(c.oid))
    )
)
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
WHERE c.oid = to_regclass(%s) AND c.relispartition
"""
_BELOW = """
WITH RECURSIVE down AS (
    SELECT to_regclass(%s)::oid AS oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN down ON down.oid = i.inhparent
)
SELECT c.oid::regclass::text FROM down JOIN pg_class c ON c.oid = down.oid
WHERE NOT c.relispartition AND c.oid <> to_regclass(%s)
"""


def _has_rows(raw: Any, name: str) -> bool:
    """Of its own: a table's heirs have theirs, a partitioned table those of its partitions."""
    asked = "SELECT relkind = 'r' FROM pg_class WHERE oid = to_regclass(%s)"
    only = "ONLY " if raw.execute(asked, (name,)).fetchone()[0] else ""
    return bool(raw.execute(f"SELECT EXISTS (SELECT FROM {only}{name})").fetchone()[0])


def _apart(raw: Any, name: str, typed: Sequence[str]) -> None:
    """Changes columns of a partition while it is none; not where that would be seen."""
    part = raw.execute(_PART, (name,)).fetchone()
    if part is None:
        return
    parent, bound, default, switched = part
    # Attached again, its triggers are its parent's; and rows of DEFAULT are read for its own.
    if switched or (default is not None and _has_rows(raw, default)):
        return
    _done(
        raw,
        f"ALTER TABLE {parent} DETACH PARTITION {name}",
        f"ALTER TABLE {name} {', '.join(typed)}",
        f"ALTER TABLE {parent} ATTACH PARTITION {name} {bound}",
    )


def _whole_tables(raw: Any, top: str, *, but: str) -> list[str]:
    """A table and its heirs; the statistics of partitions are gathered with their table's."""
    return [each for (each,) in raw.execute(_BELOW, (top, but)).fetchall()]


def _done(raw: Any, *statements: str) -> bool:
    """Whether all of this could be done; nothing of it is, else."""
    try:
        with raw.transaction():
            raw.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
            raw.execute(f"SET LOCAL statement_timeout = '{WORK_S}s'")
            for statement in statements:
                raw.execute(statement)
    except psycopg.errors.Error:
        return False
    return True


_KNOWN = sa.text(
    f"SELECT {name_in('c', 'n')}, s.attname FROM pg_stats s "
    "JOIN pg_namespace n ON n.nspname = s.schemaname "
    "JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename WHERE "
    "(s.most_common_vals::text::text[] && :values OR s.histogram_bounds::text::text[] && :values)"
).bindparams(sa.bindparam("values", type_=sa.ARRAY(sa.Text())))


def in_statistics(
    connection: sa.Connection, columns: Iterable[tuple[str, str]], values: Iterable[str]
) -> list[tuple[str, str]]:
    """Of these (table, column), those of which the planner knows one of the values.

    As far as the role may read them: what it may not, `pg_stats` does not show.
    """
    found = connection.execute(_KNOWN, {"values": list(values)})
    among = set(columns)
    return [place for table, column in found if (place := (table, column)) in among]
