"""Erases a person from the source: deleted, anonymized, or kept where the law asks for it."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lethe.config.params import Params
from lethe.core.errors import Busy, DiskFull, ErasureRefused, SourceUnavailable
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.stores.source.compact import REMAINS, Marks, compact_source
from lethe.stores.source.connect import reading_place, refuse_other_place
from lethe.stores.source.delete_order import in_order
from lethe.stores.source.erase_plan import ErasePlan, Planner
from lethe.stores.source.graph import Graph
from lethe.stores.source.key_types import surely_found
from lethe.stores.source.mentions import Mentioned, terms_of
from lethe.stores.source.rewrite_files import Folder, folder_of
from lethe.stores.source.trace import RowTrace
from lethe.stores.source.verify import standing_people
from lethe.stores.source.writer import Row, Writer, open_writer

STORE = "source"


def erase_from_source(
    params: Params,
    traces: Traces,
    *,
    now: dt.datetime,
    compact: bool = True,
    mentioned: Mentioned | None = None,
) -> Outcome:
    """Takes one person out of the source, as the tables' `erase` declares.

    Follows every foreign key and declared link from the person's key; one transaction, with
    the rows locked. Then the space of what was deleted is overwritten. Calling it again finds
    nothing; after a crash it goes on.

    Guarantees: no row that is declared to stay is deleted, by a cascade of the database
        neither; a row about somebody else changes only by a cut link or a declared redaction.

    Args:
        compact: False leaves the overwriting to one `compact_source` after several people.
        mentioned: what `find_mentions` saw of several people; without it all texts are looked at.

    Returns:
        `places` are `table: rows what was done`. A source that is silent, read-only or held
        by somebody else is `unreachable`; space that cannot be overwritten yet is `present`.

    Raises:
        ErasureRefused, SchemaMismatch: it cannot be done as declared; nothing was changed.
    """

    def planned(writer: Writer) -> ErasePlan:
        trace = RowTrace(writer, params, traces.key, now=now).run()
        planner = Planner(writer, params, trace, traces.key, now=now)
        _refuse_unfound(writer, params, trace, traces)
        terms = terms_of(traces, whole_key=len(params.subject.keys) == 1)
        return planner.make(terms, mentioned=mentioned)

    return carry_out(params, planned, about=traces.key, compact=compact)


def _refuse_unfound(writer: Writer, params: Params, trace: RowTrace, traces: Traces) -> None:
    """Where the pipeline reads a person whom the writer does not find, nothing was erased.

    Raises:
        SourceUnavailable: so it is.
    """
    if trace.subject_rows or surely_found(writer.connection, writer.graph, params):
        return
    if standing_people(writer, params, {traces.key}):
        raise SourceUnavailable(
            f"A person is in {params.subject.table} and is not found there by the columns "
            f"{params.subject.called}: the source compares their values otherwise than it shows "
            "them. Nothing was changed. Give the columns plain types (text, integer, date)."
        )


def carry_out(
    params: Params, planned: Callable[[Writer], ErasePlan], *, about: str, compact: bool
) -> Outcome:
    """Plans and does it in one transaction, then overwrites what was deleted.

    Args:
        planned: decides by the writing connection.
        about: what a call after a crash knows this one by.
        compact: see `erase_from_source`; so is all else.
    """
    marks = Marks(params.root)
    try:
        with folder_of(params) as folder:
            path = folder.copy if folder else None
            read = reading_place(params)
            with open_writer(params, writing=True, path=path) as writer:
                place = writer.place()
                refuse_other_place(read, place, what="is erased from")
                marks.refuse_elsewhere(place)
                plan = planned(writer)
                done, changed = _erase(writer, plan)
                if done.count:
                    marks.add(about, done, [] if folder else changed, place=place)
            if folder is not None:
                _rewrite(folder, plan, writer.graph)
    except (SourceUnavailable, Busy, DiskFull) as error:
        return Outcome(STORE, Result.UNREACHABLE, reason=str(error))
    if not done.count:
        done = marks.done(about) or done  # of a call that was killed after its transaction
    if not compact:
        return done
    try:
        compact_source(params, marks=marks)
    except (SourceUnavailable, Busy, DiskFull) as error:
        return replace(done, result=Result.PRESENT, reason=str(error))
    return done


def _rewrite(folder: Folder, plan: ErasePlan, graph: Graph) -> None:
    """The files of what changed; the person's own row last, since it leads to all others."""

    def steps(table: str) -> int:
        return max((1 + steps(edge.parent) for edge in graph.own.get(table, ())), default=0)

    def place(table: str) -> tuple[bool, int]:
        return table == graph.subject, -steps(table)

    for table in sorted({*plan.delete, *plan.change}, key=place):
        folder.rewrite(
            table,
            {identity[0] for identity in plan.delete.get(table, {})},
            {identity[0]: values for identity, (_, values) in plan.change.get(table, {}).items()},
        )


