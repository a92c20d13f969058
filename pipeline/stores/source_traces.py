"""What leads to one person in the source: to look for in every other store."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable

import sqlalchemy as sa

from pipeline.params import Params
from pipeline.records import Traces
from pipeline.stores.source_mentions import is_telling
from pipeline.stores.source_rewrite import readable
from pipeline.stores.source_walk import Walk
from pipeline.stores.source_writer import Row, Writer, chunks, open_writer
from pipeline.values import canonical_text

_ANY_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # nothing here depends on what is past
_AT_ONCE = 50  # values counted in one pass over a table

Said = tuple[tuple[str, ...], tuple[str, ...]]  # columns, and their values


def traces(params: Params, key: str, *, token: int | None = None) -> Traces:
    """The person's identifiers that are theirs alone, from their rows of every table.

    Guarantees: an identifier that anybody else's row has in the same column (a shared phone,
        a common name), or that is too short to be told from chance, is not among them.

    Raises:
        SourceUnavailable, Busy, SchemaMismatch, ErasureRefused: see `open_writer`.
    """
    with readable(params) as path, open_writer(params, writing=False, path=path) as writer:
        return Traces(key, token, tuple(_identifiers(writer, params, key)))


def _identifiers(writer: Writer, params: Params, key: str) -> list[str]:
    walk = Walk(writer, params, key, now=_ANY_TIME, also_identifiers=True).run()
    found: dict[str, None] = {}
    for table, rows in walk.mine.items():
        said = _said(params, table, rows.values())
        for some in chunks(list(said), _AT_ONCE):
            for each, anybodys in zip(some, _count(writer, table, some), strict=True):
                if anybodys <= said[each]:
                    found[" ".join(each[1])] = None
    return list(found)


def _said(params: Params, table: str, rows: Iterable[Row]) -> dict[Said, int]:
    """Telling values of the rows, and in how many of them each is."""
    columns = params.tables[table].columns
    named = tuple(name for name, column in columns.items() if column.names_people)
    single = [name for name, column in columns.items() if column.role == "identifier"]
    found: dict[Said, int] = defaultdict(int)
    for row in rows:
        for names in dict.fromkeys([named, *((name,) for name in single)]):
            values = [row.values.get(name) for name in names]
            if not names or any(value is None for value in values):
                continue
            texts = tuple(canonical_text(value) for value in values)
            if is_telling(" ".join(texts), names_people=names == named):
                found[names, texts] += 1
    return found


def _count(writer: Writer, table: str, said: Iterable[Said]) -> list[int]:
    """How many rows of anybody say each, in one pass."""
    clause = writer.table(table)
    counts = []
    for names, texts in said:
        alike = [
            sa.cast(clause.c[name], sa.Text()) == text
            for name, text in zip(names, texts, strict=True)
        ]
        counts.append(sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*alike), 1), else_=0)), 0))
    return [
        int(each)
        for each in writer.connection.execute(sa.select(*counts).select_from(clause)).one()
    ]
