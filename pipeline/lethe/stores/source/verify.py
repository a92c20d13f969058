"""A fresh look at the source for people: whatever was done before is not believed."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal

import pandas as pd
import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import LetheError
from lethe.core.outcomes import Outcome, Result, Traces
from lethe.core.text import spellings
from lethe.stores.search.statistics import in_statistics
from lethe.stores.source.catalogue import table_named
from lethe.stores.source.compact import Marks
from lethe.stores.source.connect import check_one_place
from lethe.stores.source.edge import Carrier, Columns
from lethe.stores.source.file_residue import residue
from lethe.stores.source.forms import Type, bare, key_forms
from lethe.stores.source.key_types import surely_found
from lethe.stores.source.mentions import Terms, may_name, mentions_of, terms_of
from lethe.stores.source.number_keys import plain_number
from lethe.stores.source.person_key import apart
from lethe.stores.source.queries import everybody, subjects_in
from lethe.stores.source.rewrite_files import readable
from lethe.stores.source.trace import gives_new_key
from lethe.stores.source.writer import Writer, open_writer

STORE = "source"
FREE_SPACE = "the file's free space"
_STATISTICS = "the statistics of "
_STAYS = (
    " Erase again; statistics that stay after that are of a table that Lethe cannot empty them of: "
    "let a superuser do it (DELETE FROM pg_statistic WHERE starelid = 'table'::regclass)."
)

_Found = tuple[int, str, int]  # whom (a place among those looked for), where, how many rows


def verify_source(params: Params, traces: Traces) -> Outcome:
    """Looks for one person: see `verify_sources`."""
    (outcome,) = verify_sources(params, [traces])
    return outcome


def verify_sources(params: Params, people: Sequence[Traces]) -> list[Outcome]:
    """Looks for people's keys and identifiers in every column of every table; one outcome each.

    By the connection that the pipeline reads by, at the place where they were erased.

    Guarantees: `absent` only if every table was looked through and nothing leads to the
        person any more, but for what the law keeps as declared, and deleted rows no longer
        wait to be overwritten; `reason` then names what lies outside of what is declared.
        Anything else is `present` or `unreachable`, with the tables and columns as the reason:
        the request stays open. However many people there are, each table and the file are
        gone through once.
    """
    found: dict[int, Counter[str]] = {number: Counter() for number in range(len(people))}
    try:
        marks = Marks(params.root)
        check_one_place(params)
        with readable(params) as path, open_writer(params, writing=False, path=path) as writer:
            marks.refuse_elsewhere(writer.place())
            whole = len(params.subject.keys) == 1
            named = (terms_of(each, whole_key=whole) for each in people)
            terms = {number: each for number, each in enumerate(named) if each is not None}
            for number, where, count in _look(writer, params, people, terms):
                found[number][where] += count
            unseen = {number: each for number, each in terms.items() if not found[number]}
            if residue(writer, params, unseen):
                marks.wait([FREE_SPACE])
            # Who is there is in the statistics too, and no gathering anew takes them out.
            gone = {number: each for number, each in enumerate(people) if not found[number]}
            for number, table, column in _known(writer, params, gone, terms):
                marks.wait([table])  # to be gathered anew
                found[number][f"{_STATISTICS}{table}.{column}"] += 1
            note = writer.graph.unseen_note
        waiting = marks.tables
    except LetheError as error:
        return [Outcome(STORE, Result.UNREACHABLE, reason=str(error)) for _ in people]
    outcomes = [_outcome(each, waiting, note) for each in found.values()]
    for traces, outcome in zip(people, outcomes, strict=True):
        if outcome.result == Result.ABSENT:
            marks.verified(traces.key)
    return outcomes


def _outcome(found: Counter[str], waiting: Sequence[str], note: str | None) -> Outcome:
    if found:
        listed = ", ".join(f"{where} ({count})" for where, count in sorted(found.items()))
        stays = _STAYS if any(where.startswith(_STATISTICS) for where in found) else ""
        return Outcome(
            STORE,
            Result.PRESENT,
            count=sum(found.values()),
            places=tuple(sorted(found)),
            reason=f"What leads to the person is still in {listed}.{stays}",
        )
    if waiting:
        return Outcome(
            STORE,
            Result.PRESENT,
            places=tuple(waiting),
            reason=f"Deleted data of {', '.join(waiting)} waits to be overwritten. Erase again.",
        )
    return Outcome(STORE, Result.ABSENT, reason=note)


def _look(
    writer: Writer, params: Params, people: Sequence[Traces], terms: Mapping[int, Terms]
) -> Iterator[_Found]:
    yield from _read(writer, params, people)
    keys = {traces.key for traces in people}
    for table, columns in sorted(writer.graph.carrying):
        if not _kept_key(params, table, columns):
            held = writer.holding_any(table, columns, keys)
            for number, traces in enumerate(people):
                rows = held.get(traces.key, ())
                if count := sum(writer.graph.carries(table, columns, r.values) for r in rows):
                    yield number, f"{table}.{', '.join(columns)}", count
    # A part that names the person by itself is looked for where keys are, too.
    whole = len(writer.graph.key) == 1
    carrying = {(table, name) for table, (name, *_) in writer.graph.carrying if whole}
    for table, facts in writer.graph.tables.items():
        texts = [
            column
            for column, each in facts.columns.items()
            if each.holds_text
            and not _kept_text(params, table, column)
            and (table, column) not in carrying
        ]
        if terms and texts:
            for _, named in mentions_of(writer, table, texts, terms):
                for number, where in named.items():
                    yield from ((number, f"{table}.{column}", 1) for column in where)
    if terms:
        yield from _look_at_copies(writer, terms)


def _read(writer: Writer, params: Params, people: Sequence[Traces]) -> Iterator[_Found]:
    """Who is there by the statement that the pipeline reads people by, which compares nothing:
    where the key has several columns, or a type by which its text may not be found."""
    if _kept_key(params, writer.graph.subject, writer.graph.key):
        return
    if surely_found(writer.connection, writer.graph, params):
        return
    there = standing_people(writer, params, {traces.key for traces in people})
    for number, traces in enumerate(people):
        if traces.key in there:
            yield number, writer.graph.subject, 1


def standing_people(writer: Writer, params: Params, keys: Collection[str]) -> set[str]:
    """Which of these keys the pipeline's own statement gives."""
    found: set[str] = set()
    options = {"yield_per": params.source.chunk_rows}
    with writer.connection.execute(everybody(params), execution_options=options) as result:
        for rows in result.partitions():
            frame = pd.DataFrame(list(map(tuple, rows)), columns=list(result.keys()), dtype=object)
            found |= set(subjects_in(frame).dropna()) & set(keys)
    return found


