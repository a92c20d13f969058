"""What an erasure does to each row: decided whole before anything is changed."""

import datetime as dt
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import ErasureRefused
from lethe.stores.source.edge import Columns, Edge
from lethe.stores.source.mentions import Mentioned, Terms, mentions, searched
from lethe.stores.source.new_key import ERASED, changing_places, cut_columns, surrogate
from lethe.stores.source.trace import RowTrace
from lethe.stores.source.writer import Row, Writer

Identity = tuple[Any, ...]


@dataclass
class ErasePlan:
    """Rows to delete; rows to change, and how; what stays by law.

    `moves` are rows whose own key changes: copied under the new one (`moved` are already),
    their links moved, then deleted. `keep` and `unlinked` must still be there afterwards.
    `reported` counts mentions that a human must see to, by column. `retained` counts by
    table and legal basis. `points` holds what links to deleted rows look like.
    """

    delete: dict[str, dict[Identity, Row]] = field(default_factory=dict)
    change: dict[str, dict[Identity, tuple[Row, dict[str, Any]]]] = field(default_factory=dict)
    moves: dict[str, dict[Identity, Row]] = field(default_factory=dict)
    moved: set[tuple[str, Identity]] = field(default_factory=set)
    keep: dict[str, dict[Identity, Row]] = field(default_factory=dict)
    unlinked: dict[str, dict[Identity, Row]] = field(default_factory=dict)
    redacted: set[tuple[str, Identity]] = field(default_factory=set)
    reported: dict[str, int] = field(default_factory=dict)
    retained: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[tuple[str, tuple[str, ...]], set[tuple[str, ...]]] = field(default_factory=dict)

    def goes(self, row: Row) -> bool:
        return row.identity in self.delete.get(row.table, {})


