"""Finding people in the source by what identifies them: the key, or a declared identifier.

The database chooses the rows that may say it; `lethe.core.text.folded` decides."""

from collections.abc import Iterable

import sqlalchemy as sa

from lethe.config.params import Params
from lethe.core.errors import SourceUnavailable
from lethe.core.text import folded
from lethe.data.partition import canonical_keys
from lethe.stores.source import queries
from lethe.stores.source.alike import may_be_one_of
from lethe.stores.source.reader import Reader
from lethe.stores.source.writer import AT_ONCE, chunks


def subjects_by(params: Params, column: str, values: Iterable[str]) -> dict[str, list[str]]:
    """The keys of everybody to whom an identifier leads, by value, however it is spelled.

    Guarantees: one pass over the table for up to 500 values, the same whether they are
        anybody's or not.

    Args:
        column: `table.column` of a declared identifier, or of the subject's key.

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
        identifier = sa.cast(joins.base.c[name], sa.Text)
        found: dict[str, set[str]] = {value: set() for value in values}
        for some in chunks(list(found), AT_ONCE):
            alike: dict[str, list[str]] = {}
            for value in some:
                alike.setdefault(folded(value), []).append(value)
            statement = (
                sa.select(key.label("subject"), identifier.label("said"))
                .select_from(joins.source)
                .where(may_be_one_of(identifier, alike, reader.dialect))
                .distinct()
            )
            for frame in reader.stream(statement):
                frame = frame.assign(subject=canonical_keys(frame["subject"])).dropna()
                for subject, said in zip(frame["subject"], frame["said"], strict=True):
                    for value in alike.get(folded(str(said)), ()):
                        found[value].add(subject)
        return {value: sorted(keys) for value, keys in found.items()}
    finally:
        reader.close()


def keys_spelled(params: Params, keys: Iterable[str]) -> dict[str, list[str]]:
    """The subject keys that each of these may mean: itself if somebody or nobody has it, or else
    all those that are spelled alike.

    Raises:
        SourceUnavailable: the source does not answer.
    """
    asked = list(dict.fromkeys(keys))
    # A number has one spelling; who has it need not be looked up.
    words = [key for key in asked if not (key.isascii() and key.removeprefix("-").isdigit())]
    found = {key: [key] for key in asked if key not in words}
    if words:
        column = f"{params.subject.table}.{params.subject.key}"
        for key, alike in subjects_by(params, column, words).items():
            found[key] = [key] if key in alike else alike or [key]
    return found
