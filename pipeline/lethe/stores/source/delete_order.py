"""In which order rows can be deleted so that no foreign key is ever broken."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lethe.core.errors import ErasureRefused
from lethe.stores.source.edge import Edge
from lethe.stores.source.graph import Graph
from lethe.stores.source.writer import AT_ONCE, Row

RowKey = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class DeletionStep:
    """One statement's worth: rows of one table to delete, or links of theirs to null first.

    `deferred`: the database must be asked to check its foreign keys at the end.
    """

    table: str
    rows: tuple[Row, ...]
    nulls: tuple[str, ...] = ()
    deferred: bool = False


def in_order(graph: Graph, rows: Mapping[str, Iterable[Row]]) -> Iterator[DeletionStep]:
    """Rows that nothing points at first, then those that these pointed at, and so on.

    A circle is broken at a link that can be null; else by constraints that can wait.

    Raises:
        ErasureRefused: a circle of links none of which can be null or wait.
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
            yield DeletionStep(table, tuple(batch))


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
            graph.said(row.table, edge.references, row.values): key
            for key, row in left.items()
            if row.table == edge.parent
        }
        for key, row in left.items():
            if row.table != edge.child:
                continue
            values = graph.said(row.table, edge.columns, row.values)
            target = targets.get(values) if values is not None else None
            if target is not None and target != key:
                points[key].add((target, edge))
                pointed[target].add(key)
    return points, pointed


def _break(
    graph: Graph, left: dict[RowKey, Row], points: Points, pointed: Pointed
) -> Iterator[DeletionStep]:
    """Nulls every link within a circle that can be; without one, lets the database wait."""
    circle = _in_circles(left, points)
    edges = {edge for key in circle for parent, edge in points[key] if parent in circle}
    loose = {
        edge: tuple(c for c in edge.columns if graph.facts(edge.child, c).nullable)
        for edge in edges
    }
    if any(loose.values()):
        for edge in edges:
            linked = [key for key in circle if any(e == edge for _, e in points[key])]
            if loose[edge] and linked:
                yield DeletionStep(
                    edge.child, tuple(left[key] for key in linked), nulls=loose[edge]
                )
                for key in linked:
                    points[key] = {(parent, e) for parent, e in points[key] if e != edge}
    else:
        tables = sorted({table for table, _ in circle})
        sqlite = graph.dialect == "sqlite"
        can_wait = all((sqlite and not e.restricts) or e.deferrable for e in edges)
        restricted = any(edge.restricts for edge in edges)
        if not can_wait and (len(tables) > 1 or len(circle) > AT_ONCE or restricted):
            raise ErasureRefused(
                f"The person's rows of {', '.join(tables)} point at one another in a circle that "
                "foreign keys forbid to open. Let one of the links be null, or make it "
                "deferrable."
            )
        for table in tables:
            rows = tuple(left.pop(key) for key in circle if key[0] == table)
            yield DeletionStep(table, rows, deferred=can_wait)
    for key in left:
        pointed[key] = set()
    for key in left:
        for parent, _ in points[key]:
            pointed[parent].add(key)


def _in_circles(left: Mapping[RowKey, Row], points: Points) -> list[RowKey]:
    """What is left without the rows from which no circle can be reached."""
    circle = dict.fromkeys(left)
    while True:
        ends = [key for key in circle if not any(parent in circle for parent, _ in points[key])]
        if not ends:
            return list(circle)
        for key in ends:
            del circle[key]
