"""A fresh look at the source for one person: whatever was done before is not believed."""

from collections import Counter
from collections.abc import Iterator

import sqlalchemy as sa

from pipeline.errors import LetheError
from pipeline.params import Params
from pipeline.records import Outcome, Traces
from pipeline.stores.source_bytes import residue
from pipeline.stores.source_compaction import Marks
from pipeline.stores.source_mentions import Terms, may_name, mentions, terms_of
from pipeline.stores.source_rewrite import readable
from pipeline.stores.source_walk import gives_new_key
from pipeline.stores.source_writer import Writer, open_writer

STORE = "source"
FREE_SPACE = "the file's free space"


def verify_source(params: Params, traces: Traces) -> Outcome:
    """Looks for the person's key and identifiers in every column of every table.

    Guarantees: `nothing found` only if every table was looked through and nothing leads to
        the person any more, but for what the law keeps as declared, and deleted rows no
        longer wait to be overwritten. Anything else is `not attempted`, with the tables and
        columns as the reason: the request stays open.
    """
    try:
        marks = Marks()
        with readable(params) as path, open_writer(params, writing=False, path=path) as writer:
            terms = terms_of(traces)
            found = Counter(dict(_look(writer, params, traces.key, terms)))
            if terms is not None and not found and residue(writer, params, terms):
                marks.wait([FREE_SPACE])
        waiting = marks.tables
    except LetheError as error:
        return Outcome(STORE, "not attempted", reason=str(error))
    if found:
        listed = ", ".join(f"{where} ({count})" for where, count in sorted(found.items()))
        return Outcome(
            STORE,
            "not attempted",
            count=sum(found.values()),
            places=tuple(sorted(found)),
            reason=f"What leads to the person is still in {listed}.",
        )
    if waiting:
        return Outcome(
            STORE,
            "not attempted",
            places=tuple(waiting),
            reason=f"Deleted data of {', '.join(waiting)} waits to be overwritten. Erase again.",
        )
    marks.verified(traces.key)
    return Outcome(STORE, "nothing found")


def _look(
    writer: Writer, params: Params, key: str, terms: Terms | None
) -> Iterator[tuple[str, int]]:
    for table, column in sorted(writer.graph.carrying):
        if not _kept_key(params, table, column):
            rows = writer.holding(table, column, key)
            if rows:
                yield f"{table}.{column}", len(rows)
    for table, facts in writer.graph.tables.items():
        texts = [
            column
            for column, each in facts.columns.items()
            if each.holds_text
            and not _kept_text(params, table, column)
            and (table, column) not in writer.graph.carrying
        ]
        if terms is not None and texts:
            counted: Counter[str] = Counter()
            for _, named in mentions(writer, table, texts, terms):
                counted.update(f"{table}.{column}" for column in named)
            yield from counted.items()
    if terms is not None:
        yield from _look_at_copies(writer, terms)


def _kept_key(params: Params, table: str, column: str) -> bool:
    """Whether the law keeps the person's own key there."""
    subject = params.tables[params.subject.table].erase
    erase = params.tables[table].erase
    return (
        subject is not None
        and subject.action == "retain"
        and not gives_new_key(params)
        and erase is not None
        and erase.action == "retain"
        and column not in erase.columns
    )


def _kept_text(params: Params, table: str, column: str) -> bool:
    erase = params.tables[table].erase
    return erase is not None and erase.action == "retain" and column not in erase.columns


def _look_at_copies(writer: Writer, terms: Terms) -> Iterator[tuple[str, int]]:
    """Materialized views keep rows until they are refreshed."""
    for name in writer.graph.copies:
        row = sa.cast(sa.column(name), sa.Text())  # a table's name stands for its whole row
        condition = may_name(row, terms, writer.graph.dialect)
        statement = sa.select(row).select_from(sa.table(name)).where(condition)
        count = sum(terms.names_in(text) for (text,) in writer.connection.execute(statement))
        if count:
            yield name, count
