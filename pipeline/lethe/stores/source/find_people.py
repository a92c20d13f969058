"""Finding people in the source by what identifies them: the key, or a declared identifier."""

from collections.abc import Iterable

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import SourceUnavailable
from lethe.data.partition import canonical_keys
from lethe.stores.source import queries
from lethe.stores.source.reader import Reader
from lethe.stores.source.writer import AT_ONCE, chunks


def subjects_by(params: Params, column: str, values: Iterable[str]) -> dict[str, list[str]]:
    """The keys of everybody to whom an identifier leads, by value; upper and lower case alike.

    Guarantees: one pass over the table for up to 500 values, the same whether they are
        anybody's or not.

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
        found: dict[str, set[str]] = {value: set() for value in values}
        for some in chunks(list(found), AT_ONCE):
            lowered = [sa.func.lower(value.strip()) for value in some]  # as the database does
            spelled = reader.row(
                sa.select(*(each.label(f"v{n}") for n, each in enumerate(lowered)))
            )
            alike: dict[str, list[str]] = {}
            for value, each in zip(some, spelled, strict=True):
                alike.setdefault(each, []).append(value)
            statement = (
                sa.select(key.label("subject"), identifier.label("said"))
                .select_from(joins.source)
                .where(identifier.in_(lowered))
                .distinct()
            )
            for frame in reader.stream(statement):
                frame = frame.assign(subject=canonical_keys(frame["subject"])).dropna()
                for subject, said in zip(frame["subject"], frame["said"], strict=True):
                    for value in alike[said]:
                        found[value].add(subject)
        return {value: sorted(keys) for value, keys in found.items()}
    finally:
        reader.close()