def _erase(writer: Writer, plan: ErasePlan) -> tuple[Outcome, list[str]]:
    """Does it; what was done, and the tables that it changed."""
    counts: Counter[tuple[str, str]] = Counter()
    _carry_out(writer, plan, counts)
    if counts:
        writer.refresh_copies()
    _check_kept(writer, plan)
    remains = REMAINS if counts and writer.graph.dialect == "postgresql" else None
    outcome = Outcome(
        STORE,
        Result.ERASED if counts else Result.ABSENT,
        count=sum(counts.values()),
        places=tuple(f"{table}: {n} {what}" for (table, what), n in sorted(counts.items())),
        reason=" ".join(filter(None, [_reported(plan), remains, writer.graph.unseen_note])) or None,
        retained=tuple(plan.retained[table] for table in sorted(plan.retained)),
    )
    return outcome, sorted({table for table, _ in counts})


def _reported(plan: ErasePlan) -> str | None:
    if not plan.reported:
        return None
    listed = ", ".join(f"{where} ({count})" for where, count in sorted(plan.reported.items()))
    return f"Texts about others name the person and are declared to be reported: {listed}."


def _carry_out(writer: Writer, plan: ErasePlan, counts: Counter[tuple[str, str]]) -> None:
    """Copies under new keys, then changes, then deletes what nothing points at any more."""
    for table in _parents_first(writer, plan):
        for identity, row in plan.moves[table].items():
            if (table, identity) not in plan.moved:
                writer.copy(row, plan.change[table][identity][1])
            counts[table, "anonymized"] += 1
    for table, changed in plan.change.items():
        alike: dict[tuple[tuple[str, Any], ...], list[Row]] = defaultdict(list)
        for identity, (row, changes) in changed.items():
            if identity not in plan.moves.get(table, {}):
                alike[tuple(sorted(changes.items()))].append(row)
        for values, rows in alike.items():
            writer.update(table, rows, dict(values))
            for row in rows:
                counts[table, _what(plan, row)] += 1
    going = {
        table: [*plan.delete.get(table, {}).values(), *plan.moves.get(table, {}).values()]
        for table in {*plan.delete, *plan.moves}
    }
    for step in in_order(writer.graph, going):
        if step.deferred:
            writer.defer()
        if step.nulls:
            writer.update(step.table, step.rows, dict.fromkeys(step.nulls))
        else:
            writer.delete(step.table, step.rows)
    for table, deleted in plan.delete.items():
        counts[table, "deleted"] += len(deleted)


def _what(plan: ErasePlan, row: Row) -> str:
    if row.identity in plan.unlinked.get(row.table, {}):
        return "unlinked"
    return "redacted" if (row.table, row.identity) in plan.redacted else "anonymized"


def _parents_first(writer: Writer, plan: ErasePlan) -> list[str]:
    """Tables of rows that move, each after those that it points at."""
    ordered: list[str] = []

    def visit(table: str, seen: frozenset[str]) -> None:
        for edge in writer.graph.out_of[table]:
            if edge.parent in plan.moves and edge.parent not in seen:
                visit(edge.parent, seen | {edge.parent})
        if table not in ordered:
            ordered.append(table)

    for table in plan.moves:
        visit(table, frozenset({table}))
    return ordered


def _check_kept(writer: Writer, plan: ErasePlan) -> None:
    """A last look before the transaction ends: a trigger may delete what no plan did."""
    for kept in (plan.keep, plan.unlinked):
        for table, known in kept.items():
            moved = plan.moves.get(table, {})
            staying = [row for identity, row in known.items() if identity not in moved]
            gone = len(staying) - writer.present(table, staying)
            if gone:
                raise ErasureRefused(
                    f"{gone} rows of {table}, which were to stay, would have been deleted by a "
                    "trigger or a cascade of the source. Nothing was changed; correct the source's "
                    f"rules, or declare delete for {table}."
                )
    for table, rows in plan.delete.items():
        left = writer.present(table, list(rows.values()))
        if left:
            raise ErasureRefused(
                f"{left} rows of {table} could not be deleted: a trigger or a rule of the source "
                "keeps them. Nothing was changed."
            )