def _kept_key(params: Params, table: str, columns: Columns) -> bool:
    """Whether the law keeps the person's own key there."""
    subject = params.tables[params.subject.table].erase
    erase = params.tables[table].erase
    return (
        subject is not None
        and subject.action == "retain"
        and not gives_new_key(params)
        and erase is not None
        and erase.action == "retain"
        and not set(columns) & set(erase.columns)
    )


def _kept_text(params: Params, table: str, column: str) -> bool:
    erase = params.tables[table].erase
    return erase is not None and erase.action == "retain" and column not in erase.columns


def _known(
    writer: Writer, params: Params, people: Mapping[int, Traces], terms: Mapping[int, Terms]
) -> Iterator[tuple[int, str, str]]:
    """(who, table, column): PostgreSQL's planner remembers values of rows that are gone."""
    if writer.graph.dialect != "postgresql":
        return
    named = [
        (table, name)
        for table, declared in params.tables.items()
        for name, column in declared.columns.items()
        if column.role == "identifier" and not _kept_text(params, table, name)
    ]
    carrying = [each for each in writer.graph.carrying if not _kept_key(params, *each)]
    keys = [(table, column) for table, columns in carrying for column in columns]
    if len(writer.graph.key) > 1:
        yield from _known_parts(writer, carrying, people)
        named, keys = [*named, *keys], []  # what names the person by itself may be a part
    lines = {
        n: tuple(form for value in terms[n].values for form in spellings(value))
        if n in terms
        else ()
        for n in people
    }
    for places, said in (
        (_in_parts(writer, keys), {n: (traces.key,) for n, traces in people.items()}),
        (_in_parts(writer, named), lines),
    ):
        everybody = [value for values in said.values() for value in values]
        if in_statistics(writer.connection, places, everybody):  # seldom: then whose it is
            for number, values in said.items():
                theirs = [each for each in places if not _is_anothers(writer, *each, values)]
                for table, column in in_statistics(writer.connection, theirs, values):
                    yield number, table, column


