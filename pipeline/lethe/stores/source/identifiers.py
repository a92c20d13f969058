"""What leads to people in the source: to look for in every other store."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.outcomes import Traces
from lethe.core.text import folded
from lethe.core.values import canonical_text
from lethe.stores.source.alike import may_have_one_of
from lethe.stores.source.mentions import is_identifying
from lethe.stores.source.rewrite_files import readable
from lethe.stores.source.trace import RowTrace
from lethe.stores.source.writer import AT_ONCE, Row, Writer, open_writer

_ANY_TIME = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # nothing here depends on what is past

Columns = tuple[str, ...]
Texts = tuple[str, ...]  # of those columns, in one row
Said = tuple[Columns, Texts]


def traces(params: Params, key: str, *, token: int | None = None) -> Traces:
    """What leads to one person: see `traces_of`."""
    (found,) = traces_of(params, [(key, token)])
    return found


def traces_of(params: Params, people: Sequence[tuple[str, int | None]]) -> list[Traces]:
    """Of each (key, token) the person's identifiers that are theirs alone, from their rows of
    every table.

    Guarantees: an identifier that anybody else's row has in the same column (a shared phone,
        a common name), or that is so short that it can stand there by chance, is not
        among them. One pass over a table for up to 500 different values of a column.

    Raises:
        SourceUnavailable, Busy, SchemaMismatch, ErasureRefused: see `open_writer`.
    """
    with readable(params) as path, open_writer(params, writing=False, path=path) as writer:
        found = _identifiers(writer, params, {key for key, _ in people})
    return [Traces(key, token, tuple(found[key])) for key, token in people]


def _identifiers(writer: Writer, params: Params, keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    said: dict[str, dict[str, dict[Said, int]]] = defaultdict(dict)  # table → key → in how many
    for key in keys:
        found[key] = {}
        trace = RowTrace(writer, params, key, now=_ANY_TIME, also_identifiers=True).run()
        for table, rows in trace.mine.items():
            said[table][key] = _said(params, table, rows.values())
    for table, theirs in said.items():
        anybodys = _count(writer, table, {each for own in theirs.values() for each in own})
        for key, own in theirs.items():
            for each, rows_of_theirs in own.items():
                if anybodys[each] == rows_of_theirs:  # fewer: it could not be counted
                    found[key][" ".join(each[1])] = None
    return {key: list(values) for key, values in found.items()}


def _said(params: Params, table: str, rows: Iterable[Row]) -> dict[Said, int]:
    """Identifying values of the rows, and in how many of them each is."""
    columns = params.tables[table].columns
    named = tuple(name for name, column in columns.items() if column.names_people)
    single = [name for name, column in columns.items() if column.role == "identifier"]
    if table == params.subject.table and len(params.subject.keys) > 1:
        single += params.subject.keys  # a part that names the person by itself
    found: dict[Said, int] = defaultdict(int)
    for row in rows:
        for names in dict.fromkeys([named, *((name,) for name in single)]):
            values = [row.values.get(name) for name in names]
            if not names or any(value is None for value in values):
                continue
            texts = tuple(canonical_text(value) for value in values)
            if is_identifying(" ".join(texts), names_people=names == named):
                found[names, texts] += 1
    return found


def _count(writer: Writer, table: str, said: Iterable[Said]) -> Counter[Said]:
    """In how many rows of anybody each is, however it is spelled there."""
    wanted: dict[Columns, list[Texts]] = defaultdict(list)
    for names, texts in sorted(said):
        wanted[names].append(texts)
    clause = writer.table(table)
    taken = sorted({name for names in wanted for name in names})
    types = {name: writer.graph.facts(table, name).type for name in taken}
    found: Counter[Said] = Counter()
    for start in range(0, max(map(len, wanted.values()), default=0), AT_ONCE):
        now: dict[Columns, dict[Texts, list[Texts]]] = {}
        for names, some in wanted.items():
            for texts in some[start : start + AT_ONCE]:
                alike = now.setdefault(names, {}).setdefault(tuple(map(folded, texts)), [])
                alike.append(texts)
        anybodys = [
            sa.and_(
                *(
                    may_have_one_of(
                        clause.c[name],
                        {each[n] for each in texts},
                        types[name],
                        writer.graph.dialect,
                    )
                    for n, name in enumerate(names)
                )
            )
            for names, texts in now.items()
        ]
        labelled = [clause.c[name].label(name) for name in taken]
        statement = sa.select(*labelled).where(sa.or_(*anybodys))
        with writer.connection.execute(statement, execution_options={"yield_per": 1000}) as rows:
            for row in rows:
                found.update(_said_by(dict(zip(taken, row, strict=True)), now))
    return found


def _said_by(
    values: Mapping[str, Any], asked: Mapping[Columns, Mapping[Texts, list[Texts]]]
) -> Iterator[Said]:
    """What is asked for that one row says, by columns and by folded texts."""
    for names, alike in asked.items():
        if all(values[name] is not None for name in names):
            its = tuple(folded(canonical_text(values[name])) for name in names)
            yield from ((names, texts) for texts in alike.get(its, ()))
