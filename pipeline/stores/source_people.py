"""Finding people in the source by what identifies them: the key, or a declared identifier."""

from collections.abc import Iterable

import sqlalchemy as sa

from pipeline.errors import SourceUnavailable
from pipeline.params import Params
from pipeline.partition import canonical_keys
from pipeline.stores import source_queries as queries
from pipeline.stores.source_connection import Reader


def subjects_by(params: Params, column: str, values: Iterable[str]) -> dict[str, list[str]]:
    """The keys of everybody to whom an identifier leads, by value; upper and lower case alike.

    Guarantees: one statement per value, the same whether it is anybody's or not.

    Args:
        column: `table.column` of a declared identifier.

    Raises:
        SourceUnavailable: the source does not answer, or no chain of links leads from the
            table to the subject's.
    """
    table, _, name = column.rpartition(".")
    path = params.path(table, params.subject.table)
    if path is None:
        raise SourceUnavailable(
            f"No chain of links leads from {table!r} to {params.subject.table!r}: nobody can be "
            f"found by {column}. Declare its links."
        )
    reader = Reader(params)
    try:
        joins = queries.Joins(params, table, dialect=reader.dialect, as_of=None)
        key = joins.reach(path, outer=False).c[params.subject.key]
        identifier = sa.func.lower(sa.func.trim(sa.cast(joins.base.c[name], sa.Text)))
        found: dict[str, list[str]] = {}
        for value in values:
            statement = (
                sa.select(key.label("subject"))
                .select_from(joins.source)
                .where(identifier == sa.func.lower(value.strip()))
                .distinct()
            )
            keys: list[str] = []
            for frame in reader.stream(statement):
                keys += canonical_keys(frame["subject"]).dropna().tolist()
            found[value] = sorted(set(keys))
        return found
    finally:
        reader.close()
