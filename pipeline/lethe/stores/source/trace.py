"""Which rows of a source are one person's, found from their key along every link."""

import datetime as dt
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused
from lethe.stores.source.edge import Columns, Edge
from lethe.stores.source.queries import last_day, read_days
from lethe.stores.source.writer import Row, Writer


class RowTrace:
    """The rows that lead to one person.

    A row is the person's if its table's own chain of links ends at them, or ends nowhere and
    another of its links leads to them. A row of somebody else that points at one of these is
    a neighbour: its link must be cut, or, if it cannot be, the row goes too.

    Attributes:
        mine: rows about the person, by table.
        doomed: rows about two people that go with either of them, by table.
        neighbours: other rows, each with the edges along which it points at rows above.
    """

    def __init__(
        self,
        writer: Writer,
        params: Params,
        key: str,
        *,
        now: dt.datetime,
        also_identifiers: bool = False,
    ) -> None:
        self._writer = writer
        self._now = now
        self._graph = writer.graph
        self._params = params
        self._key = key
        self._said = self._graph.parts(key)
        self._also_identifiers = also_identifiers
        self.mine: dict[str, dict[tuple[Any, ...], Row]] = {}
        self.doomed: dict[str, dict[tuple[Any, ...], Row]] = {}
        self.neighbours: dict[str, dict[tuple[Any, ...], tuple[Row, set[Edge]]]] = {}
        self._days: dict[tuple[str, Any], dt.date | None] = {}
        # Of each table once, since one person may have very many rows of it.
        self._by = {table: until_column(params, table) for table in writer.graph.tables}
        self._kept_from = {table: self._last_day(table) for table in writer.graph.tables}
        self._owned: deque[Sequence[Row]] = deque()
        self._others: deque[tuple[Sequence[Row], bool]] = deque()
        self.new_key = gives_new_key(params)

    @property
    def subject_rows(self) -> list[Row]:
        return list(self.mine.get(self._graph.subject, {}).values())

    def rows(self) -> list[Row]:
        """The person's rows, in the order in which they were found."""
        return [row for found in self.mine.values() for row in found.values()]

    def run(self) -> "RowTrace":
        """Finds everything.

        Raises:
            ErasureRefused: a row about two people can neither be cut off nor deleted.
        """
        found = self._writer.subject(self._key, also=self._also(self._graph.subject))
        self._add(found)
        self._follow_all()
        self._follow_key()
        self._follow_all()
        return self

    def _follow_all(self) -> None:
        while self._owned or self._others:
            if self._owned:
                self._follow_own(self._owned.popleft())
            else:
                self._follow_other(*self._others.popleft())

    def has(self, row: Row) -> bool:
        return row.identity in self.mine.get(row.table, {}) or row.identity in self.doomed.get(
            row.table, {}
        )

    def goes(self, row: Row) -> bool:
        """Whether a row about the person is deleted: declared so, or kept for long enough."""
        erase = self._params.tables[row.table].erase
        if erase is None or erase.action == "anonymize":
            return False
        if erase.action == "delete":
            return True
        since, kept_from = self.since(row), self._kept_from[row.table]
        return since is not None and kept_from is not None and since < kept_from

    def _last_day(self, table: str) -> dt.date | None:
        """The first day from which a retained row is kept; None where nothing says for how long."""
        declared, by = self._params.tables[table], self._by[table]
        if by is None or declared.erase is None or declared.erase.days is None:
            return None
        return last_day(declared.erase.days, self._params, declared.columns[by], self._now)

    def since(self, row: Row) -> dt.date | None:
        """From which day a retained row's legal basis is counted, by its own date; None without."""
        by = self._by[row.table]
        if by is None or row.values.get(by) is None:
            return None
        said = (row.table, row.values[by])
        if said not in self._days:
            self._read_days([row])
        return self._days[said]

    def _read_days(self, rows: Sequence[Row]) -> None:
        """Reads the dates of many rows at once: one at a time would take minutes."""
        by = self._by[rows[0].table]
        if by is None:
            return
        said = {value for row in rows if (value := row.values.get(by)) is not None}
        values = [value for value in said if (rows[0].table, value) not in self._days]
        days = read_days(pd.Series(values, dtype=object), self._params, rows[0].table, by)
        for value, day, unread in zip(values, days, days.isna(), strict=True):
            self._days[rows[0].table, value] = None if unread else day.date()

    def _also(self, table: str) -> tuple[str, ...]:
        """Columns to take beside the links: what decides a retained row's end; identifiers."""
        declared = self._params.tables[table]
        by = self._by[table]
        named = [
            name
            for name, column in declared.columns.items()
            if self._also_identifiers and (column.role == "identifier" or column.names_people)
        ]
        return (*([by] if by else []), *named)

    def _follow_key(self) -> None:
        """Rows that name the key but lead to no row: left by a deletion without foreign keys."""
        goes = not self.subject_rows or any(map(self.goes, self.subject_rows))
        for edge in self._graph.edges:
            pointing = dict(zip(edge.references, edge.columns, strict=True))
            for named in self._graph.carriers(edge.parent):
                if not set(named) <= set(pointing):
                    continue
                own = tuple(pointing[column] for column in named)
                also = self._also(edge.child)
                rows = self._writer.holding(edge.child, own, self._key, also=also, when=edge.when)
                self._take(edge, rows, goes=goes)

    def _add(self, rows: Iterable[Row]) -> None:
        new = [row for row in rows if not self.has(row)]
        for row in new:
            self.mine.setdefault(row.table, {})[row.identity] = row
            self.neighbours.get(row.table, {}).pop(row.identity, None)
        if new:
            self._read_days(new)
            self._owned.append(new)
            self._others.append((new, True))

    def _doom(self, row: Row) -> None:
        self.doomed.setdefault(row.table, {})[row.identity] = row
        self.neighbours.get(row.table, {}).pop(row.identity, None)
        self._others.append(([row], False))

    def _is_own(self, edge: Edge) -> bool:
        return edge in self._graph.own.get(edge.child, ())

    def _follow_own(self, rows: Sequence[Row]) -> None:
        """Rows whose own chain leads through rows that are the person's."""
        for edge in self._graph.into[rows[0].table]:
            if self._is_own(edge) and edge.child != self._graph.subject:
                self._add(self._writer.children(edge, rows, also=self._also(edge.child)))

    def _follow_other(self, rows: Sequence[Row], owned: bool) -> None:
        """Rows that point at them along another link, so may be about somebody else."""
        going: list[Row] = []
        staying: list[Row] = []
        for row in rows:
            (going if not owned or self.goes(row) else staying).append(row)
        for edge in self._graph.into[rows[0].table]:
            if owned and self._is_own(edge):
                continue
            for some, goes in ((going, True), (staying, False)):
                found = self._writer.children(edge, some, also=self._also(edge.child))
                self._take(edge, found, goes=goes)

    def _take(self, edge: Edge, rows: Iterable[Row], *, goes: bool) -> None:
        """Sorts rows that point at the person's: theirs, or somebody's whose link must be cut."""
        for row in rows:
            if self.has(row):
                continue
            carries = any(
                self._graph.carries(edge.child, columns, row.values)
                for columns in self._graph.carriers(edge.child)
                if set(columns) <= set(edge.columns)
            )
            if self._is_mine(row):
                self._add([row])
            elif not goes and not carries:
                continue  # what it points at stays, and says nothing of the person
            elif self._must_go(row, edge, follows=not goes and self.new_key):
                self._doom(row)
            else:
                kept = self.neighbours.setdefault(row.table, {})
                kept.setdefault(row.identity, (row, set()))[1].add(edge)

    def _is_mine(self, row: Row) -> bool:
        """Whether a row's own chain ends at the person, or nowhere."""
        if row.table == self._graph.subject:
            return self._is_key(row, self._graph.key)
        if row.table not in self._graph.own:
            return False  # its table is about nobody, or about whoever points at it
        while row.table in self._graph.own:
            if row.identity in self.mine.get(row.table, {}):
                return True
            own = self._graph.own[row.table]
            edge = next((each for each in own if each.holds(row.values)), None)
            if edge is None:
                return True
            whose = self._graph.leads_to_key(edge)
            if whose is not None:
                nobodys = any(row.values[column] is None for column in whose)
                return nobodys or self._is_key(row, whose)
            parents = self._writer.parents(edge, [row])
            if not parents:
                return True
            row = parents[0]
        return self._is_key(row, self._graph.key)

    def _is_key(self, row: Row, columns: Columns) -> bool:
        said = self._graph.said(row.table, columns, row.values)
        return said is not None and said == self._said

    def _must_go(self, row: Row, edge: Edge, *, follows: bool) -> bool:
        """Whether a row about somebody else goes because it cannot be cut off from the person."""
        declared = self._params.tables[row.table]
        shared = declared.erase.shared if declared.erase else None
        if shared == "delete" and row.table != self._graph.subject:
            return True
        if any(self._graph.facts(row.table, column).nullable for column in edge.columns):
            return False
        edges = self._graph.out_of[row.table]
        names = {name for each in edges for name in (*each.columns, *dict(each.when))}
        if shared is None and declared.about == "person" and self._only_links(row.table, names):
            return True
        if follows:
            return False  # its link goes along with the person's row to its new key
        raise self._bound(row, edge)

    def _bound(self, row: Row, edge: Edge) -> ErasureRefused:
        return ErasureRefused(
            f"{row.table} has rows about somebody else that point at the person's row of "
            f"{edge.parent} by {', '.join(edge.columns)}, which cannot be null. Let it be null, or "
            "declare erase: {shared: delete} for the table."
        )

    def _only_links(self, table: str, names: set[str]) -> bool:
        """Whether the table says nothing but who is linked to whom (many to many)."""
        facts = self._graph.tables[table]
        own_number = set(facts.identity) if len(facts.identity) == 1 else set()
        return set(facts.columns) <= names | own_number


def until_column(params: Params, table: str) -> str | None:
    """The timestamp from which a retained row's legal basis is counted, if one is declared."""
    declared = params.tables[table]
    if declared.erase is None or declared.erase.action != "retain":
        return None
    if declared.erase.by is not None:
        return declared.erase.by
    return declared.retention.by if declared.retention is not None else None


def gives_new_key(params: Params) -> bool:
    """Whether the person's row stays under another key: an anonymous shell."""
    erase = params.tables[params.subject.table].erase
    return erase is not None and (
        erase.action == "anonymize"
        or (erase.action == "retain" and bool({*params.subject.keys} & {*erase.columns}))
    )