class Planner:
    """Turns a trace into a plan; reads, and writes nothing but the person's shell."""

    def __init__(
        self, writer: Writer, params: Params, trace: RowTrace, key: str, *, now: dt.datetime
    ) -> None:
        self._writer = writer
        self._graph = writer.graph
        self._params = params
        self._trace = trace
        self._key = key
        self._now = now
        self._new_key: dict[int, Any] = {}  # place in the key → what stands there from now on
        self.plan = ErasePlan()
        self._said = self._graph.parts(key)

    def make(self, terms: Terms | None, *, mentioned: Mentioned | None = None) -> ErasePlan:
        """Decides.

        Args:
            terms: what names the person in texts about others.
            mentioned: rows of which that was seen a moment ago.

        Raises:
            ErasureRefused: a row that is to stay points at one that goes, and cannot be cut off.
        """
        for row in self._trace.rows():
            if self._trace.goes(row):
                self._delete(row)
            else:
                self.plan.keep.setdefault(row.table, {})[row.identity] = row
        for rows in self._trace.doomed.values():
            for row in rows.values():
                self._delete(row)
        if self._trace.new_key:
            for row in self._trace.subject_rows:
                self._new_key = self._shell(row)
        for rows in self.plan.keep.values():
            for row in rows.values():
                self._keep(row)
        for found in self._trace.neighbours.values():
            for row, edges in found.values():
                self._cut_neighbour(row, edges)
        self._shared()
        if terms is not None:
            for table in self._graph.tables:
                self._mentioned(table, terms, (mentioned or {}).get(table))
        return self.plan

    def _shell(self, row: Row) -> dict[int, Any]:
        """The key under which the person's row stays, by place; it reveals nothing."""
        places = changing_places(self._writer, self._params, row)
        facts = {place: self._graph.facts(row.table, self._graph.key[place]) for place in places}
        if not any(each.generated for each in facts.values()):
            old = {place: row.values[self._graph.key[place]] for place in places}
            return {place: surrogate(old[place], each.type) for place, each in facts.items()}
        erase = self._params.tables[row.table].erase  # the database alone gives such keys
        blanks = {
            column: self._blank(row.table, column)
            for column in (erase.columns if erase else ())
            if column not in self._graph.key
        }
        self._refuse_second_row(row, set(blanks))
        self.plan.moves.setdefault(row.table, {})[row.identity] = row
        self.plan.moved.add((row.table, row.identity))
        made = self._writer.copy(row, blanks).values
        return {place: made[self._graph.key[place]] for place in places}

    def _delete(self, row: Row) -> None:
        self.plan.delete.setdefault(row.table, {})[row.identity] = row
        for edge in self._graph.into[row.table]:
            values = self._graph.said(row.table, edge.references, row.values)
            if values is not None:
                self.plan.points.setdefault((row.table, edge.references), set()).add(values)

    def _change(self, row: Row, column: str, value: Any) -> None:
        if self._graph.facts(row.table, column).computed:
            raise ErasureRefused(
                f"{row.table}.{column} is made by the database of other columns, so it cannot be "
                f"blanked in a row that stays. Declare delete for {row.table}, or let a trigger "
                "fill a column of its own."
            )
        changes = self.plan.change.setdefault(row.table, {})
        changes.setdefault(row.identity, (row, {}))[1][column] = value

    def _keep(self, row: Row) -> None:
        """A row that stays: its declared columns blanked, its links to what goes cut."""
        erase = self._params.tables[row.table].erase
        if erase is None:
            raise ErasureRefused(f"tables.{row.table}: say what an erasure does to it (erase: …).")
        own_key = self._graph.key if row.table == self._graph.subject else ()
        for column in erase.columns:
            if column not in own_key:
                self._change(row, column, self._blank(row.table, column))
        subject_stays = bool(self.plan.keep.get(self._graph.subject))
        if self._new_key:
            self._follow(row)
        elif not subject_stays:
            for columns in self._naming(row):
                self._cut_from_key(row, columns)
        for edge in self._graph.out_of[row.table]:
            if self._points_at_deleted(row, edge) and not self._is_nulled(row, edge):
                self._cut(row, edge)
        self._move_if_its_key_changes(row)
        if erase.action == "retain":
            self._retained(row.table, row.table, row)

    def _move_if_its_key_changes(self, row: Row) -> None:
        changed = set(self._changes(row))
        referenced = any(
            edge.enforced and changed & set(edge.references) for edge in self._graph.into[row.table]
        )
        if referenced or changed & self._graph.tables[row.table].primary:
            self._refuse_second_row(row, changed)
            self.plan.moves.setdefault(row.table, {})[row.identity] = row

    def _retained(self, table: str, because: str, row: Row) -> None:
        erase = self._params.tables[because].erase
        if erase is None or erase.days is None:
            return
        since = self._trace.since(row) if row.table == because else None
        end = min(self._now.date(), since or self._now.date()) + dt.timedelta(days=erase.days)
        # The year's end, since a day would reveal the row's own.
        until = f"{end.year}-12-31"
        known = self.plan.retained.setdefault(
            table, {"table": table, "basis": erase.basis, "until": until, "count": 0}
        )
        known["until"] = max(known["until"], until)
        known["count"] += 1

    def _changes(self, row: Row) -> dict[str, Any]:
        return self.plan.change.get(row.table, {}).get(row.identity, (row, {}))[1]

    def _naming(self, row: Row) -> list[Columns]:
        """The row's columns that hold the person's key, those of each key together."""
        return [
            columns
            for columns in self._graph.carriers(row.table)
            if all(row.values.get(column) is not None for column in columns)
            and self._graph.carries(row.table, columns, row.values)
            and self._graph.said(row.table, columns, row.values) == self._said
        ]

    def _follow(self, row: Row) -> None:
        for columns in self._naming(row):
            for place, value in self._new_key.items():
                self._change(row, columns[place], value)

    def _points_at_deleted(self, row: Row, edge: Edge) -> bool:
        going = self.plan.points.get((edge.parent, edge.references), set())
        if not going or not edge.holds(row.values):
            return False
        return self._graph.said(row.table, edge.columns, row.values) in going

    def _is_nulled(self, row: Row, edge: Edge) -> bool:
        return any(self._changes(row).get(column, "") is None for column in edge.columns)

    def _is_cut(self, row: Row, edge: Edge) -> bool:
        changes = self._changes(row)
        return any(column in changes for column in edge.columns)

    def _cut_neighbour(self, row: Row, edges: Iterable[Edge]) -> None:
        self.plan.unlinked.setdefault(row.table, {})[row.identity] = row
        for edge in sorted(edges, key=lambda edge: edge.columns):
            if not any(self._graph.facts(row.table, c).nullable for c in edge.columns):
                self._follow(row)
            elif not self._is_cut(row, edge):
                self._cut(row, edge)
        self._move_if_its_key_changes(row)

    def _cut_from_key(self, row: Row, columns: Columns) -> None:
        """Blanks what leads to the person by their key."""
        erase = self._params.tables[row.table].erase
        given = set(erase.replace) if erase is not None else set()
        chosen = cut_columns(self._writer, row, columns, given)
        if chosen is None:
            edges = self._graph.out_of[row.table]
            raise self._bound(row, next(e for e in edges if set(columns) <= set(e.columns)))
        for column in chosen:
            self._change(row, column, self._blank(row.table, column))

    def _bound(self, row: Row, edge: Edge) -> ErasureRefused:
        erase = self._params.tables[row.table].erase
        action = erase.action if erase else ""
        how = {"retain": "retained", "anonymize": "anonymized"}.get(action, "kept")
        return ErasureRefused(
            f"{row.table} is {how}, but its {', '.join(edge.columns)} cannot be null and "
            f"points at a row of {edge.parent} that is deleted. Let the column be null, "
            f"declare anonymize for {edge.parent}, or delete for {row.table}."
        )

    def _cut(self, row: Row, edge: Edge) -> None:
        """Nulls as little of a link as makes it lead nowhere, and never a name of the person."""
        free = [c for c in edge.columns if self._graph.facts(row.table, c).nullable]
        others = {
            column
            for other in self._graph.out_of[row.table]
            if other != edge
            for column in other.columns
        }
        naming = [columns for columns in self._naming(row) if set(columns) <= set(edge.columns)]
        chosen: list[str] | None = [c for c in free if c not in others] or free
        if naming and (len(self._graph.key) > 1 or set(naming[0]) <= set(free)):
            chosen = cut_columns(self._writer, row, naming[0])
        elif naming and not self._new_key:
            chosen = None
        if not chosen:
            raise self._bound(row, edge)
        for column in chosen:
            self._change(row, column, None)

    def _blank(self, table: str, column: str) -> Any:
        facts = self._graph.facts(table, column)
        erase = self._params.tables[table].erase
        if erase is not None and column in erase.replace:
            return erase.replace[column]
        if facts.nullable:
            return None
        linked = any(column in edge.columns for edge in self._graph.out_of[table])
        untyped = self._graph.dialect == "sqlite"
        if not linked and (untyped or isinstance(facts.type, sa.String)):
            return f"{ERASED}-{secrets.token_hex(8)}" if facts.unique else ERASED
        raise ErasureRefused(
            f"{table}.{column} is to be blanked and cannot be null. Let it be null, or give a "
            f"value under erase.replace"
            + (f", or declare anonymize for {self._graph.subject}." if linked else ".")
        )

    def _refuse_second_row(self, row: Row, changed: set[str]) -> None:
        for column, facts in self._graph.tables[row.table].columns.items():
            if facts.unique and column not in changed and not facts.generated:
                raise ErasureRefused(
                    f"{row.table} keeps the person's row under another key, but its {column} is "
                    "unique and reveals whose it was. Add it to erase.columns."
                )

    def _shared(self) -> None:
        """Rows that the person's pointed at go with the last row that does."""
        left = [row for rows in self.plan.delete.values() for row in rows.values()]
        left += [row for rows in self.plan.keep.values() for row in rows.values()]
        while left:
            pointed: dict[tuple[str, Identity], Row] = {}
            for edge in self._graph.edges:
                if self._params.tables[edge.parent].about != "shared":
                    continue
                ended = [r for r in left if r.table == edge.child and self._stops_pointing(r, edge)]
                for row in self._writer.parents(edge, ended):
                    pointed[row.table, row.identity] = row
            left = [row for row in pointed.values() if self._give_up(row)]

    def _mentioned(self, table: str, terms: Terms, among: Sequence[Row] | None) -> None:
        """Texts that name the person in rows that are not theirs, or are theirs and stay."""
        declared = self._params.tables[table]
        columns = searched(declared.columns)
        if not columns:
            return
        for row, texts in mentions(self._writer, table, columns, terms, among=among):
            kept = row.identity in self.plan.keep.get(table, {})
            by_law = kept and declared.erase is not None and declared.erase.action == "retain"
            if self.plan.goes(row) or by_law:
                continue
            for column, text in texts.items():
                if column in self._changes(row):
                    continue  # blanked already
                if declared.columns[column].mentions == "redact":
                    self._change(row, column, terms.redact(text))
                    self.plan.redacted.add((table, row.identity))
                else:
                    where = f"{table}.{column}"
                    self.plan.reported[where] = self.plan.reported.get(where, 0) + 1

    def _stops_pointing(self, row: Row, edge: Edge) -> bool:
        return self.plan.goes(row) or self._is_cut(row, edge)

    def _give_up(self, row: Row) -> bool:
        """Deletes or blanks a shared row unless somebody still points at it; whether it goes."""
        erase = self._params.tables[row.table].erase
        if erase is None or self.plan.goes(row):
            return False
        remaining: list[Row] = []
        for edge in self._graph.into[row.table]:
            known = self.plan.delete.get(edge.child, {}), self.plan.change.get(edge.child, {})
            limit = len(known[0]) + len(known[1]) + 1  # one more than can have stopped
            pointing = self._writer.children(edge, [row], limit=limit)
            remaining += [each for each in pointing if not self._stops_pointing(each, edge)]
        if any(each.identity not in self.plan.keep.get(each.table, {}) for each in remaining):
            return False
        if remaining:
            self._retained(row.table, remaining[0].table, remaining[0])
            return False
        if erase.action == "delete":
            self._delete(row)
        elif erase.action == "anonymize":
            for column in erase.columns:
                self._change(row, column, self._blank(row.table, column))
        else:
            self._retained(row.table, row.table, row)
        return erase.action == "delete"
