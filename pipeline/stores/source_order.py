"""In which order rows can be deleted so that no foreign key is ever broken."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ErasureRefused
from pipeline.stores.source_graph import Edge, Graph
from pipeline.stores.source_plan import spelled
from pipeline.stores.source_writer import AT_ONCE, Row

RowKey = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Step:
    """One statement's worth: rows of one table to delete, or links of theirs to null first.

    `deferred`: the database must be asked to check its foreign keys at the end.
    """

    table: str
    rows: tuple[Row, ...]
    nulls: tuple[str, ...] = ()
    deferred: bool = False


def in_order(graph: Graph, rows: Mapping[str, Iterable[Row]]) -> Iterator[Step]:
    """Rows that nothing points at first, then those that these pointed at, and so on.

    A cycle is broken at a link that can be null; else by constraints that can wait.

    Raises:
        ErasureRefused: a cycle of links none of which can be null or wait.
    """
    left: dict[RowKey, Row] = {
        (row.table, row.identity): row for found in rows.values() for row in found
    }
    points, pointed = _links(graph, left)
    while left:
        free = [key for key in left if not pointed[key]]
        if not free:
            yield from _break(graph, left, points, pointed)
            continue
        batches: dict[str, list[Row]] = defaultdict(list)
        for key in free:
            batches[key[0]].append(left.pop(key))
            for parent, _ in points.pop(key, ()):
                pointed[parent].discard(key)
        for table, batch in batches.items():
            yield Step(table, tuple(batch))


Points = dict[RowKey, set[tuple[RowKey, Edge]]]
Pointed = dict[RowKey, set[RowKey]]


def _links(graph: Graph, left: Mapping[RowKey, Row]) -> tuple[Points, Pointed]:
    points: Points = defaultdict(set)
    pointed: Pointed = defaultdict(set)
    tables = {table for table, _ in left}
    for edge in graph.edges:
        if not edge.enforced or edge.child not in tables or edge.parent not in tables:
            continue
        targets = {
            spelled(row, edge.references): key
            for key, row in left.items()
            if row.table == edge.parent
        }
        for key, row in left.items():
            values = spelled(row, edge.columns) if row.table == edge.child else None
            target = targets.get(values) if values is not None else None
            if target is not None and target != key:
                points[key].add((target, edge))
                pointed[target].add(key)
    return points, pointed


def _break(
    graph: Graph, left: dict[RowKey, Row], points: Points, pointed: Pointed
) -> Iterator[Step]:
    """Nulls every link of what is left that can be; without one, lets the database wait."""
    edges = {edge for key in left for _, edge in points[key]}
    loose = {
        edge: tuple(c for c in edge.columns if graph.facts(edge.child, c).nullable)
        for edge in edges
    }
    if any(loose.values()):
        for edge, columns in loose.items():
            linked = [key for key in left if any(e == edge for _, e in points[key])]
            if columns and linked:
                yield Step(edge.child, tuple(left[key] for key in linked), nulls=columns)
                for key in linked:
                    points[key] = {(parent, e) for parent, e in points[key] if e != edge}
        for key in left:
            pointed[key] = set()
        for key in left:
            for parent, _ in points[key]:
                pointed[parent].add(key)
        return
    tables = sorted({table for table, _ in left})
    sqlite = graph.dialect == "sqlite"
    can_wait = all((sqlite and not e.restricts) or e.deferrable for e in edges)
    at_once = len(tables) == 1 and len(left) <= AT_ONCE and not any(e.restricts for e in edges)
    if not can_wait and not at_once:
        raise ErasureRefused(
            f"The person's rows of {', '.join(tables)} point at one another in a circle that "
            "foreign keys forbid to open. Let one of the links be null, or make it deferrable."
        )
    for table in tables:
        yield Step(
            table, tuple(row for (name, _), row in left.items() if name == table), deferred=can_wait
        )
    left.clear()