def _known_parts(
    writer: Writer, carrying: Sequence[Carrier], people: Mapping[int, Traces]
) -> Iterator[tuple[int, str, str]]:
    """Parts of a key of several columns that the planner remembers, and that no row has any more:
    what somebody else has as well is theirs."""
    parts = {n: apart(traces.key, len(writer.graph.key)) for n, traces in people.items()}
    for place, key in enumerate(writer.graph.key):
        declared = writer.graph.facts(writer.graph.subject, key).type
        forms = {own[place]: _in_stats(own[place], declared) for own in parts.values() if own}
        columns = [(table, each[place]) for table, each in carrying]
        anybodys = [form for own in parts.values() if own for form in forms[own[place]]]
        for table, column in in_statistics(writer.connection, _in_parts(writer, columns), anybodys):
            whole = writer.graph.descent.table_of.get(table, table)
            for number, own in parts.items():
                known = own and in_statistics(
                    writer.connection, [(table, column)], forms[own[place]]
                )
                if own and known and not _has(writer, whole, column, own[place]):
                    yield number, table, column


def _in_stats(part: str, declared: Type) -> tuple[str, ...]:
    """How the planner may have a part written: a decimal with all its places, a moment with none
    that say nothing."""
    within = bare(declared)
    if isinstance(within, sa.Numeric) and within.scale and plain_number(part) is not None:
        return tuple(dict.fromkeys((part, f"{Decimal(part):.{within.scale}f}")))
    moment = part.replace("T", " ")
    shorter = moment.rstrip("0") if "." in moment else moment
    return tuple(dict.fromkeys((part, part.rstrip(" "), moment, shorter)))


def _has(writer: Writer, table: str, column: str, part: str) -> bool:
    forms = key_forms(part, writer.graph.facts(table, column).type, writer.graph.dialect)
    return bool(forms) and bool(writer.find(table, (column,), [(f,) for f in forms or ()], limit=1))


def _is_anothers(writer: Writer, table: str, column: str, keys: Sequence[str]) -> bool:
    """Whether a key, of which no row as a person's is left, is that of something else there."""
    table = writer.graph.descent.table_of.get(table, table)
    whens = writer.graph.carrying.get((table, (column,)), ((),))
    return () not in whens and all(writer.holding(table, (column,), key, limit=1) for key in keys)


def _in_parts(writer: Writer, columns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The planner knows of each partition's columns by itself, whatever is declared."""
    parts = writer.graph.descent.partitions
    of_parts = ((part, column) for table, column in columns for part in parts(table))
    return list(dict.fromkeys([*columns, *of_parts]))


def _look_at_copies(writer: Writer, terms: Mapping[int, Terms]) -> Iterator[_Found]:
    """Materialized views keep rows until they are refreshed."""
    likes = dict.fromkeys(like for each in terms.values() for like in each.likes)
    for name in writer.graph.copies:
        copy = table_named(name, writer.graph.dialect).alias("copy")
        row = sa.cast(sa.column("copy"), sa.Text())  # a table's name stands for its whole row
        condition = may_name(row, likes, writer.graph.dialect)
        statement = sa.select(row).select_from(copy).where(condition)
        for (text,) in writer.connection.execute(statement):
            yield from ((number, name, 1) for number, each in terms.items() if each.names_in(text))
