"""One pass over a table's texts, however many people are looked for in it.

SQLite hands over many rows as one text, which is swept for everybody at once; rows are taken one by
one only around what was seen there. PostgreSQL chooses the rows itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from lethe.stores.search.automaton import AnyOf
from lethe.stores.source.writer import AT_ONCE, Row, Writer, chunks

_BYTES = 2**22  # of rows that are swept together; a few times that at most
_ROWS = (2_000, 50_000)  # at first, and at most
_LENGTH_LIMIT = 0  # SQLITE_LIMIT_LENGTH

Chosen = Callable[[sa.ColumnElement[str]], sa.ColumnElement[bool]]


def together(columns: Sequence[sa.ColumnElement[str]], dialect: str) -> sa.ColumnElement[str]:
    """All texts of a row as one."""
    if dialect == "postgresql":
        return sa.func.concat_ws(" ", *(sa.cast(column, sa.Text()) for column in columns))
    whole: sa.ColumnElement[str] = sa.func.ifnull(columns[0], "")
    for column in columns[1:]:
        whole = whole.concat(" ").concat(sa.func.ifnull(column, ""))
    return whole


def as_one(values: Iterable[Any]) -> str:
    """What was taken of a row as one text; bytes in a column for texts are one as well."""
    texts = (v.decode(errors="replace") if isinstance(v, bytes) else v for v in values)
    return " ".join(text for text in texts if isinstance(text, str))


def rows_with(
    writer: Writer,
    table: str,
    columns: Sequence[str],
    sought: AnyOf,
    may: Chosen,
    *,
    among: Sequence[Row] | None = None,
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows of which a text may have what is sought, and what is in the columns.

    Guarantees: at most one pass; none that has it is left out.

    Args:
        may: the condition by which a database chooses such rows by itself.
        among: rows that are read anew instead of all.
    """
    facts = writer.graph.tables[table]
    clause = writer.table(table)
    taken = writer.graph.linking(table)
    wanted = [
        *(clause.c[name].label(f"i{n}") for n, name in enumerate(facts.identity)),
        *(clause.c[name].label(f"v{n}") for n, name in enumerate(taken)),
        *(clause.c[name].label(f"t{n}") for n, name in enumerate(columns)),
    ]

    def made(found: sa.Row[Any]) -> tuple[Row, dict[str, Any]]:
        identity = tuple(found[: len(facts.identity)])
        values = found[len(facts.identity) : len(found) - len(columns)]
        texts = dict(zip(columns, found[len(found) - len(columns) :], strict=True))
        return Row(table, identity, dict(zip(taken, values, strict=True))), texts

    if among is not None:
        for some in chunks(among, AT_ONCE):
            statement = sa.select(*wanted).where(writer.these(clause, some))
            yield from map(made, writer.connection.execute(statement).all())
        return
    if writer.graph.has_row_numbers(table):
        number = clause.c[facts.identity[0]]
        for few in _stretches(writer, number, [clause.c[name] for name in columns], sought):
            rows = [made(row) for row in writer.connection.execute(sa.select(*wanted).where(few))]
            for place in sought.places([as_one(texts.values()) for _, texts in rows]):
                yield rows[place]
        return
    whole = together([clause.c[name] for name in columns], writer.graph.dialect)
    if writer.graph.dialect == "sqlite":
        # The limit keeps SQLite from putting the text together anew for every term.
        inner = sa.select(*wanted, whole.label("whole")).limit(-1).subquery()
        statement = sa.select(*(inner.c[each.name] for each in wanted)).where(may(inner.c.whole))
    else:
        statement = sa.select(*wanted).where(may(whole))
    with writer.connection.execute(statement, execution_options={"yield_per": 1000}) as result:
        for row in result:
            yield made(row)


def _stretches(
    writer: Writer,
    number: sa.ColumnElement[int],
    columns: Sequence[sa.ColumnElement[str]],
    sought: AnyOf,
) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions for the stretches of rows, in the order of their numbers, in which it may be.

    A column's texts are put together by themselves, which is much the fastest way out of SQLite.
    """
    raw: Any = writer.connection.connection.driver_connection
    longest = raw.getlimit(_LENGTH_LIMIT)
    put_together = [sa.func.group_concat(column, "\n") for column in columns]
    after: sa.ColumnElement[bool] = sa.true()
    rows = _ROWS[0]
    while True:
        end = sa.select(number).where(after).order_by(number).limit(1).offset(rows - 1)
        last = writer.connection.execute(end).scalar()  # none: these are the rest
        stretch = after if last is None else sa.and_(after, number <= last)
        # Bytes, since a text that is no UTF-8 is for whoever wrote it to correct, not to stop at.
        made, raw.text_factory = raw.text_factory, bytes
        raw.setlimit(_LENGTH_LIMIT, longest if rows == 1 else min(longest, 4 * _BYTES))
        try:
            found = writer.connection.execute(sa.select(*put_together).where(stretch)).one()
        except exc.DataError:  # too long to be one text
            if rows == 1:
                raise
            rows = max(1, rows // 16)
            continue
        finally:
            raw.text_factory = made
            raw.setlimit(_LENGTH_LIMIT, longest)
        content = b"\n".join(text for text in found if text)
        if sought.is_in(content):
            yield stretch
        if last is None:
            return
        after = number > last
        rows = max(1, min(_ROWS[1], 4 * rows, rows * _BYTES // (len(content) + 1)))
